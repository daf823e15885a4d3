"""PGD with an adaptive step size (APGD of AutoAttack, arXiv:2003.01690), so that no step size needs tuning."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..gradients import value_and_gradient
from .pgd import PGD, ImageLoss
from .settings import Norm

INERTIA = 0.25  # alpha = 0.75 in the paper: weight of the previous update
FIRST_CHECK, SHORTER, SHORTEST = 0.22, 0.03, 0.06  # fractions of num_steps that set the checkpoints
RISING = 0.75  # rho: halve the step if at most this share of the steps since the last checkpoint raised the loss


@dataclass(frozen=True, kw_only=True)
class APGD:
    """Start with steps of twice the radius; when a sample's loss stops rising, halve its step and restart at its best.

    Args:
        epsilon: radius of the ball, as in `PGD`.
        num_steps: gradient steps.
        norm: "linf" or "l2".

    Raises:
        ValueError: if a setting is out of range.

    Example:
        >>> attack = APGD(epsilon=4 / 255)
    """

    epsilon: float
    num_steps: int = 100
    norm: Norm = "linf"

    def __post_init__(self) -> None:
        self._ball()

    def __call__(self, images: Tensor, loss_fn: ImageLoss, generator: torch.Generator | None = None) -> Tensor:
        """Attack as in `ImageAttack` and return the visited point of largest loss."""
        images = images.detach()
        if self.epsilon == 0:
            return images.clone()
        ball = self._ball()
        delta = last = best = ball.start(images, generator)
        loss, grad = value_and_gradient(loss_fn, images + delta)
        best_loss, best_grad = loss, grad
        step = torch.full_like(images[:, :1, :1, :1], 2 * self.epsilon)  # (batch, 1, 1, 1)
        looks = self._looks()
        rises, looked_at, looked_loss = torch.zeros_like(loss), 0, best_loss
        halved = torch.ones_like(loss, dtype=torch.bool)
        for number in range(1, self.num_steps + 1):
            moved = ball.project(delta + step * ball.step(grad), images)
            if number > 1:
                moved = ball.project(delta + (1 - INERTIA) * (moved - delta) + INERTIA * (delta - last), images)
            last, delta, last_loss = delta, moved, loss
            loss, grad = value_and_gradient(loss_fn, images + delta)
            rises = rises + (loss > last_loss)
            better = loss > best_loss
            best, best_grad = _where(better, delta, best), _where(better, grad, best_grad)
            best_loss = torch.where(better, loss, best_loss)
            if number in looks:
                halve = (rises <= RISING * (number - looked_at)) | (~halved & (best_loss <= looked_loss))
                step = _where(halve, step / 2, step)
                delta, grad, last = (_where(halve, *pair) for pair in ((best, delta), (best_grad, grad), (best, last)))
                loss = torch.where(halve, best_loss, loss)
                rises, looked_at, looked_loss, halved = torch.zeros_like(loss), number, best_loss, halve
        return (images + best).clamp(0, 1)

    def _ball(self) -> PGD:
        return PGD(epsilon=self.epsilon, step_size=1.0, num_steps=self.num_steps, norm=self.norm)

    def _looks(self) -> set[int]:
        """Return the steps at which the step size is checked; the intervals between them shrink."""
        gap, looks, at = max(int(FIRST_CHECK * self.num_steps), 1), set(), 0
        while (at := at + gap) <= self.num_steps:
            looks.add(at)
            gap = max(gap - max(int(SHORTER * self.num_steps), 1), max(int(SHORTEST * self.num_steps), 1))
        return looks


def _where(rows: Tensor, new: Tensor, old: Tensor) -> Tensor:
    return torch.where(rows.view(-1, 1, 1, 1), new, old)
