"""Pictures as found in data sets to RGB and to tensors in [0, 1], with numpy and Pillow alone (no torchvision).

`Image.convert("RGB")` clips 16-bit pictures to white, shows whatever colour lies under transparent pixels and ignores
the camera's orientation. `to_rgb` does what a person who opens the file expects to see. `read_image` is the only place
where a file is decoded: data sets, uploads and galleries come from strangers.
"""

from __future__ import annotations

import io
import math
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

# Pillow's own `Image.MAX_IMAGE_PIXELS`, a quarter of a gigabyte of 24-bit pixels, above which it only warns
# (DecompressionBombWarning) and above twice of which it raises. ImageNet's largest picture has 61 million.
MAX_PIXELS = 1024**3 // 4 // 3
# No decoder that runs another program, as EPS does (Ghostscript), and none of formats that nobody uses any more.
FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM")
_BAND = 2**20  # pixels converted at once where a conversion needs many times the picture's memory
_CROP_FRACTION = 256 / 224  # short side before the centre crop, in units of the crop (METHODS.md, 3)


def read_image(
    source: str | Path | bytes, formats: tuple[str, ...] = FORMATS, max_pixels: int | None = None
) -> Image.Image:
    """A picture file from anywhere as an upright RGB picture (`to_rgb`); of several frames the first.

    The content decides the format, not the name. Nothing is decoded before its size is known.

    Args:
        source: a file, or its bytes.
        formats: Pillow's names of those that are read.
        max_pixels: at most so many in all; `MAX_PIXELS` when None.

    Raises:
        OSError: if the file cannot be opened.
        ValueError: if it has too many pixels, or is no picture in one of `formats`, or a broken one.
    """
    limit = MAX_PIXELS if max_pixels is None else max_pixels
    try:
        with Image.open(io.BytesIO(source) if isinstance(source, bytes) else source, formats=formats) as image:
            return to_rgb(image, limit)
    # Pillow's warning may have been made an error; ours says more, and comes also where its limit was lifted.
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise ValueError(f"the picture is far too large; at most {limit:,} pixels are read. Scale it down.") from None
    except _PixelsError:
        raise
    except Image.UnidentifiedImageError:
        size = len(source) if isinstance(source, bytes) else Path(source).stat().st_size
        what = "it is empty" if size == 0 else f"it is no {', '.join(formats)}"
        raise ValueError(f"the file could not be read as a picture: {what}. Convert it, or leave it out.") from None
    except (FileNotFoundError, IsADirectoryError, PermissionError):
        raise
    except Exception as error:  # Pillow's decoders raise OSError, SyntaxError, struct.error, zlib.error and more
        raise ValueError(
            f"the file could not be read as a picture ({type(error).__name__}: {error}). Repair it, or leave it out."
        ) from error


class _PixelsError(ValueError):
    """Too many pixels, or none: the refusal that is not the decoder's."""


def check_pixels(image: Image.Image, max_pixels: int | None = None) -> None:
    """Raise ValueError if a picture, decoded or not, has no pixel or more than `max_pixels` (`MAX_PIXELS`)."""
    width, height = image.size
    limit = MAX_PIXELS if max_pixels is None else max_pixels
    if width * height > limit:
        raise _PixelsError(
            f"the picture has {width} x {height} pixels; at most {limit:,} in all are read. Scale it down."
        )
    if width * height == 0:
        raise _PixelsError(f"the picture has {width} x {height} pixels: there is nothing to see. Leave it out.")


def to_rgb(image: Image.Image, max_pixels: int | None = None) -> Image.Image:
    """Any picture as an upright 8-bit RGB one.

    - EXIF orientation is applied.
    - Transparency (RGBA, LA, palette or a transparent colour) is composited on white, as viewers and web pages show it.
    - 16- and 32-bit grey and float pictures are scaled by their depth, never clipped. `I;16` has depth 16. `I` has no
      depth of its own and mostly comes from 16-bit PNGs: 16 bits unless a value needs 31. `F` takes the smallest of 1,
      255 and 65535 that holds its largest value.
    - CMYK, YCbCr, HSV and palettes are converted by Pillow.

    Args:
        image: of any mode, decoded or not.
        max_pixels: see `check_pixels`.

    Raises:
        OSError: if the file is truncated or unreadable.
        ValueError: if there are too many pixels, a deep picture holds negative or non-finite values, or Pillow knows no
            way from its mode to RGB.
    """
    check_pixels(image, max_pixels)
    image.load()
    image = ImageOps.exif_transpose(image)
    if image.mode == "RGB" and "transparency" not in image.info:
        return image
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        return _deep_to_grey(image).convert("RGB")
    if image.has_transparency_data:
        return _on_white(image)
    return image.convert("RGB")


def _on_white(image: Image.Image) -> Image.Image:
    """A picture with transparency on white, in bands: whole, it would be in memory five times."""
    result = Image.new("RGB", image.size)
    rows = max(_BAND // image.width, 1)
    for top in range(0, image.height, rows):
        band = image.crop((0, top, image.width, min(top + rows, image.height))).convert("RGBA")
        white = Image.new("RGBA", band.size, (255, 255, 255, 255))
        result.paste(Image.alpha_composite(white, band).convert("RGB"), (0, top))
    return result


def _deep_to_grey(image: Image.Image) -> Image.Image:
    values = np.asarray(image)
    lowest, highest = float(values.min()), float(values.max())  # NaN, if there is one
    if not (math.isfinite(lowest) and math.isfinite(highest)) or lowest < 0:
        raise ValueError(f"a picture of mode {image.mode!r} holds negative or non-finite values: no brightness.")
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
    grey = np.empty(values.shape, np.uint8)
    rows = max(_BAND // image.width, 1)
    for top in range(0, image.height, rows):  # float64 holds every 32-bit integer, and takes eight times the room
        grey[top : top + rows] = np.rint(values[top : top + rows].astype(np.float64) * (255 / depth))
    return Image.fromarray(grey)


def to_tensor(image: Image.Image) -> Tensor:
    """A picture as float32 (3, height, width) in [0, 1]; modes other than RGB go through `to_rgb`."""
    check_pixels(image)
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
