"""Notice while training that the image attack has become too weak, and give it more steps."""

from __future__ import annotations

import warnings
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor
from transformers import TrainerCallback, TrainerControl, TrainerState

from ..attacks import factory
from ..attacks.engine import climb

if TYPE_CHECKING:
    from accelerate import Accelerator

    from ..config import MMCoAConfig
    from .attacker import Attacker
    from .batch import Batch

NUM_IMAGES = 16
NUM_STEPS = 10
LARGEST_GAP = 0.25
"""Share of images above which the attack counts as too weak: of the first 16 of each process, five or more."""
LOGGED = "image_attack_steps"


class CheckedTrainer(Protocol):
    """The part of an `MMCoATrainer` that the check reads."""

    args: MMCoAConfig
    attacker: Attacker
    accelerator: Accelerator
    state: TrainerState

    def log(self, logs: dict[str, float]) -> None:
        """Log numbers; they stay in `state.log_history`, and so in checkpoints."""


class AttackCheck(TrainerCallback):
    """Compare the image attack with PGD-10 every `attack_check_every` steps, on the first 16 images of each process.

    A model that is trained on one or a few long steps can learn to resist these alone, and falls to a longer attack:
    catastrophic overfitting (arXiv:2001.03994). If the longer attack defeats over a quarter of the images more, the
    training attack gets twice as many steps of half the length, until it has as many as PGD-10: training on PGD again
    brings the robustness back (arXiv:2006.03089). A run that resumes goes on with them.

    Args:
        trainer: whose attack is compared.
    """

    def __init__(self, trainer: CheckedTrainer) -> None:
        self.trainer = trainer

    def on_train_begin(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Give the attack the steps that it had where a resumed run stopped; a new run begins with its own."""
        attacker = self.trainer.attacker
        logged = [entry[LOGGED] for entry in state.log_history if LOGGED in entry]
        factor = max(1, round(logged[-1] / self.trainer.args.attack_steps[0])) if logged else 1
        if factor != attacker.step_factor:
            attacker.step_factor = factor
            attacker.start()

    def __call__(self, batch: Batch, adv_images: Tensor | None) -> dict[str, Tensor]:
        """Compare the attacks if it is time, and lengthen the training's where it is too weak.

        Args:
            batch: the clean batch.
            adv_images: what the training attack made of it, (batch, 3, height, width); None if it attacks no image.

        Returns:
            The figure `image_attack_gap`, as its sum and count, (2,); empty in all other steps.

        Warns:
            UserWarning: if the attack is too weak.
        """
        trainer, attacker = self.trainer, self.trainer.attacker
        every = trainer.args.attack_check_every
        if adv_images is None or not every or attacker.step % every or attacker.batch_of_step:
            return {}
        figure = self._gap(batch, adv_images)
        more, images = trainer.accelerator.reduce(figure, reduction="sum").tolist()
        if more > LARGEST_GAP * images:
            self._lengthen(more / images)
        return {"image_attack_gap": figure}

    @torch.no_grad()
    def _gap(self, batch: Batch, adv_images: Tensor) -> Tensor:
        """Return how many images more PGD-10 misleads than the training attack, and of how many, (2,)."""
        attacker = self.trainer.attacker
        victim, images = attacker.victim(batch), batch.images[:NUM_IMAGES]
        rows = torch.arange(len(images), device=images.device)
        settings = attacker.image_settings
        length = 2.5 * settings.pixel_radius / NUM_STEPS
        pgd = replace(factory.pgd(settings), num_steps=NUM_STEPS, step_size=length, random_start=True)
        longer, _ = climb(pgd, images, victim, attacker.generator("check"))
        _, before = victim(adv_images[: len(images)], rows)
        _, after = victim(longer, rows)
        assert before is not None and after is not None  # of an attack on a class
        return torch.stack([before.sum() - after.sum(), before.new_tensor(len(images), dtype=torch.long)]).float()

    def _lengthen(self, gap: float) -> None:
        trainer, attacker = self.trainer, self.trainer.attacker
        steps = attacker.image_settings.num_steps
        found = (
            f"step {attacker.step}: PGD-{NUM_STEPS} misleads {gap:.0%} of the images more than the training's attack, "
            "which has become too weak (catastrophic overfitting)."
        )
        if attacker.builds_image_attack and steps < NUM_STEPS:
            attacker.step_factor *= 2
            attacker.start()
            trainer.log({LOGGED: float(2 * steps)})
            then = f"It takes {2 * steps} steps of half the length from now on."
        else:
            then = "Give it more or shorter steps, or lower `learning_rate`."
        warnings.warn(f"{found} {then}", UserWarning, stacklevel=2)
