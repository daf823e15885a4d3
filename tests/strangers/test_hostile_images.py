"""A picture from anywhere works as documented, or is refused by a ValueError that names it, in little memory."""

from __future__ import annotations

import base64
import io
import os
import resource
import struct
import zlib
from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
from PIL import Image

from hf_mmcoa.data import images
from hf_mmcoa.data.images import MAX_PIXELS, read_image, to_rgb, to_tensor
from hf_mmcoa.data.load import load_benchmark
from hf_mmcoa.data.rows import ImageRows, ImageStream, collate
from hf_mmcoa.demo import read_picture
from hf_mmcoa.models.encoding import pixel_values
from hf_mmcoa.report.gallery import _decode


def png(width: int, height: int, *chunks: tuple[bytes, bytes]) -> bytes:
    """A PNG that claims a size, and holds all of it as zeros where that is little."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    lines = min(height, 100_000) if width < 1000 else 1
    data = zlib.compress(bytes((width // 8 + 2) * lines))
    parts = [(b"IHDR", header), *chunks, (b"IDAT", data), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in parts)


def stored(image: Image.Image, kind: str, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def noise(mode: str = "RGB", side: int = 64) -> Image.Image:
    shape = (side, side, len(Image.new(mode, (1, 1)).getbands()))
    values = np.random.default_rng(0).integers(0, 255, shape, dtype=np.uint8)
    return Image.fromarray(values.squeeze(-1) if shape[2] == 1 else values, mode)


def rows_of(*pictures: bytes | str, **options: object) -> ImageRows:
    column = [
        {"bytes": one, "path": None} if isinstance(one, bytes) else {"bytes": None, "path": one} for one in pictures
    ]
    features = datasets.Features({"image": datasets.Image(), "label": datasets.Value("int64")})
    data = datasets.Dataset.from_dict({"image": column, "label": [0] * len(column)}, features=features)
    return ImageRows(data, **options)


EXIF = Image.Exif()
EXIF[0x0112] = 6  # turned by 90 degrees
FRAMES = [Image.new("RGB", (4, 4), colour) for colour in ("blue", "red")]
WORKS = {
    "a JPEG": (stored(noise(), "JPEG"), (64, 64)),
    "1 x 1": (stored(Image.new("RGB", (1, 1), "red"), "PNG"), (1, 1)),
    "1 x 60000": (png(1, 60_000), (1, 60_000)),
    "60000 x 1": (png(60_000, 1), (60_000, 1)),
    "16 bits": (stored(Image.fromarray(np.full((3, 2), 40_000, np.uint16)), "PNG"), (2, 3)),
    "palette": (stored(noise().quantize(7), "GIF"), (64, 64)),
    "CMYK": (stored(noise("CMYK"), "JPEG"), (64, 64)),
    "transparent": (stored(noise("RGBA"), "PNG"), (64, 64)),
    "grey and transparent": (stored(noise("LA"), "PNG"), (64, 64)),
    "animated": (stored(FRAMES[0], "GIF", save_all=True, append_images=FRAMES[1:]), (4, 4)),
    "turned": (stored(Image.new("RGB", (4, 2)), "JPEG", exif=EXIF), (2, 4)),
    "a broken EXIF block": (stored(Image.new("RGB", (4, 2)), "JPEG", exif=b"Exif\0\0MM\0*\0\0\0\x08\xff\xff"), (4, 2)),
}
WHOLE = stored(noise(), "PNG")
REFUSED = {
    "a bomb": (png(100_000, 100_000), "far too large; at most 89,478,485"),
    "over the limit, where Pillow only warns": (png(10_000, 10_000), "10000 x 10000 pixels; at most 89,478,485"),
    "a text": (b"no picture at all", "it is no PNG, JPEG"),
    "nothing": (b"", "it is empty"),
    "cut off": (WHOLE[: len(WHOLE) // 2], "could not be read as a picture"),
    "no header": (WHOLE[:20], "no PNG|could not be read"),
    "a page of PostScript": (stored(noise(), "EPS"), "it is no PNG"),  # Pillow would start Ghostscript
    "a text chunk of 70 MB": (png(8, 8, (b"zTXt", b"a\0\0" + zlib.compress(bytes(70 << 20)))), "could not be read"),
}


@pytest.mark.parametrize("name", WORKS)
def test_what_works(name: str, tmp_path: Path) -> None:
    content, size = WORKS[name]
    (tmp_path / "misnamed.jpg").write_bytes(content)  # the content decides, not the name
    for picture in (
        read_image(content),
        read_image(tmp_path / "misnamed.jpg"),
        read_picture(tmp_path / "misnamed.jpg"),
    ):
        assert picture.mode == "RGB" and picture.size == size
    image = rows_of(content)[0]["image"]
    assert image.shape == (3, *size[::-1]) and 0 <= image.min() <= image.max() <= 1
    assert rows_of(content, perturb_at="model", image_size=32)[0]["image"].shape == (3, 32, 32)


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused_names_row_and_file(name: str, tmp_path: Path) -> None:
    content, problem = REFUSED[name]
    (tmp_path / "named.png").write_bytes(content)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(ValueError, match=problem):
        read_image(content)
    with pytest.raises(ValueError, match=rf"row 1: the picture in column 'image' .*({problem})"):
        list(ImageRows(rows_of(WHOLE, content)._rows))
    with pytest.raises(ValueError, match=rf"row 1: the picture \S+named\.png in column 'image' .*({problem})"):
        rows_of(WHOLE, str(tmp_path / "named.png"))[1]
    with pytest.raises(ValueError, match=r"^named\.png: ") as refused:
        read_picture(tmp_path / "named.png")
    assert str(tmp_path) not in str(refused.value)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak < 200_000  # kB: nothing was unpacked


def test_a_stream_names_its_rows_too() -> None:
    stream = rows_of(WHOLE, b"no picture")._rows.to_iterable_dataset()
    with pytest.raises(ValueError, match=r"row 1: the picture .*it is no PNG.*leave the row out"):
        list(ImageStream(stream))


@pytest.mark.parametrize("lifted", [None, 10])
def test_the_limit_is_ours_whatever_pillow_s_is(lifted: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    assert MAX_PIXELS == 89_478_485  # Pillow's own default
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", lifted)
    monkeypatch.setattr(images, "MAX_PIXELS", 64 * 64 - 1)
    for read in (lambda: read_image(WHOLE), lambda: to_rgb(noise("RGBA")), lambda: to_tensor(noise())):
        with pytest.raises(ValueError, match=r"at most 4,095"):
            read()
    if lifted is None:
        monkeypatch.setattr(images, "MAX_PIXELS", 64 * 64)
        assert read_image(WHOLE).size == (64, 64)


@pytest.mark.filterwarnings("error")
def test_pillow_s_warning_made_an_error_is_the_same_refusal() -> None:
    with pytest.raises(ValueError, match="far too large"):
        read_image(png(10_000, 10_000))


def test_bands_change_no_pixel(monkeypatch: pytest.MonkeyPatch) -> None:
    deep = Image.fromarray(np.random.default_rng(0).integers(0, 65535, (64, 64), dtype=np.uint16))
    pictures = [noise("RGBA"), noise("LA"), deep]
    whole = [np.asarray(to_rgb(one)) for one in pictures]
    monkeypatch.setattr(images, "_BAND", 64 * 5)  # 12 bands and a rest
    for one, expected in zip(pictures, whole, strict=True):
        assert np.array_equal(np.asarray(to_rgb(one)), expected)


def test_a_symlink_is_followed_and_what_it_leads_to_must_be_a_picture(tmp_path: Path) -> None:
    """The Hub's cache is made of them; whatever one leads to is only ever decoded as a picture."""
    for name in ("cat", "dog"):
        (tmp_path / "data" / name).mkdir(parents=True)
        (tmp_path / "data" / name / "a.png").write_bytes(WHOLE)
    (tmp_path / "elsewhere.png").write_bytes(WHOLE)
    os.symlink(tmp_path / "elsewhere.png", tmp_path / "data" / "cat" / "b.png")
    assert len(ImageRows(load_benchmark(str(tmp_path / "data"), split="train"))[1]["image"]) == 3
    (tmp_path / "elsewhere.png").write_text("root:x:0:0")
    with pytest.raises(ValueError, match=r"row 0: the picture \S+secret\.png .* it is no PNG") as refused:
        os.symlink(tmp_path / "elsewhere.png", tmp_path / "secret.png")
        rows_of(str(tmp_path / "secret.png"))[0]
    assert "root:" not in str(refused.value)


