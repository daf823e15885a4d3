"""Projected gradient descent on images (arXiv:1706.06083): the inner maximisation of every image defence here."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ..gradients import gradient, shorten, unit
from .settings import Norm

ImageLoss = Callable[[Tensor], Tensor]


@dataclass(frozen=True, kw_only=True)
class PGD:
    """Increase a per-sample loss within a ball around each image and within [0, 1].

    The attack sees the loss only, no model and no labels. Parameters get no gradients; their `requires_grad`, the
    train/eval mode and the global random state stay unchanged. It works inside `torch.no_grad()`.

    Args:
        epsilon: radius of the ball in [0, 1] pixel units: largest change of a pixel for linf, Euclidean length for l2.
        step_size: length of one step in the same unit.
        num_steps: gradient steps; 0 returns the start.
        norm: "linf" or "l2".
        random_start: start uniformly in the ball (linf), or uniformly in direction and radius (l2), instead of at the
            image.

    Raises:
        ValueError: if a setting is out of range, or the loss is not one value per image.

    Example:
        >>> brighter = PGD(epsilon=0.1, step_size=0.1, num_steps=1, random_start=False)
        >>> brighter(torch.full((1, 3, 2, 2), 0.5), lambda images: images.sum((1, 2, 3))).max()
        tensor(0.6000)
    """

    epsilon: float
    step_size: float
    num_steps: int
    norm: Norm = "linf"
    random_start: bool = True

    def __post_init__(self) -> None:
        if self.norm not in ("linf", "l2"):
            raise ValueError(f'`norm` must be "linf" or "l2", got {self.norm!r}.')
        if not 0 <= self.epsilon < math.inf or (self.norm == "linf" and self.epsilon > 1):  # NaN fails too
            hint = f" Did you mean {self.epsilon:g} / 255?" if self.epsilon > 1 else ""
            raise ValueError(f"`epsilon` is in [0, 1] pixel units, got {self.epsilon:g}.{hint}")
        if not 0 <= self.step_size < math.inf:
            raise ValueError(f"`step_size` must not be negative or infinite, got {self.step_size:g}.")
        if self.num_steps < 0:
            raise ValueError(f"`num_steps` must not be negative, got {self.num_steps}.")

    def __call__(self, images: Tensor, loss_fn: ImageLoss, generator: torch.Generator | None = None) -> Tensor:
        """Attack a batch.

        Args:
            images: clean images in [0, 1], (batch, channels, height, width).
            loss_fn: maps images to the loss to increase, one value per image, (batch,).
            generator: source of the random start, on the images' device; a fresh one seeded 0 when None.

        Returns:
            Adversarial images, detached, of the same shape and dtype.
        """
        return self.climb(images, lambda adv_images: gradient(loss_fn, adv_images), generator)

    def climb(
        self, images: Tensor, direction: Callable[[Tensor], Tensor], generator: torch.Generator | None = None
    ) -> Tensor:
        """Attack along `direction(adversarial images)`, of the images' shape, instead of the gradient of a loss."""
        images = images.detach()
        if self.epsilon == 0:
            return images.clone()
        delta = self.start(images, generator) if self.random_start else torch.zeros_like(images)
        for _ in range(self.num_steps):
            delta = self.project(delta + self.step(direction(images + delta)), images)
        return (images + delta).clamp(0, 1)

    def start(self, images: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Return a random perturbation within the ball and the pixel range, of the shape of `images`."""
        if generator is None:
            generator = torch.Generator(images.device).manual_seed(0)
        if self.norm == "linf":
            noise = torch.rand(images.shape, generator=generator, device=images.device, dtype=images.dtype)
            delta = self.epsilon * (2 * noise - 1)
        else:
            noise = torch.randn(images.shape, generator=generator, device=images.device, dtype=images.dtype)
            radius = torch.rand(len(images), generator=generator, device=images.device, dtype=images.dtype)
            delta = self.epsilon * radius.view(-1, 1, 1, 1) * unit(noise, (1, 2, 3))
        return self.project(delta, images)

    def step(self, grad: Tensor) -> Tensor:
        """Return the steepest step of `step_size` in this norm for a gradient (batch, channels, height, width)."""
        return self.step_size * (grad.sign() if self.norm == "linf" else unit(grad, (1, 2, 3)))

    def project(self, delta: Tensor, images: Tensor) -> Tensor:
        """Project a perturbation onto the ball, then onto the pixel range around `images`."""
        if self.norm == "linf":
            delta = delta.clamp(-self.epsilon, self.epsilon)
        else:
            delta = shorten(delta, self.epsilon, (1, 2, 3))
        return (images + delta).clamp(0, 1) - images
