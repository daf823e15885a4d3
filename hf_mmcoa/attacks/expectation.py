"""Expectation over transformation (EOT, arXiv:1707.07397): attack the mean loss of a model that answers at random."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from .contracts import ImageAttack
from .pgd import ImageLoss


@dataclass(frozen=True)
class Expectation:
    """Run an image attack on the mean of several evaluations of the loss.

    It matters for models with a random part (noise or random resizing as a defence); for others it is the attack
    itself, several times as slow. `Expectation(Diversity(PGD(...)), times=10)` averages over random views.

    Args:
        attack: any image attack.
        times: evaluations that are averaged, at least 1; 20 as AutoAttack's version for randomised models.

    Raises:
        ValueError: if `times` is below 1.

    Example:
        >>> from hf_mmcoa.attacks import PGD
        >>> attack = Expectation(PGD(epsilon=4 / 255, step_size=1 / 255, num_steps=10), times=20)
    """

    attack: ImageAttack
    times: int = field(default=20, kw_only=True)

    def __post_init__(self) -> None:
        if self.times < 1:
            raise ValueError(f"`times` must be at least 1, got {self.times}.")

    def __call__(self, images: Tensor, loss_fn: ImageLoss, generator: torch.Generator | None = None) -> Tensor:
        """Attack as in `ImageAttack`."""
        return self.attack(
            images, lambda points: torch.stack([loss_fn(points) for _ in range(self.times)]).mean(0), generator
        )
