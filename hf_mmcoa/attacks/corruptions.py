"""Six natural corruptions at five severities, after ImageNet-C (Hendrycks and Dietterich, arXiv:1903.12261).

Noise, blur, contrast, brightness, pixelation and JPEG have the parameters of ImageNet-C, with pictures of 224 pixels.
Lengths are scaled to the size of the picture, so that a blur covers the same share of it. Nothing is rounded to 8 bits
but what JPEG rounds.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from .beyond import Changed

PUBLISHED_SIZE = 224
SEVERITIES = 5
Corrupt = Callable[[Tensor, float, torch.Generator], Tensor]


def gaussian_noise(images: Tensor, deviation: float, generator: torch.Generator) -> Tensor:
    """Add normal noise of a standard deviation, in [0, 1] pixel units."""
    noise = torch.randn(images.shape, generator=generator, device=images.device, dtype=images.dtype)
    return images + deviation * noise


def gaussian_blur(images: Tensor, deviation: float, generator: torch.Generator) -> Tensor:
    """Blur with a normal kernel of a standard deviation in pixels of a 224-pixel picture; edges are repeated."""
    sigma = deviation * min(images.shape[-2:]) / PUBLISHED_SIZE
    radius = max(math.ceil(4 * sigma), 1)
    places = torch.arange(-radius, radius + 1, device=images.device, dtype=images.dtype)
    kernel = (-0.5 * (places / sigma).square()).exp()
    kernel = (kernel / kernel.sum()).expand(images.shape[1], 1, 1, -1)
    images = F.conv2d(F.pad(images, (radius, radius, 0, 0), mode="replicate"), kernel, groups=images.shape[1])
    padded = F.pad(images, (0, 0, radius, radius), mode="replicate")
    return F.conv2d(padded, kernel.transpose(2, 3), groups=images.shape[1])


def contrast(images: Tensor, factor: float, generator: torch.Generator) -> Tensor:
    """Move every pixel towards its channel's mean; `factor` of the distance is left."""
    mean = images.mean((2, 3), keepdim=True)
    return mean + factor * (images - mean)


def brightness(images: Tensor, more: float, generator: torch.Generator) -> Tensor:
    """Add to the value of HSV, the largest channel, with hue and saturation kept; black becomes grey."""
    value = images.amax(1, keepdim=True)
    lighter = (value + more).clamp(max=1)
    return torch.where(value > 0, images * lighter / torch.where(value > 0, value, 1), lighter)


def pixelate(images: Tensor, share: float, generator: torch.Generator) -> Tensor:
    """Average the picture down to a share of its side, and repeat the pixels up to its size again.

    A pixel on a border is shared by both sides; ImageNet-C has Pillow's box filter, which takes it whole.
    """
    rows, columns = (_averages(side, max(int(share * side), 1)).to(images) for side in images.shape[-2:])
    return F.interpolate(rows @ images @ columns.T, images.shape[-2:], mode="nearest-exact")


def _averages(side: int, fewer: int) -> Tensor:
    """Return the matrix that averages `side` pixels to `fewer`, (fewer, side)."""
    ends = torch.arange(fewer + 1) * side / fewer
    pixels = torch.arange(side)
    overlap = torch.minimum(ends[1:, None], pixels + 1) - torch.maximum(ends[:-1, None], pixels)
    return overlap.clamp(min=0) * fewer / side


def jpeg(images: Tensor, quality: float, generator: torch.Generator) -> Tensor:
    """Compress and decompress as JPEG of a quality, from 1 to 95."""

    def compressed(image: Tensor) -> Tensor:
        pixels = (255 * image).round().clamp(0, 255).byte().permute(1, 2, 0).cpu().numpy()
        with io.BytesIO() as file:
            Image.fromarray(pixels).save(file, "JPEG", quality=int(quality))
            return torch.from_numpy(np.asarray(Image.open(file)).copy()).permute(2, 0, 1)

    return torch.stack([compressed(image) for image in images]).to(images) / 255


CORRUPTIONS: dict[str, tuple[Corrupt, tuple[float, ...]]] = {
    "gaussian-noise": (gaussian_noise, (0.08, 0.12, 0.18, 0.26, 0.38)),
    "gaussian-blur": (gaussian_blur, (1, 2, 3, 4, 6)),
    "contrast": (contrast, (0.4, 0.3, 0.2, 0.1, 0.05)),
    "brightness": (brightness, (0.1, 0.2, 0.3, 0.4, 0.5)),
    "pixelate": (pixelate, (0.6, 0.5, 0.4, 0.3, 0.25)),
    "jpeg": (jpeg, (25, 18, 15, 10, 7)),
}
"""What each corruption does, and its parameter at each severity (ImageNet-C's)."""


@dataclass(frozen=True, kw_only=True)
class Corruptions:
    """Show every picture under natural corruptions at every severity; the worst counts, each kind by itself too.

    Args:
        kinds: names from `CORRUPTIONS`.
        severities: degrees from 1 to 5.

    Raises:
        ValueError: if a kind or a severity is unknown, or none is named.

    Example:
        >>> changed = list(Corruptions(kinds=("contrast",))(torch.rand(2, 3, 8, 8), None, None, []))
        >>> [(each.kind, each.severity) for each in changed[:2]]
        [('contrast', 1), ('contrast', 2)]
    """

    kinds: tuple[str, ...] = tuple(CORRUPTIONS)
    severities: tuple[int, ...] = (1, 2, 3, 4, 5)

    def __post_init__(self) -> None:
        if not self.kinds or not set(self.kinds) <= set(CORRUPTIONS):
            raise ValueError(f"`kinds` must be of {', '.join(CORRUPTIONS)}, got {self.kinds}.")
        if not self.severities or not set(self.severities) <= set(range(1, SEVERITIES + 1)):
            raise ValueError(f"`severities` must be of 1 to {SEVERITIES}, got {self.severities}.")

    def __call__(
        self,
        images: Tensor,
        labels: Tensor,
        logits: Tensor,
        class_names: Sequence[str],
        generator: torch.Generator | None = None,
    ) -> Iterator[Changed]:
        """Change a batch as in `BeyondAttack`, one kind after the other."""
        if generator is None:
            generator = torch.Generator(images.device).manual_seed(0)
        for kind in self.kinds:
            corrupt, parameters = CORRUPTIONS[kind]
            for severity in self.severities:
                changed = corrupt(images, parameters[severity - 1], generator).clamp(0, 1)
                yield Changed(changed, kind, severity)
