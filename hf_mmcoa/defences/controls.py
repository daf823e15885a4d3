"""Two defences that defend nothing: an evaluation that finds them robust is too weak to judge any other.

Both shift the answers enough to spoil attacks that were made without them, and nothing else (arXiv:1802.00420).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..models.encoder import DualEncoder
from .defence import classify, seeded


@dataclass(frozen=True, kw_only=True)
class GaussianNoise:
    """Add Gaussian noise to the images; it is drawn anew for every answer.

    Args:
        sigma: standard deviation, in [0, 1] pixel units.

    Raises:
        ValueError: if `sigma` is negative or infinite.

    Example:
        >>> GaussianNoise(sigma=0.1)
        GaussianNoise(sigma=0.1)
    """

    sigma: float

    def __post_init__(self) -> None:
        if not 0 <= self.sigma < math.inf:
            raise ValueError(f"`sigma` must not be negative or infinite, got {self.sigma}.")

    def purify(self, images: Tensor, model: DualEncoder, generator: torch.Generator | None = None) -> Tensor:
        """See `ImageDefence`."""
        draws = seeded(images, generator)
        noise = torch.randn(images.shape, generator=draws, device=images.device, dtype=images.dtype)
        return (images + self.sigma * noise).clamp(0, 1)

    def __call__(
        self, images: Tensor, texts: Sequence[str], model: DualEncoder, generator: torch.Generator | None = None
    ) -> Tensor:
        """See `Defence`."""
        return classify(self.purify(images, model, generator), texts, model)


@dataclass(frozen=True, kw_only=True)
class Quantise:
    """Round every pixel to one of a few values: its gradient is zero almost everywhere (arXiv:1704.01155, section 3).

    Args:
        levels: values that a pixel may take, evenly spaced from 0 to 1.

    Raises:
        ValueError: if there are fewer than two.

    Example:
        >>> Quantise(levels=3).purify(torch.tensor([0.1, 0.3, 0.9]), None)
        tensor([0.0000, 0.5000, 1.0000])
    """

    levels: int

    def __post_init__(self) -> None:
        if self.levels < 2:
            raise ValueError(f"`levels` must be at least 2, got {self.levels}.")

    def purify(self, images: Tensor, model: DualEncoder, generator: torch.Generator | None = None) -> Tensor:
        """See `ImageDefence`; nothing is drawn."""
        return (images * (self.levels - 1)).round() / (self.levels - 1)

    def __call__(
        self, images: Tensor, texts: Sequence[str], model: DualEncoder, generator: torch.Generator | None = None
    ) -> Tensor:
        """See `Defence`."""
        return classify(self.purify(images, model, generator), texts, model)
