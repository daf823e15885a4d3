"""Upper and lower case, and blanks where they do not belong.

CLIP's tokenizer lower-cases a text and reads any white space as one blank, so it reads most of these texts as the
original: of this family, only words that are run together or broken apart can harm a CLIP.
"""

from __future__ import annotations

import random
import string
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import product

from .parts import Instance


def _random_caps(seed: int) -> Callable[[str], str]:
    def write(text: str) -> str:
        draw = random.Random(f"{seed} {text}")
        return "".join(each.upper() if draw.random() < 0.5 else each.lower() for each in text)

    return write


STYLES: dict[str, Callable[[str], str]] = {
    "upper": str.upper,
    "lower": str.lower,
    "title": str.title,
    "sentence": str.capitalize,
    "swapped": str.swapcase,
    "camel": lambda text: "".join(f"{word[:1].upper()}{word[1:]} " for word in text.split(" "))[:-1],
    "alternating": lambda text: "".join(c.upper() if i % 2 else c.lower() for i, c in enumerate(text)),
    "last letters": lambda text: " ".join(word[:-1] + word[-1:].upper() for word in text.split(" ")),
    "random caps 1": _random_caps(1),
    "random caps 2": _random_caps(2),
    "random caps 3": _random_caps(3),
    "double blanks": lambda text: text.replace(" ", "  "),
    "triple blanks": lambda text: text.replace(" ", "   "),
    "tabs": lambda text: text.replace(" ", "\t"),
    "line breaks": lambda text: text.replace(" ", "\n"),
    "no-break spaces": lambda text: text.replace(" ", "\u00a0"),
    "blank before": lambda text: f" {text}",
    "blank after": lambda text: f"{text} ",
    "line break after": lambda text: f"{text}\n",
    "tab before": lambda text: f"\t{text}",
}
"""Ways of writing a whole text."""


@dataclass(frozen=True)
class CaseAndSpace:
    """The text in another case or with other white space, or with one blank too few or too many.

    Instances: ("style", one of `STYLES`); ("joined", "of") where the blank between o and f is left out; ("broken",
    "of") where one is put between them inside a word.
    """

    @property
    def inventory(self) -> list[Instance]:
        """Return all instances, see `Changes`."""
        pairs = ["".join(pair) for pair in product(string.ascii_lowercase, repeat=2)]
        return [*(("style", style) for style in STYLES), *product(("joined", "broken"), pairs)]

    def __call__(self, text: str) -> Iterator[tuple[Instance, str]]:
        """Yield changed texts, see `Changes`."""
        for style, write in STYLES.items():
            yield ("style", style), write(text)
        for place in range(1, len(text)):
            before, after = text[place - 1], text[place]
            if _letters(before, after):
                yield ("broken", (before + after).lower()), f"{text[:place]} {text[place:]}"
            elif after == " " and _letters(before, text[place + 1 : place + 2]):
                yield ("joined", (before + text[place + 1]).lower()), text[:place] + text[place + 1 :]


def _letters(*characters: str) -> bool:
    return all(each and each in string.ascii_letters for each in characters)
