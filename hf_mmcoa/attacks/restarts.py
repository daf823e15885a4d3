"""Random restarts: keep the worst of several runs."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from .contracts import ImageAttack
from .pgd import ImageLoss


@dataclass(frozen=True)
class Restarts:
    """Run an image attack several times and keep, per sample, the result of largest loss.

    Each run costs one forward pass more than the attack itself. Every run attacks all samples: the loss does not tell
    which are misclassified already, so skipping these is left to the caller (see `StrongAttack`).

    Args:
        attack: an image attack with a random part; without one all runs are the same.
        times: number of runs, at least 1.

    Raises:
        ValueError: if `times` is below 1.

    Example:
        >>> from hf_mmcoa.attacks import PGD
        >>> attack = Restarts(PGD(epsilon=1 / 255, step_size=1 / 255, num_steps=10), times=5)
    """

    attack: ImageAttack
    times: int = field(kw_only=True)

    def __post_init__(self) -> None:
        if self.times < 1:
            raise ValueError(f"`times` must be at least 1, got {self.times}.")

    def __call__(self, images: Tensor, loss_fn: ImageLoss, generator: torch.Generator | None = None) -> Tensor:
        """Attack as in `ImageAttack`; all runs draw from one generator, so that their starts differ."""
        if generator is None:
            generator = torch.Generator(images.device).manual_seed(0)
        best, best_loss = images.detach().clone(), torch.full((len(images),), float("-inf"), device=images.device)
        for _ in range(self.times):
            adv_images = self.attack(images, loss_fn, generator)
            with torch.no_grad():
                loss = loss_fn(adv_images)
            better = loss > best_loss
            best = torch.where(better.view(-1, 1, 1, 1), adv_images, best)
            best_loss = torch.where(better, loss.to(best_loss.dtype), best_loss)
        return best
