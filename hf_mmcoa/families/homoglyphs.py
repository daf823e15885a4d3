"""Letters that look like other letters: Cyrillic, Greek, rare Latin and fullwidth ones.

The pairs are facts of Unicode: those that confusables.txt of Unicode Technical Standard 39 lists for a single letter of
these scripts, without those that a reader would tell apart at once, and the fullwidth forms, whose compatibility
decomposition is the letter. CLIP's tokenizer composes (NFC) and lower-cases; it maps none of them to the letter.
"""

from __future__ import annotations

import string
from collections.abc import Iterator
from dataclasses import dataclass

from .parts import Instance

LOOK_ALIKES = {
    "a": (0x0251, 0x03B1, 0x0430), "b": (0x0184, 0x042C), "c": (0x03F2, 0x0441), "d": (0x0501,), "e": (0x0435, 0x04BD),
    "f": (0x1E9D, 0xA799, 0xAB35), "g": (0x018D, 0x0261, 0x1D83), "h": (0x04BB,), "i": (0x0131, 0x0269, 0x03B9, 0x0456),
    "j": (0x03F3, 0x0458), "l": (0x0399, 0x0406, 0x04C0), "o": (0x03BF, 0x03C3, 0x043E), "p": (0x03C1, 0x0440),
    "q": (0x051B,), "r": (0x0433, 0x1D26, 0xAB47), "s": (0x01BD, 0x0455), "u": (0x028B, 0x03C5, 0xA79F),
    "v": (0x03BD, 0x0475), "w": (0x026F, 0x0461, 0x051D), "x": (0x0445,), "y": (0x0263, 0x03B3, 0x0443, 0x04AF),
    "A": (0x0391, 0x0410), "B": (0x0392, 0x0412), "C": (0x03F9, 0x0421), "E": (0x0395, 0x0415), "H": (0x0397, 0x041D),
    "J": (0x037F, 0x0408), "K": (0x039A, 0x041A), "M": (0x039C, 0x041C), "N": (0x039D,), "O": (0x039F, 0x041E),
    "P": (0x03A1, 0x0420), "S": (0x0405,), "T": (0x03A4, 0x0422), "X": (0x03A7, 0x0425), "Y": (0x03A5, 0x04AE),
    "Z": (0x0396,),
}  # fmt: skip
"""Code points that look like a letter."""

FULLWIDTH = 0xFEE0  # from an ASCII character to its fullwidth form (Unicode, block FF00)


def look_alikes(letter: str) -> list[str]:
    """Return the letters that look like a letter of a to z or A to Z, its fullwidth form last."""
    return [*map(chr, LOOK_ALIKES.get(letter, ())), chr(ord(letter) + FULLWIDTH)]


@dataclass(frozen=True)
class Homoglyphs:
    """One letter replaced by a look-alike: at one of its places, or at all of them.

    Instances: ("homoglyph", letter and look-alike), such as Latin and Cyrillic a.
    """

    @property
    def inventory(self) -> list[Instance]:
        """Return all instances, see `Changes`."""
        return [("homoglyph", letter + other) for letter in string.ascii_letters for other in look_alikes(letter)]

    def __call__(self, text: str) -> Iterator[tuple[Instance, str]]:
        """Yield changed texts, see `Changes`."""
        for place, letter in enumerate(text):
            if letter in string.ascii_letters:
                for other in look_alikes(letter):
                    yield ("homoglyph", letter + other), text[:place] + other + text[place + 1 :]
        for letter in dict.fromkeys(each for each in text if each in string.ascii_letters):
            for other in look_alikes(letter):
                yield ("homoglyph", letter + other), text.replace(letter, other)
