"""Checks of the text and the pictures that a person enters, before a model gets them; each refusal has a message."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from ..data.images import FORMATS as ALL_FORMATS
from ..data.images import read_image
from ..data.prompts import clean_class_name

MAX_BYTES = 20 * 2**20
MAX_PIXELS = 50_000_000  # 150 MB once decoded; a phone's picture has 12 to 50 million pixels
MAX_CLASSES = 100
FORMATS = tuple(each for each in ALL_FORMATS if each != "PPM")  # the formats that people upload


def read_picture(path: str | Path) -> Image.Image:
    """Read an untrusted file as an upright RGB picture; of several frames the first.

    Nothing is decoded before the size in the file's header is checked.

    Raises:
        ValueError: if the file or the picture is too large, or is no picture in one of `FORMATS`.
    """
    path = Path(path)
    if (size := path.stat().st_size) > MAX_BYTES:
        raise ValueError(
            f"The file has {size / 2**20:.0f} MB; at most {MAX_BYTES // 2**20} MB are allowed. Scale the picture down."
        )
    try:
        return read_image(path, FORMATS, MAX_PIXELS)
    except ValueError as error:
        reason = str(error).replace(str(path), path.name)  # a visitor must not see the server's paths
        raise ValueError(f"{path.name}: {reason}") from error


def parse_class_names(text: str) -> list[str]:
    """Split a text into class names at commas and line ends, in their order.

    Raises:
        ValueError: if there are fewer than two names, more than `MAX_CLASSES`, one without letters, or two that read
            the same in a prompt.

    Example:
        >>> parse_class_names("cat, red panda")
        ['cat', 'red panda']
    """
    names = [" ".join(name.split()) for name in re.split(r"[,\n]", text) if name.strip()]
    if len(names) < 2:
        given = f"there is only {names[0]!r}" if names else "there is none"
        raise ValueError(f"Enter at least two class names, separated by commas; {given}.")
    if len(names) > MAX_CLASSES:
        raise ValueError(f"{len(names)} class names are too many for this page; at most {MAX_CLASSES}.")
    _raise_if_alike(names)
    return names


def _raise_if_alike(names: Sequence[str]) -> None:
    seen: dict[str, str] = {}
    for name in names:
        cleaned = clean_class_name(name)
        if not cleaned:
            raise ValueError(f"The class name {name!r} has no letters; a prompt needs a word.")
        if cleaned in seen:
            both = (
                f"{name!r} twice" if seen[cleaned] == name else f"{seen[cleaned]!r} and {name!r}, which read the same"
            )
            raise ValueError(f"The class names contain {both}: no model can tell them apart. Remove one.")
        seen[cleaned] = name
