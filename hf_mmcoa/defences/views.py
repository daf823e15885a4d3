"""Random views of images, differentiable in the images: what test-time defences average over."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor


def random_views(
    images: Tensor, count: int, generator: torch.Generator, *, smallest: float = 0.08, flip: float = 0.5
) -> Tensor:
    """Return each image and random crops of it, resized to its size and flipped at random, (batch, count, 3, h, w).

    Area and aspect of a crop are those of a random resized crop: uniform in [smallest, 1] of the image, and
    log-uniform in [3/4, 4/3].

    Args:
        images: (batch, 3, height, width).
        count: views of an image, itself the first.
        generator: source of boxes and flips.
        smallest: smallest area of a crop, as a share of the image.
        flip: probability of a horizontal flip.
    """
    batch, crops = len(images), count - 1
    area, aspect, left, top, side = torch.rand(
        5, batch * crops, generator=generator, device=images.device, dtype=images.dtype
    )
    area = smallest + (1 - smallest) * area
    aspect = ((2 * aspect - 1) * math.log(4 / 3)).exp()
    width, height = (area * aspect).sqrt().clamp(max=1), (area / aspect).sqrt().clamp(max=1)
    mirrored = torch.where(side < flip, -width, width)
    # A box in [-1, 1] coordinates: half its size on the diagonal, its centre in the last column.
    boxes = images.new_zeros(batch * crops, 2, 3)
    boxes[:, 0, 0], boxes[:, 0, 2] = mirrored, (1 - width) * (2 * left - 1)
    boxes[:, 1, 1], boxes[:, 1, 2] = height, (1 - height) * (2 * top - 1)
    repeated = images.repeat_interleave(crops, 0)
    grid = F.affine_grid(boxes, list(repeated.shape), align_corners=False)
    cropped = F.grid_sample(repeated, grid, padding_mode="border", align_corners=False)
    return torch.cat([images[:, None], cropped.view(batch, crops, *images.shape[1:])], 1)
