"""Convert images as found in data sets to RGB and to tensors in [0, 1], with numpy and Pillow alone (no torchvision).

`Image.convert("RGB")` clips 16-bit images to white, shows whatever colour lies under transparent pixels and ignores the
camera's orientation. `to_rgb` returns what an image viewer would show. `read_image` is the only place where a file is
decoded, since data sets, uploads and galleries are untrusted.
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
# (DecompressionBombWarning); it raises above twice as many. ImageNet's largest image has 61 million.
MAX_PIXELS = 1024**3 // 4 // 3
# Without decoders that run another program, as EPS does (Ghostscript), and without obsolete formats.
FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM")
_BAND = 2**20  # pixels converted at once where a conversion needs many times the image's memory
ROUNDING = 1e-5  # of the range: what float32 arithmetic may add to a pixel that is 1
_CROP_FRACTION = 256 / 224  # short side before the centre crop, relative to the crop (docs/methods.md, section 3)


def read_image(
    source: str | Path | bytes, formats: tuple[str, ...] = FORMATS, max_pixels: int | None = None
) -> Image.Image:
    """Read an untrusted image file as an upright RGB image (`to_rgb`); of several frames the first.

    The content decides the format, not the name. The size is checked before anything is decoded.

    Args:
        source: path of the file, or its content.
        formats: the formats that are allowed, by Pillow's names.
        max_pixels: largest number of pixels, width times height; None for `MAX_PIXELS`.

    Raises:
        OSError: if the file cannot be opened.
        ValueError: if the image has too many pixels or none, is in no format of `formats`, or is broken.
    """
    limit = MAX_PIXELS if max_pixels is None else max_pixels
    try:
        with Image.open(io.BytesIO(source) if isinstance(source, bytes) else source, formats=formats) as image:
            return to_rgb(image, limit)
    # The caller may have turned Pillow's warning into an error; ours says more, and does not depend on its limit.
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
    """Raised for too many pixels or none; its own class tells it from the errors of the decoders."""


def check_pixels(image: Image.Image, max_pixels: int | None = None) -> None:
    """Raise ValueError if an image, decoded or not, has no pixels or more than `max_pixels` (None: `MAX_PIXELS`)."""
    width, height = image.size
    limit = MAX_PIXELS if max_pixels is None else max_pixels
    if width * height > limit:
        raise _PixelsError(
            f"the picture has {width} x {height} pixels; at most {limit:,} in all are read. Scale it down."
        )
    if width * height == 0:
        raise _PixelsError(f"the picture has {width} x {height} pixels: it is empty. Leave it out.")


def to_rgb(image: Image.Image, max_pixels: int | None = None) -> Image.Image:
    """Convert an image of any mode to an upright 8-bit RGB image.

    - EXIF orientation is applied.
    - Transparency (RGBA, LA, palette or a transparent colour) is composited on white, as viewers and web pages show it.
    - 16- and 32-bit grey images and float images are scaled by their depth, never clipped. `I;16` has 16 bits. `I` has
      no depth of its own and mostly comes from 16-bit PNGs: 16 bits unless a value needs 31. The range of `F` is the
      smallest of [0, 1], [0, 255] and [0, 65535] that holds its largest value.
    - CMYK, YCbCr, HSV and palettes are converted by Pillow.

    Args:
        image: the image, of any mode, decoded or not.
        max_pixels: largest number of pixels, width times height; None for `MAX_PIXELS`.

    Raises:
        OSError: if the file is truncated or unreadable.
        ValueError: if there are too many pixels or none, a grey or float image holds negative or non-finite values, or
            Pillow cannot convert its mode to RGB.
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
    """Composite a transparent image on white, in bands: at once, it would be in memory five times."""
    result = Image.new("RGB", image.size)
    rows = max(_BAND // image.width, 1)
    for top in range(0, image.height, rows):
        band = image.crop((0, top, image.width, min(top + rows, image.height))).convert("RGBA")
        white = Image.new("RGBA", band.size, (255, 255, 255, 255))
        result.paste(Image.alpha_composite(white, band).convert("RGB"), (0, top))
    return result


def _deep_to_grey(image: Image.Image) -> Image.Image:
    values = np.asarray(image)
    lowest, highest = float(values.min()), float(values.max())  # NaN if any value is NaN
    if not (math.isfinite(lowest) and math.isfinite(highest)) or lowest < 0:
        raise ValueError(
            f"a picture of mode {image.mode!r} holds negative or non-finite values, which are no brightness; "
            "clip or rescale them."
        )
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
    # In bands, since float64, which holds every 32-bit integer, takes eight times the memory of the result.
    for top in range(0, image.height, rows):
        grey[top : top + rows] = np.rint(values[top : top + rows].astype(np.float64) * (255 / depth))
    return Image.fromarray(grey)


def from_array(values: np.ndarray) -> Image.Image:
    """Convert an array to an RGB image.

    Args:
        values: (height, width), (height, width, channels) or (channels, height, width) with 1 (grey), 3 (RGB) or 4
            channels (RGB and opacity); if both ends could be the channels, it is the last. Floats are in [0, 1], or in
            [0, 255] if one is above 1; integers in [0, 255]; booleans are black and white. A rounding error beyond
            either end is allowed.

    Raises:
        ValueError: for another shape, type or range.
    """
    channels = (1, 3, 4)
    if values.ndim == 3 and values.shape[2] not in channels and values.shape[0] in channels:
        values = values.transpose(1, 2, 0)
    if values.ndim not in (2, 3) or (values.ndim == 3 and values.shape[2] not in channels) or values.size == 0:
        raise ValueError(
            f"an array of shape {values.shape} is no picture: (height, width), (height, width, channels) or (channels, "
            "height, width) with 1, 3 or 4 channels is"
        )
    if values.dtype.kind not in "buif":
        raise ValueError(f"an array of type {values.dtype} is no picture; use numbers")
    lowest, highest = float(values.min()), float(values.max())  # NaN if any value is NaN
    is_float = values.dtype.kind == "f"
    depth = 1.0 if values.dtype.kind == "b" or (is_float and highest <= 1 + ROUNDING) else 255.0
    if not (lowest >= -ROUNDING * depth and highest <= depth * (1 + ROUNDING)):
        raise ValueError(
            f"an array with values from {lowest:g} to {highest:g} is no picture: floats lie in [0, 1] or [0, 255], "
            "integers in [0, 255]. Undo the mean and std, or scale it"
        )
    pixels = np.rint(values.clip(0, depth) * (255 / depth)).astype(np.uint8) if depth == 1 or is_float else values
    if pixels.ndim == 3 and pixels.shape[2] == 1:
        pixels = pixels[..., 0]
    return to_rgb(Image.fromarray(np.ascontiguousarray(pixels, dtype=np.uint8)))


def to_tensor(image: Image.Image) -> Tensor:
    """Convert an image to float32 (3, height, width) in [0, 1]; modes other than RGB go through `to_rgb`."""
    check_pixels(image)
    rgb = image if image.mode == "RGB" else to_rgb(image)
    pixels = torch.from_numpy(np.array(rgb))  # (H, W, 3) uint8; np.array copies, since Pillow's buffer is read-only
    return pixels.permute(2, 0, 1).to(torch.float32, memory_format=torch.contiguous_format).div_(255)


def resize_and_crop(image: Image.Image, size: int) -> Image.Image:
    """Resize the short side to `size` * 256 / 224 (bicubic), then crop the centre (docs/methods.md, section 3).

    Only the cropped box is resampled. That equals resizing the whole image and cropping it, and costs less.

    Args:
        image: the image, of a mode that Pillow resizes.
        size: side of the cropped square, in pixels.

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
    return resample_crop(image, (new_width, new_height), (left, top, size, size), Image.Resampling.BICUBIC)


def resample_crop(
    image: Image.Image, resized: tuple[int, int], crop: tuple[int, int, int, int], resample: Image.Resampling
) -> Image.Image:
    """Resize an image and crop it, without computing what the crop leaves out.

    Args:
        image: the image, of a mode that Pillow resizes.
        resized: width and height of the whole image after the resize.
        crop: left, top, width and height of what is kept, in pixels of the resized image.
        resample: kind of the interpolation.
    """
    left, top, width, height = crop
    to_x, to_y = image.width / resized[0], image.height / resized[1]
    end_x, end_y = min((left + width) * to_x, image.width), min((top + height) * to_y, image.height)
    return image.resize((width, height), resample, box=(left * to_x, top * to_y, end_x, end_y))
