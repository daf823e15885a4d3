"""Random views of pictograms, which teach an image tower what a designer may change and a concept keeps.

Pictures are drawn on a transparent ground, so shape, colour, line and ground change independently. Everything is a few
lines of torch on a batch; colours are premultiplied by opacity until a ground is put under them, so that interpolation
leaves no fringe.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

import datasets
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

LUMA = 1 / 3  # grey is the mean of the channels, the axis that a change of hue turns about


@dataclass(frozen=True, kw_only=True)
class Views:
    """Draw random views of pictures; the random numbers are torch's global ones.

    Args:
        affine: factor of rotation (20 degrees), size, aspect, shear and shift; 0 changes no shape.
        flip: probability that a picture is mirrored.
        cutmix: probability that a rectangle shows the same concept by another designer (CutMix, arXiv:1905.04899, with
            one label).
        colour: factor of the changes of hue, saturation, contrast, brightness and gamma.
        grey: probability that colours are lost.
        outline: probability that edges become dark lines and fills pale.
        ground: probability of a coloured ground instead of white.
        erase: probability that a rectangle is painted over (random erasing, arXiv:1708.04896).
    """

    affine: float = 0.7
    flip: float = 0.5
    cutmix: float = 0.25
    colour: float = 0.6
    grey: float = 0.1
    outline: float = 0.1
    ground: float = 0.3
    erase: float = 0.1

    def __call__(self, pictures: Tensor, others: Tensor) -> Tensor:
        """Return one view of each picture, in [0, 1], (batch, 3, size, size).

        Args:
            pictures: premultiplied RGBA in [0, 1], (batch, 4, size, size).
            others: the same concepts, each by any designer, of the same shape.
        """
        mixed = torch.where(_often(self.cutmix, pictures) & rectangles(pictures, 0.25, 0.85), others, pictures)
        moved = warped(mixed, self.affine, self.flip)
        colours, opacity = moved[:, :3] / moved[:, 3:].clamp(min=1e-3), moved[:, 3:]
        colours = recoloured(colours, self.colour)
        grey = colours.mean(1, keepdim=True).expand_as(colours)
        colours = torch.where(_often(self.grey, colours), grey, colours)
        lines = outlined(colours, opacity)
        drawn = _often(self.outline, colours)
        colours, opacity = torch.where(drawn, lines[0], colours), torch.where(drawn, lines[1], opacity)
        white = torch.ones_like(colours)
        ground = torch.where(_often(self.ground, colours), grounds(colours), white)
        images = colours * opacity + ground * (1 - opacity)
        hidden = _often(self.erase, images) & rectangles(images, 0.15, 0.5)
        paint = torch.where(_often(0.5, images), torch.rand(len(images), 3, 1, 1), white)
        return torch.where(hidden, paint, images)

    def weaker(self, share: float) -> Views:
        """Return views whose changes are that share of these, at most all of them."""
        changes = {each.name: min(share, 1.0) * getattr(self, each.name) for each in fields(self)}
        return Views(**changes)


def premultiplied(dataset: datasets.Dataset) -> Tensor:
    """Return the pictures of a data set as premultiplied RGBA in [0, 1], (rows, 4, height, width)."""
    arrays = [np.asarray(image.convert("RGBA")) for image in dataset["image"]]
    pictures = torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2).float() / 255
    return torch.cat([pictures[:, :3] * pictures[:, 3:], pictures[:, 3:]], dim=1)


def on_white(pictures: Tensor) -> Tensor:
    """Return premultiplied pictures on a white ground, as `to_rgb` shows them, (batch, 3, height, width)."""
    return pictures[:, :3] + 1 - pictures[:, 3:]


def warped(pictures: Tensor, strength: float, flip: float) -> Tensor:
    """Turn, scale, shear, shift and mirror pictures; what comes in from outside is transparent."""
    count = len(pictures)
    angle, shear = _uniform(count, 0.35) * strength, _uniform(count, 0.25) * strength
    size, aspect = torch.exp(_uniform(count, 0.28) * strength), torch.exp(_uniform(count, 0.2) * strength)
    mirror = 1 - 2 * (torch.rand(count) < flip).float()
    turn = torch.stack([angle.cos(), -angle.sin(), angle.sin(), angle.cos()], dim=1).view(-1, 2, 2)
    stretch = torch.stack([mirror * size * aspect, shear, torch.zeros(count), size / aspect], dim=1).view(-1, 2, 2)
    shift = torch.stack([_uniform(count, 0.2), _uniform(count, 0.2)], dim=1)[..., None] * strength
    grid = F.affine_grid(torch.cat([turn @ stretch, shift], dim=2), list(pictures.shape), align_corners=False)
    return F.grid_sample(pictures, grid, align_corners=False)


def recoloured(colours: Tensor, strength: float) -> Tensor:
    """Change hue, saturation, contrast, brightness and gamma of each picture, (batch, 3, height, width)."""
    count = len(colours)
    rare = torch.rand(count) < 0.15 * strength  # any hue: two designers may choose opposite ones
    hue = torch.where(rare, _uniform(count, math.pi), _uniform(count, 0.6) * strength)[:, None, None]
    axis = torch.tensor([[0.0, -1.0, 1.0], [1.0, 0.0, -1.0], [-1.0, 1.0, 0.0]]) / math.sqrt(3)
    turn = torch.eye(3) * hue.cos() + (1 - hue.cos()) * LUMA + hue.sin() * axis
    colours = torch.einsum("nij,njhw->nihw", turn, colours)
    factor = [torch.exp(_uniform(count, size) * strength)[:, None, None, None] for size in (0.6, 0.4, 0.4)]
    grey = colours.mean(1, keepdim=True)
    colours = grey + (colours - grey) * factor[0]
    middle = colours.mean((1, 2, 3), keepdim=True)
    brighter = _uniform(count, 0.2)[:, None, None, None] * strength
    return ((colours - middle) * factor[1] + middle + brighter).clamp(1e-4, 1) ** factor[2]


def outlined(colours: Tensor, opacity: Tensor) -> tuple[Tensor, Tensor]:
    """Draw the edges of pictures as dark lines and make their fills pale; return colours and opacity."""
    count = len(colours)
    shown = torch.cat([colours * opacity + 1 - opacity, opacity], dim=1)
    contrast = (F.max_pool2d(shown, 3, 1, 1) + F.max_pool2d(-shown, 3, 1, 1)).amax(1, keepdim=True)
    edge = ((contrast - 0.15) * 4).clamp(0, 1)
    dark, pale = 0.3 * torch.rand(count, 1, 1, 1), 0.9 * torch.rand(count, 1, 1, 1)
    line = edge * F.max_pool2d(opacity, 3, 1, 1)
    return (colours * (1 - pale) + pale) * (1 - edge) + dark * edge, torch.maximum(opacity, line)


def grounds(like: Tensor) -> Tensor:
    """Return a ground for each picture: one colour, a gradient between four, or a coarse pattern."""
    count, _, *size = like.shape
    kind = torch.rand(count, 1, 1, 1)
    flat = torch.rand(count, 3, 1, 1).expand(count, 3, *size)
    gradient = F.interpolate(torch.rand(count, 3, 2, 2), size=size, mode="bilinear")
    pattern = F.interpolate(torch.rand(count, 3, 6, 6), size=size, mode="bilinear")
    return torch.where(kind < 0.4, flat, torch.where(kind < 0.8, gradient, pattern))


def rectangles(like: Tensor, smallest: float, largest: float) -> Tensor:
    """Return one random rectangle for each picture, True inside, (batch, 1, height, width); sides are fractions."""
    count, _, height, width = like.shape
    inside = []
    for size in (height, width):
        half = (smallest + (largest - smallest) * torch.rand(count, 1)) * size / 2
        inside.append((torch.arange(size)[None] - size * torch.rand(count, 1)).abs() < half)
    return (inside[0][:, :, None] & inside[1][:, None, :])[:, None]


def _uniform(count: int, bound: float) -> Tensor:
    return (2 * torch.rand(count) - 1) * bound


def _often(probability: float, like: Tensor) -> Tensor:
    """Return True for a random part of a batch, (batch, 1, 1, 1)."""
    return torch.rand(len(like), 1, 1, 1) < probability
