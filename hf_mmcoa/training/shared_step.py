"""One attack step on images whose gradient comes from the loss's own forward: `attack_schedule="shared"`.

PGD encodes the images once more for each of its steps, and forgets what it computed. Where the loss reads clean images,
their forward is there already, and its backward to the pixels is all that one step needs. With noise on the clean
images the step is N-FGSM's (arXiv:2202.01181): a single step from the image itself learns to resist single steps.
Counted in passes of one image, a training step costs 7, with PGD-10 it costs 26 (docs/defences.md).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor

from ..attacks.contracts import ImageAttack
from ..attacks.pgd import PGD
from ..config import MMCoAConfig
from ..objectives import Objective
from ..objectives.unread import unfit_to_share
from .batch import Batch
from .victims import class_loss

NOISE = 0.5
"""Radius of the noise on the clean images in units of epsilon. The paper's is 2, under which texts lose robustness
here. Chosen on validation images and words (docs/results/exploration.md)."""


class SharedStep:
    """Attack a batch while the loss's forward runs: `encoding.joint_forward` encodes `start`, then calls this.

    Args:
        batch: what is attacked.
        pgd: its radius and norm are used; noise is added if it starts at random.
        scale: factor of the cosines, scalar.
        pixel_values: maps images to the model's input, differentiably.
        generator: source of the noise, on the images' device.
    """

    def __init__(
        self,
        batch: Batch,
        pgd: PGD,
        scale: Tensor,
        pixel_values: Callable[[Tensor], Tensor],
        generator: torch.Generator,
    ) -> None:
        self._batch, self._scale, self.pixel_values = batch, scale.detach(), pixel_values
        self._pgd = replace(pgd, step_size=pgd.epsilon)
        noise = replace(pgd, epsilon=noise_radius(pgd), num_steps=0)
        self.start = noise.climb(batch.images, torch.zeros_like, generator)  # takes no step
        """The clean images of the loss, with noise, (batch, 3, height, width)."""
        self.images = self.start
        """The adversarial images, once the forward has run; within (1 + `NOISE`) epsilon of the clean ones."""

    def clean_pixel_values(self) -> Tensor:
        """Return the model's input of `start`, with a graph back to it, (batch, 3, size, size)."""
        with torch.enable_grad():
            self.start.requires_grad_()
            return self.pixel_values(self.start)

    def __call__(self, features: Tensor) -> Tensor:
        """Take the step.

        Args:
            features: un-normalised features of `start`, with their graph, (batch, dim).

        Returns:
            The model's input of the adversarial images, (batch, 3, size, size).
        """
        with torch.enable_grad(), torch.autocast(features.device.type, enabled=False):
            rows = torch.arange(len(features), device=features.device)
            loss, _ = class_loss(F.normalize(features.float(), dim=-1), self._batch, rows, self._scale)
            (grad,) = torch.autograd.grad(loss.sum(), self.start, retain_graph=True)
        self.start = self.start.detach()
        self.images = (self.start + self._pgd.step(grad)).clamp(0, 1)
        return self.pixel_values(self.images)


def noise_radius(pgd: PGD) -> float:
    """Return the radius of the noise on the clean images, in the unit of epsilon; 0 if the attack starts at them."""
    return NOISE * pgd.epsilon if pgd.random_start else 0.0


def check_schedule(args: MMCoAConfig, objective: Objective, image_attack: ImageAttack | None, sharded: bool) -> None:
    """Raise ValueError if the image attack is to share the loss's forward and cannot.

    Args:
        args: the configuration.
        objective: what is trained.
        image_attack: an attack that was given in the place of the configuration's.
        sharded: whether weights are spread over processes.
    """
    if args.attack_schedule != "shared" or "adv_images" not in objective.views:
        return
    reason = ""
    if unfit := unfit_to_share(objective):
        reason = f"the objective {type(objective).__name__}, {unfit}"
    elif image_attack is not None:
        reason = f"`image_attack={type(image_attack).__name__}`, which takes steps of its own"
    elif sharded:
        reason = "weights that are spread over processes (FSDP, DeepSpeed ZeRO-3)"
    elif args.torch_compile:
        reason = "`torch_compile`: a compiled model takes no gradient within its forward"
    if reason:
        raise ValueError(f"`attack_schedule=shared` does not go with {reason}: take `attack_schedule=fast`.")
