"""Momentum on the gradient (MI-FGSM, arXiv:1710.06081): stabler directions, for better transfer between models."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from ..gradients import gradient, unit
from .pgd import PGD, ImageLoss


@dataclass(frozen=True)
class Momentum:
    """Run `PGD` along `g <- decay * g + grad / mean |grad|` in place of the gradient.

    Args:
        attack: PGD with its budget, steps and start. MI-FGSM starts at the image: `random_start=False`.
        decay: weight of the accumulated gradient; 1 in the paper, 0 is plain PGD.

    Raises:
        ValueError: if `decay` is negative.

    Example:
        >>> attack = Momentum(PGD(epsilon=8 / 255, step_size=1 / 255, num_steps=10, random_start=False), decay=1.0)
    """

    attack: PGD
    decay: float = field(default=1.0, kw_only=True)

    def __post_init__(self) -> None:
        if not self.decay >= 0:  # written so that NaN fails too
            raise ValueError(f"`decay` must not be negative, got {self.decay:g}.")

    def __call__(self, images: Tensor, loss_fn: ImageLoss, generator: torch.Generator | None = None) -> Tensor:
        """Attack as in `ImageAttack`."""
        velocity = torch.zeros_like(images)

        def direction(adv_images: Tensor) -> Tensor:
            nonlocal velocity
            grad = gradient(loss_fn, adv_images)
            grad = unit(grad, (1, 2, 3))  # rescale first: a saturated softmax has gradients of 1e-20
            size = grad.abs().mean((1, 2, 3), keepdim=True)  # L1 up to a factor shared by all samples
            velocity = self.decay * velocity + grad / torch.where(size > 0, size, 1)
            return velocity

        return self.attack.climb(images, direction, generator)
