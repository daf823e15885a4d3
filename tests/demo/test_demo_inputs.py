"""Files and class names from untrusted sources are read, or refused with a message."""

from __future__ import annotations

import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from hf_mmcoa.demo import inputs, parse_class_names, read_picture


def test_a_picture_is_read_upright_in_rgb(tmp_path):
    picture = Image.new("RGB", (4, 2), "red")
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was held on its side
    picture.save(tmp_path / "a.jpg", exif=exif)
    assert read_picture(tmp_path / "a.jpg").size == (2, 4)
    Image.new("RGBA", (3, 3), (0, 0, 0, 0)).save(tmp_path / "b.png")
    found = read_picture(tmp_path / "b.png")
    assert found.mode == "RGB" and np.asarray(found).min() == 255  # transparent is white


def test_of_several_frames_the_first_is_read(tmp_path):
    frames = [Image.new("RGB", (4, 4), colour) for colour in ("blue", "red")]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    assert np.asarray(read_picture(tmp_path / "a.gif"))[0, 0].tolist() == [0, 0, 255]


def png(width: int, height: int) -> bytes:
    """A PNG that claims a size and holds one empty line."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(width // 8 + 1)))


@pytest.mark.parametrize("side", [8_000, 12_000, 100_000])  # over our limit; where Pillow warns; where it raises
@pytest.mark.filterwarnings("error")
def test_a_decompression_bomb_is_refused_before_it_is_decoded(side, tmp_path):
    (tmp_path / "bomb.png").write_bytes(png(side, side))
    with pytest.raises(ValueError, match=r"at most 50,000,000"):
        read_picture(tmp_path / "bomb.png")


def test_a_picture_at_the_limit_is_read(tmp_path, monkeypatch):
    Image.new("L", (10, 10)).save(tmp_path / "a.png")
    monkeypatch.setattr(inputs, "MAX_PIXELS", 100)
    assert read_picture(tmp_path / "a.png").size == (10, 10)
    monkeypatch.setattr(inputs, "MAX_PIXELS", 99)
    with pytest.raises(ValueError, match="10 x 10 pixels; at most 99"):
        read_picture(tmp_path / "a.png")


def test_an_enormous_file_is_refused(tmp_path):
    with open(tmp_path / "a.png", "wb") as file:
        file.truncate(21 * 2**20)
    with pytest.raises(ValueError, match="21 MB; at most 20"):
        read_picture(tmp_path / "a.png")


def test_what_is_no_picture_is_refused(tmp_path):
    (tmp_path / "text.png").write_text("not a picture")
    Image.new("RGB", (4, 4)).save(tmp_path / "a.ppm")  # not of the formats: fewer decoders, fewer holes
    Image.new("RGB", (4, 4)).save(tmp_path / "page.eps")  # Pillow would start Ghostscript for it
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64), np.uint8)).save(tmp_path / "whole.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "whole.png").read_bytes()[:1000])
    for name in ("text.png", "a.ppm", "page.eps", "cut.png"):
        with pytest.raises(ValueError, match="could not be read as a picture") as refused:
            read_picture(tmp_path / name)
        assert str(tmp_path) not in str(refused.value)


def test_class_names_are_separated_by_commas_and_lines():
    assert parse_class_names(" cat,,red  panda \n dog,\n") == ["cat", "red panda", "dog"]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "there is none"),
        ("cat", "there is only 'cat'"),
        ("cat, dog, cat", "'cat' twice"),
        ("red_panda, dog, Red Panda", "'red_panda' and 'Red Panda', which read the same"),
        ("cat, ---", "'---' has no letters"),
        (", ".join(f"c{number}" for number in range(101)), "101 class names are too many"),
    ],
)
def test_class_names_that_cannot_be_told_apart_are_refused(text, problem):
    with pytest.raises(ValueError, match=problem):
        parse_class_names(text)
