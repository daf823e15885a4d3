"""Test-time counterattack (TTC, arXiv:2503.03613): push an image away from where its embedding lies.

The paper finds that adversarial images are falsely stable: a little noise moves their embedding less than that of clean
images. So stable images are attacked once more, without any label, and the others get the noise alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..attacks.pgd import PGD
from ..gradients import gradient
from ..models.encoder import DualEncoder
from .defence import classify, seeded


@dataclass(frozen=True, kw_only=True)
class TTC:
    """Add to each image the perturbation that moves its embedding farthest, if noise alone moves it little.

    With f the un-normalised image features and PGD's projection Pi onto the ball and the pixel range:

        delta_0 ~ U(-epsilon, epsilon),   tau = ||f(x + delta_0) - f(x)|| / ||f(x)||
        delta_i = Pi(delta_(i-1) + step_size sign grad ||f(x + delta_(i-1)) - f(x)||^2),   i = 1 .. num_steps
        delta = sum_i w_i delta_i,   w_i ~ exp(beta i) if tau < threshold, else w_0 = 1

    The sign is constant almost everywhere, so the derivative of x + delta is the identity wherever no pixel is clamped:
    an attack that unrolls the steps follows the same gradient as one that takes the defence for the identity (BPDA).

    Args:
        epsilon: radius of the counterattack (linf), in [0, 1] pixel units; the release's 4/255 is four times the
            radius of the attack.
        step_size: length of one of its steps in the same unit; the release's.
        num_steps: steps; the release's. 0 adds noise.
        threshold: relative drift tau from which an image gets the noise alone; the release's.
        beta: how much later steps weigh more; the release's.

    Raises:
        ValueError: if a setting is out of range.

    Example:
        >>> TTC(epsilon=4 / 255)(images, prompts, encoder)  # doctest: +SKIP
    """

    epsilon: float = 4 / 255  # Sxing2/CLIP-Test-time-Counterattacks: TTC.sh, as the four below
    step_size: float = 1 / 255
    num_steps: int = 2
    threshold: float = 0.2
    beta: float = 2.0

    def __post_init__(self) -> None:
        self._ball()  # raises
        for name in ("threshold", "beta"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"`{name}` must not be negative, got {getattr(self, name)}.")

    def _ball(self) -> PGD:
        return PGD(epsilon=self.epsilon, step_size=self.step_size, num_steps=self.num_steps)

    def purify(self, images: Tensor, model: DualEncoder, generator: torch.Generator | None = None) -> Tensor:
        """Return the counterattacked images."""
        ball, start = self._ball(), images.detach()
        delta = ball.start(start, seeded(images, generator))
        with torch.no_grad():
            features = model.image_features(start)[0]  # (batch, dim)
            drift = (model.image_features(start + delta)[0] - features).norm(dim=1) / features.norm(dim=1)

        def shift(points: Tensor) -> Tensor:
            return (model.image_features(points)[0] - features).square().sum(1)

        deltas = [delta]
        for _ in range(self.num_steps):
            delta = ball.project(delta + ball.step(gradient(shift, start + delta)), start)
            deltas.append(delta)
        weights = (self.beta * torch.arange(len(deltas), device=images.device, dtype=images.dtype)).softmax(0)
        attacked = torch.einsum("s,sbchw->bchw", weights, torch.stack(deltas))
        stable = (drift < self.threshold).view(-1, 1, 1, 1)
        return (images + torch.where(stable, attacked, deltas[0])).clamp(0, 1)

    def __call__(
        self, images: Tensor, texts: Sequence[str], model: DualEncoder, generator: torch.Generator | None = None
    ) -> Tensor:
        """See `Defence`."""
        return classify(self.purify(images, model, generator), texts, model)
