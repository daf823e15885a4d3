"""The designs of the pictograms bed: where each comes from, under what licence, and how one of its pictures is drawn.

Only designs whose licence lets anyone pass the pictures on, changed, are here. OpenMoji and the first Emoji One ask for
share-alike (CC BY-SA 4.0) and are left out; `fluent-emoji` has the drawings of `fluent-emoji-flat` with other shading.
"""

from __future__ import annotations

import io
import json
import subprocess
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import resvg_py  # 0.5.0: another version may draw edges a little differently
from PIL import Image


@dataclass(frozen=True)
class Design:
    """One design: its npm package, and what its notice must say.

    Attributes:
        split: the split of the bed that all of its pictures belong to.
    """

    name: str
    package: str
    split: str
    title: str
    author: str
    licence: str
    licence_url: str
    source: str


CC_BY = ("CC-BY-4.0", "https://creativecommons.org/licenses/by/4.0/")
APACHE = ("Apache-2.0", "https://github.com/googlefonts/noto-emoji/blob/main/svg/LICENSE")
NOTO = "https://github.com/googlefonts/noto-emoji"
DESIGNS = (
    Design("noto", "@iconify-json/noto@1.2.9", "train", "Noto Emoji", "Google Inc.", *APACHE, NOTO),
    Design("noto-v1", "@iconify-json/noto-v1@1.2.5", "train", "Noto Emoji, version 1", "Google Inc.", *APACHE, NOTO),
    Design(
        "twemoji", "@iconify-json/twemoji@1.2.5", "train", "Twemoji", "Twitter, Inc. and other contributors", *CC_BY,
        "https://github.com/jdecked/twemoji",
    ),
    Design(
        "emojione", "@iconify-json/emojione@1.2.3", "train", "Emoji One, version 2", "Emoji One (Ranks.com Inc.)",
        *CC_BY, "https://github.com/EmojiTwo/emojitwo",
    ),
    Design(
        # The package says Apache-2.0, which is the licence of the code; the drawings have their own (LICENSE.md there).
        "fxemoji", "@iconify-json/fxemoji@1.2.2", "validation", "Firefox OS Emoji", "Mozilla Foundation", *CC_BY,
        "https://github.com/mozilla/fxemoji",
    ),
    Design(
        "fluent-emoji-flat", "@iconify-json/fluent-emoji-flat@1.2.6", "test", "Fluent Emoji, flat",
        "Microsoft Corporation", "MIT", "https://github.com/microsoft/fluentui-emoji/blob/main/LICENSE",
        "https://github.com/microsoft/fluentui-emoji",
    ),
    Design(
        "streamline-emojis", "@iconify-json/streamline-emojis@1.2.4", "test", "Streamline Emojis",
        "Streamline (https://streamlinehq.com)", *CC_BY, "https://github.com/webalys-hq/streamline-vectors",
    ),
)  # fmt: skip
# Where a design has its own name for a concept.
OWN_NAMES = {
    "fxemoji": {
        "bouquet": "bouquetofflowers", "dragon": "dragonhead", "hamster": "hampster", "hot pepper": "chilipepper",
        "mobile phone": "cellphone", "necktie": "tie", "optical disk": "opticaldiscicon", "printer": "printericon",
        "rabbit": "bunny", "racing car": "racecar", "tennis": "tennisball",
    },
}  # fmt: skip
# Read by eye: where a design has another thing under that name (a cricket bat, a revolver, a piano, a telephone, a
# flag), or nothing that can be seen (fog).
OTHER_THINGS = {
    "noto-v1": ("cricket", "water pistol"),
    "emojione": ("cricket", "water pistol"),
    "fxemoji": ("fog", "keyboard"),
    "streamline-emojis": ("headphone", "turkey", "water pistol"),
}


def unpack(package: str, folder: Path) -> Path:
    """Return the folder of an npm package "name@version", fetched by `npm pack` if it is not there yet."""
    target = folder / package.removeprefix("@").replace("/", "-")
    if not target.exists():
        command = ["npm", "pack", "--silent", "--pack-destination", str(folder), package]
        name = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()[-1]
        subprocess.run(["tar", "-xzf", str(folder / name), "--one-top-level=" + str(target)], check=True)
    return target / "package"


@dataclass(frozen=True)
class Icons:
    """The pictures of one design, found by an emoji's names."""

    design: Design
    folder: Path

    @cached_property
    def _content(self) -> dict:
        return json.loads((self.folder / "icons.json").read_text(encoding="utf-8"))

    @cached_property
    def _keys(self) -> dict[str, str]:
        icons = [*self._content["icons"], *self._content.get("aliases", {})]
        return {squeezed(key): key for key in reversed(icons)}

    def find(self, names: Iterable[str]) -> str | None:
        """Return the key of the first of the names that the design has; Streamline numbers several pictures of one."""
        names, own = list(names), OWN_NAMES.get(self.design.name, {})
        if set(names) & set(OTHER_THINGS.get(self.design.name, ())):
            return None
        for name in names:
            for each in (own.get(name, name), f"{name} 1"):
                if (key := self._keys.get(squeezed(each))) is not None:
                    return key
        return None

    def draw(self, key: str, size: int) -> Image.Image:
        """Return a picture in RGBA on a transparent ground, `size` pixels wide and high."""
        icon = self._content["icons"].get(key) or self._content["icons"][self._content["aliases"][key]["parent"]]
        box = {
            "left": 0, "top": 0, "width": self._content.get("width", 16), "height": self._content.get("height", 16),
        } | {name: icon[name] for name in ("left", "top", "width", "height") if name in icon}  # fmt: skip
        svg = (
            '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
            f'width="{size}" height="{size}" viewBox="{box["left"]} {box["top"]} {box["width"]} {box["height"]}">'
            f"{icon['body']}</svg>"
        )
        png = bytes(resvg_py.svg_to_bytes(svg_string=svg, width=size, height=size))
        picture = Image.open(io.BytesIO(png)).convert("RGBA")
        if picture.size != (size, size):
            raise ValueError(f"{self.design.name}: {key} came out as {picture.size}, not {size} pixels square.")
        return picture


def squeezed(name: str) -> str:
    """Return the lower-case letters and digits of a name: the packages write it with hyphens, spaces or neither."""
    plain = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode().lower()
    return "".join(each for each in plain if each.isalnum())