@pytest.mark.parametrize(
    "address", ["http://127.0.0.1:1/a.png", "https://e.vil/a.png", "zip://a.png::http://e.vil/a.zip"]
)
def test_no_row_makes_this_machine_open_an_address(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hf_mmcoa.data.rows.xopen", lambda *_: pytest.fail("it was opened"))
    with pytest.raises(ValueError, match=r"row 0: .* is not on the Hub, and is not fetched"):
        rows_of(address)[0]


def test_streamed_pictures_come_from_the_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    opened = []
    monkeypatch.setattr("hf_mmcoa.data.rows.xopen", lambda address, mode: opened.append(address) or io.BytesIO(WHOLE))
    assert rows_of("hf://datasets/a/b/c.png")[0]["image"].shape == (3, 64, 64)
    assert opened == ["hf://datasets/a/b/c.png"]


def test_an_array_without_pixels_is_refused() -> None:
    rows = datasets.Dataset.from_dict({"image": [[[1, 2], [3, 4]]], "label": [0]})
    assert ImageRows(rows)[0]["image"].shape == (3, 2, 2)
    with pytest.raises(ValueError, match="row 0: the picture"):
        ImageRows(datasets.Dataset.from_dict({"image": [[[[[1]]]]], "label": [0]}))[0]


@pytest.mark.parametrize("label", ["cat", 1.5, [1], float("nan")])
def test_a_label_that_is_no_integer_is_named(label: object) -> None:
    data = datasets.Dataset.from_dict({"image": [{"bytes": WHOLE, "path": None}], "label": [label]})
    with pytest.raises(ValueError, match=r"row 0 has .* in column 'label', not an integer"):
        ImageRows(data)[0]


def test_a_long_strip_is_not_enlarged_to_gigabytes(tiny_processor) -> None:
    strip = rows_of(png(1, 60_000))[0]["image"][None]
    with pytest.raises(ValueError, match=r"60000x1 are more than 100 times as long as wide.*perturb_at"):
        pixel_values(strip, tiny_processor.image_processor)
    assert pixel_values(torch.rand(1, 3, 100, 1), tiny_processor.image_processor).shape == (1, 3, 32, 32)


def test_strips_and_squares_in_one_batch_name_the_way_out() -> None:
    with pytest.raises(ValueError, match=r"row 0 is 60000x1, row 1 is 64x64"):
        collate(rows_of(png(1, 60_000), WHOLE).__getitems__([0, 1]))


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_pictures_inside_a_gallery_are_held_to_it_too() -> None:
    with pytest.raises(ValueError, match="at most 33,554,432"):
        _decode(base64.b64encode(png(10_000, 10_000)).decode())
    with pytest.raises(ValueError, match="it is no PNG"):
        _decode(base64.b64encode(stored(noise(), "JPEG")).decode())
