"""Pictures as found in data sets to RGB and to tensors in [0, 1], with numpy and Pillow alone (no torchvision).

`Image.convert("RGB")` clips 16-bit pictures to white, shows whatever colour lies under transparent pixels and ignores
the camera's orientation. `to_rgb` does what a person who opens the file expects to see.
"""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

_CROP_FRACTION = 256 / 224  # short side before the centre crop, in units of the crop (METHODS.md, 3)


def to_rgb(image: Image.Image) -> Image.Image:
    """Any picture as an upright 8-bit RGB one.

    - EXIF orientation is applied.
    - Transparency (RGBA, LA, palette or a transparent colour) is composited on white, as viewers and web pages show it.
    - 16- and 32-bit grey and float pictures are scaled by their depth, never clipped. `I;16` has depth 16. `I` has no
      depth of its own and mostly comes from 16-bit PNGs: 16 bits unless a value needs 31. `F` takes the smallest of 1,
      255 and 65535 that holds its largest value.
    - CMYK, YCbCr, HSV and palettes are converted by Pillow.

    Raises:
        OSError: if the file is truncated or unreadable.
        ValueError: if a deep picture holds negative or non-finite values, or Pillow knows no way from its mode to RGB.
    """
    image.load()
    image = ImageOps.exif_transpose(image)
    if image.mode == "RGB" and "transparency" not in image.info:
        return image
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        return _deep_to_grey(image).convert("RGB")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, image).convert("RGB")
    return image.convert("RGB")


def _deep_to_grey(image: Image.Image) -> Image.Image:
    values = np.asarray(image).astype(np.float64)  # float64 holds every 32-bit integer
    if not np.isfinite(values).all() or values.min() < 0:
        raise ValueError(f"a picture of mode {image.mode!r} holds negative or non-finite values: no brightness.")
    highest = values.max()
    if image.mode == "F":
        depths = [1.0, 255.0, 65535.0]
    elif image.mode == "I":
        depths = [65535.0, 2.0**31 - 1]
    else:
        depths = [65535.0]
    depth = next((d for d in depths if highest <= d), None)
    if depth is None:
        raise ValueError(
            f"a picture of mode {image.mode!r} goes up to {highest:g}; scale it to [0, 1], [0, 255] or [0, 65535]."
        )
    return Image.fromarray(np.rint(values * (255 / depth)).astype(np.uint8))


def to_tensor(image: Image.Image) -> Tensor:
    """A picture as float32 (3, height, width) in [0, 1]; modes other than RGB go through `to_rgb`."""
    rgb = image if image.mode == "RGB" else to_rgb(image)
    pixels = torch.from_numpy(np.array(rgb))  # (H, W, 3) uint8; np.array copies, since Pillow's buffer is read-only
    return pixels.permute(2, 0, 1).to(torch.float32, memory_format=torch.contiguous_format).div_(255)


def resize_and_crop(image: Image.Image, size: int) -> Image.Image:
    """Short side to `size` * 256 / 224 (bicubic), then the centre `size` x `size` pixels (METHODS.md, section 3).

    Resampling reads the cropped box only, which equals resizing the whole picture and cropping, and costs less.

    Raises:
        ValueError: if `size` is less than 1.
    """
    if size < 1:
        raise ValueError(f"`size` is the model's image size in pixels, at least 1, got {size}.")
    width, height = image.size
    short = round(size * _CROP_FRACTION)
    new_width = short if width <= height else int(short * width / height)
    new_height = short if height <= width else int(short * height / width)
    left, top = round((new_width - size) / 2), round((new_height - size) / 2)
    to_x, to_y = width / new_width, height / new_height
    box = (left * to_x, top * to_y, min((left + size) * to_x, width), min((top + size) * to_y, height))
    return image.resize((size, size), Image.Resampling.BICUBIC, box=box)
