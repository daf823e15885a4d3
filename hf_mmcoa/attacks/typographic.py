"""Another class's word written on the picture: CLIP reads what it sees (typographic attacks, arXiv:2206.07835)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from ..data.prompts import clean_class_name
from .beyond import Changed
from .image_losses import likeliest_wrong_classes

SMALLEST_FONT = 6  # pixels; below it letters are spots
Place = Literal["top", "centre", "bottom"]


@dataclass(frozen=True, kw_only=True)
class Typographic:
    """Write the name of another class on a label, black on white, over every picture; the worst word counts.

    The font is Pillow's own. It is made smaller until the longest name fits the width of the picture.

    Args:
        size: height of the letters' font over the height of the picture.
        place: where the label lies: "top", "centre" or "bottom".
        num_words: words tried for each sample, of the wrong classes that are likeliest without an attack; each costs
            one forward of the image encoder.

    Raises:
        ValueError: if a setting is out of range; when called, if the picture is too small for the longest name.

    Example:
        >>> attack = Typographic(size=0.2)
        >>> attack.labels(["cat", "dog"], 64, 64)[0].shape  # the pictures of the labels
        torch.Size([2, 3, 64, 64])
    """

    size: float = 0.2
    place: Place = "bottom"
    num_words: int = 10

    def __post_init__(self) -> None:
        if not 0 < self.size <= 1:
            raise ValueError(f"`size` is a share of the picture's height, in (0, 1], got {self.size}.")
        if self.place not in ("top", "centre", "bottom"):
            raise ValueError(f'`place` must be "top", "centre" or "bottom", got {self.place!r}.')
        if self.num_words < 1:
            raise ValueError(f"`num_words` must be at least 1, got {self.num_words}.")

    def __call__(
        self,
        images: Tensor,
        labels: Tensor,
        logits: Tensor,
        class_names: Sequence[str],
        generator: torch.Generator | None = None,
    ) -> Iterator[Changed]:
        """Change a batch as in `BeyondAttack`, one word a time."""
        written, covered = (each.to(images) for each in self.labels(class_names, *images.shape[-2:]))
        targets = likeliest_wrong_classes(logits, labels)[:, : self.num_words]  # (batch, words)
        for words in targets.T:
            yield Changed(torch.where(covered[words] > 0, written[words], images))

    def labels(self, class_names: Sequence[str], height: int, width: int) -> tuple[Tensor, Tensor]:
        """Return the pictures of the labels, (classes, 3, height, width), and 1 where they cover, (classes, 1, h, w).

        Raises:
            ValueError: if the letters of the longest name would be smaller than `SMALLEST_FONT`.
        """
        names = [clean_class_name(name) for name in class_names]
        font = self._font(names, height, width)
        drawn = [_label(name, font, self.place, height, width) for name in names]
        pictures = torch.stack([torch.from_numpy(np.asarray(picture).copy()) for picture, _ in drawn])
        masks = torch.stack([torch.from_numpy(np.asarray(mask).copy()) for _, mask in drawn])
        return pictures.permute(0, 3, 1, 2).float() / 255, (masks > 0).float().unsqueeze(1)

    def _font(self, names: Sequence[str], height: int, width: int) -> ImageFont.FreeTypeFont:
        for size in range(round(self.size * height), SMALLEST_FONT - 1, -1):
            font = ImageFont.load_default(size)
            if isinstance(font, ImageFont.FreeTypeFont) and all(_box(name, font)[0] <= width for name in names):
                return font
        longest = max(names, key=len)
        raise ValueError(
            f"pictures of {height}x{width} are too small to write {longest!r} on them in letters of {SMALLEST_FONT} "
            f"pixels with `size` {self.size}: take larger pictures, a larger `size`, or shorter class names. "
            'With `perturb_at="model"` they are enlarged to the size of the model.'
        )


def _box(name: str, font: ImageFont.FreeTypeFont) -> tuple[int, int]:
    """Return width and height of a label, in pixels."""
    left, _, right, _ = font.getbbox(name)
    ascent, descent = font.getmetrics()
    return int(right - left) + 2, ascent + descent


def _label(
    name: str, font: ImageFont.FreeTypeFont, place: Place, height: int, width: int
) -> tuple[Image.Image, Image.Image]:
    """Return a picture with the label in its place, and a mask of what it covers."""
    wide, high = _box(name, font)
    left = (width - wide) // 2
    top = {"top": 0, "centre": (height - high) // 2, "bottom": height - high}[place]
    picture, mask = Image.new("RGB", (width, height)), Image.new("L", (width, height))
    for image, colour in ((picture, "white"), (mask, 255)):
        ImageDraw.Draw(image).rectangle((left, top, left + wide - 1, top + high - 1), fill=colour)
    ImageDraw.Draw(picture).text((left + 1 - font.getbbox(name)[0], top), name, fill="black", font=font)
    return picture, mask
