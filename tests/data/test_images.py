from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from PIL import Image

from hf_mmcoa.data.images import resize_and_crop, to_rgb, to_tensor


def reopened(image: Image.Image, kind: str = "PNG", **options: object) -> Image.Image:
    """The picture after a round through a file, as a data set holds it."""
    file = io.BytesIO()
    image.save(file, kind, **options)
    return Image.open(io.BytesIO(file.getvalue()))


def pixel(image: Image.Image, x: int = 0, y: int = 0) -> tuple[int, ...]:
    assert image.mode == "RGB"
    return image.getpixel((x, y))


def test_grey_becomes_three_equal_channels() -> None:
    assert pixel(to_rgb(reopened(Image.new("L", (2, 3), 77)))) == (77, 77, 77)
    assert pixel(to_rgb(reopened(Image.new("1", (2, 3), 1)))) == (255, 255, 255)


def test_rgb_is_left_alone() -> None:
    assert pixel(to_rgb(reopened(Image.new("RGB", (2, 2), (1, 2, 3))))) == (1, 2, 3)


def test_transparency_is_composited_on_white() -> None:
    assert pixel(to_rgb(reopened(Image.new("RGBA", (2, 2), (255, 0, 0, 0))))) == (255, 255, 255)
    assert pixel(to_rgb(reopened(Image.new("RGBA", (2, 2), (0, 0, 0, 51))))) == (204, 204, 204)
    assert pixel(to_rgb(reopened(Image.new("LA", (2, 2), (0, 0))))) == (255, 255, 255)
    assert pixel(to_rgb(reopened(Image.new("LA", (2, 2), (9, 255))))) == (9, 9, 9)


def test_palette_with_and_without_a_transparent_colour() -> None:
    palette = Image.new("P", (2, 1))
    palette.putpalette([10, 20, 30, 200, 0, 0])
    palette.putdata([0, 1])
    assert pixel(to_rgb(reopened(palette)), 1) == (200, 0, 0)
    transparent = to_rgb(reopened(palette, transparency=1))
    assert pixel(transparent, 0) == (10, 20, 30) and pixel(transparent, 1) == (255, 255, 255)


def test_transparent_colour_of_a_grey_or_rgb_png() -> None:
    rgb = to_rgb(reopened(Image.new("RGB", (1, 1), (5, 6, 7)), transparency=(5, 6, 7)))
    assert pixel(rgb) == (255, 255, 255)


def test_cmyk_reads_as_ink() -> None:
    assert pixel(to_rgb(reopened(Image.new("CMYK", (8, 8), (0, 0, 0, 0)), "TIFF"))) == (255, 255, 255)
    red = pixel(to_rgb(reopened(Image.new("CMYK", (8, 8), (0, 255, 255, 0)), "JPEG", quality=100)))
    assert red[0] > 240 and red[1] < 15 and red[2] < 15


def test_sixteen_bits_are_scaled_not_clipped() -> None:
    values = np.array([[0, 257 * 10, 257 * 128, 65535]], dtype=np.uint16)
    scaled = to_rgb(reopened(Image.fromarray(values)))
    assert [pixel(scaled, x)[0] for x in range(4)] == [0, 10, 128, 255]


def test_thirty_two_bit_integers_and_floats_are_scaled_by_depth() -> None:
    as_int = to_rgb(Image.fromarray(np.array([[0, 257 * 128, 65535]], dtype=np.int32)))
    assert [pixel(as_int, x)[0] for x in range(3)] == [0, 128, 255]
    deep = to_rgb(Image.fromarray(np.array([[0, 2**31 - 1]], dtype=np.int32)))
    assert [pixel(deep, x)[0] for x in range(2)] == [0, 255]
    unit = to_rgb(Image.fromarray(np.array([[0.0, 0.2, 1.0]], dtype=np.float32)))
    assert [pixel(unit, x)[0] for x in range(3)] == [0, 51, 255]
    byte = to_rgb(Image.fromarray(np.array([[0.0, 51.0, 255.0]], dtype=np.float32)))
    assert [pixel(byte, x)[0] for x in range(3)] == [0, 51, 255]


@pytest.mark.parametrize("value", [-1.0, np.nan, np.inf, 1e6])
def test_deep_pictures_without_a_brightness_range_are_refused(value: float) -> None:
    with pytest.raises(ValueError, match="mode 'F'"):
        to_rgb(Image.fromarray(np.array([[value, 0.0]], dtype=np.float32)))


def test_exif_orientation_is_applied_once() -> None:
    upright = Image.new("RGB", (4, 2), (0, 0, 0))
    upright.putpixel((0, 0), (255, 255, 255))
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera lay on its side: turn by 90 degrees clockwise
    turned = to_rgb(reopened(upright, exif=exif))
    assert turned.size == (2, 4) and pixel(turned, 1, 0) == (255, 255, 255)
    assert to_rgb(turned).size == (2, 4)


def test_truncated_file_raises() -> None:
    file = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)).save(file, "JPEG")
    with pytest.raises(OSError, match="truncated"):
        to_rgb(Image.open(io.BytesIO(file.getvalue()[: len(file.getvalue()) // 2])))


def test_to_tensor_gives_channels_first_in_unit_range() -> None:
    image = Image.new("RGB", (3, 2), (0, 51, 255))
    image.putpixel((2, 1), (255, 0, 0))
    tensor = to_tensor(image)
    assert tensor.shape == (3, 2, 3) and tensor.dtype == torch.float32 and tensor.is_contiguous()
    torch.testing.assert_close(tensor[:, 0, 0], torch.tensor([0.0, 0.2, 1.0]))
    torch.testing.assert_close(tensor[:, 1, 2], torch.tensor([1.0, 0.0, 0.0]))
    tensor.fill_(0.5)  # writable, and no view of the picture
    assert image.getpixel((0, 0)) == (0, 51, 255)
    torch.testing.assert_close(to_tensor(Image.new("L", (1, 1), 51)), torch.full((3, 1, 1), 0.2))


@pytest.mark.parametrize("size", [(500, 375), (375, 500), (300, 300), (20, 31)])
def test_resize_and_crop_equals_resizing_the_whole_and_cropping(size: tuple[int, int]) -> None:
    image = Image.fromarray(np.random.default_rng(0).integers(0, 255, (*size[::-1], 3), dtype=np.uint8))
    short = 256
    width, height = size
    whole = (short, int(short * height / width)) if width <= height else (int(short * width / height), short)
    left, top = round((whole[0] - 224) / 2), round((whole[1] - 224) / 2)
    expected = image.resize(whole, Image.Resampling.BICUBIC).crop((left, top, left + 224, top + 224))
    result = resize_and_crop(image, 224)
    assert result.size == (224, 224)
    assert np.abs(np.asarray(result).astype(int) - np.asarray(expected)).max() <= 1  # rounding of the two passes


def test_resize_and_crop_keeps_the_centre() -> None:
    image = Image.new("RGB", (300, 100), (0, 0, 0))
    image.paste((255, 255, 255), (100, 0, 200, 100))
    assert np.asarray(resize_and_crop(image, 28)).min() > 200
    with pytest.raises(ValueError, match="size"):
        resize_and_crop(image, 0)
