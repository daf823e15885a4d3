"""Typing errors: of the fingers on a keyboard, and any edit of a character that an adversary may choose."""

from __future__ import annotations

import string
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from typing import Protocol

from .parts import Instance

# US QWERTY: the rows of letters. Each lower row stands half a key further to the right, so that a key touches two keys
# of the row below it: "g" touches v and b.
ROWS = ("qwertyuiop", "asdfghjkl", "zxcvbnm")


def _neighbours() -> dict[str, str]:
    places = {key: (number, place) for number, row in enumerate(ROWS) for place, key in enumerate(row)}
    touching = ((0, -1), (0, 1), (1, -1), (1, 0), (-1, 0), (-1, 1))
    at = {place: key for key, place in places.items()}
    return {
        key: "".join(
            at[number + down, place + right] for down, right in touching if (number + down, place + right) in at
        )
        for key, (number, place) in places.items()
    }


NEIGHBOURS = _neighbours()
"""The letters whose keys touch a letter's key."""


@dataclass(frozen=True)
class KeyboardTypos:
    """One slip of a finger: a letter's neighbour on a US QWERTY keyboard, a letter twice, not at all, or with the next.

    Instances: ("adjacent", "op") for o typed as p, ("doubled", "o"), ("dropped", "o"), ("transposed", "on") for no in
    place of on; each wherever the letters stand. Only a to z are changed, and no word of a single letter is dropped.
    """

    @property
    def inventory(self) -> list[Instance]:
        """Return all instances, see `Changes`."""
        letters = string.ascii_lowercase
        return [
            *(("adjacent", key + other) for key in letters for other in NEIGHBOURS[key]),
            *(("doubled", key) for key in letters),
            *(("dropped", key) for key in letters),
            *(("transposed", first + second) for first, second in product(letters, letters) if first != second),
        ]

    def __call__(self, text: str) -> Iterator[tuple[Instance, str]]:
        """Yield changed texts, see `Changes`."""
        for place, written in enumerate(text):
            letter = written.lower()
            if letter not in NEIGHBOURS:
                continue
            before, after = text[:place], text[place + 1 :]
            for key in NEIGHBOURS[letter]:
                yield ("adjacent", letter + key), before + (key.upper() if written.isupper() else key) + after
            yield ("doubled", letter), before + written + letter + after
            if before[-1:].isalpha() or after[:1].isalpha():
                yield ("dropped", letter), before + after
            if (following := after[:1].lower()) in NEIGHBOURS and following != letter:
                yield ("transposed", letter + following), before + after[0] + written + after[1:]


class EditListing(Protocol):
    """An attack that lists texts with one edit: `LevenshteinAttack`."""

    @property
    def alphabet(self) -> str:
        """Characters that may be written."""

    def variants(self, texts: Sequence[str]) -> list[list[str]]:
        """List for each text the text itself and every text within one edit."""


@dataclass(frozen=True)
class CharacterEdits:
    """The texts of an attack that inserts, exchanges or deletes one character.

    Instances: ("insert", "x"), ("substitute", "x") with what is written, ("delete", "x") with what is lost; characters
    outside the alphabet, such as capitals, are lost under one instance ("delete", "other").

    Args:
        attack: `LevenshteinAttack` with at most one edit.
    """

    attack: EditListing

    @cached_property
    def inventory(self) -> list[Instance]:
        """Return all instances, see `Changes`."""
        characters = dict.fromkeys(self.attack.alphabet)
        return [
            *((kind, character) for kind in ("insert", "substitute", "delete") for character in characters),
            ("delete", "other"),
        ]

    def __call__(self, text: str) -> Iterator[tuple[Instance, str]]:
        """Yield changed texts, see `Changes`."""
        (pool,) = self.attack.variants([text])
        for changed in pool[1:]:
            place = next((i for i, (a, b) in enumerate(zip(text, changed, strict=False)) if a != b), None)
            if place is None:  # at the end
                place = min(len(text), len(changed))
            if len(changed) < len(text):
                yield ("delete", text[place] if text[place] in self.attack.alphabet else "other"), changed
            else:
                yield ("insert" if len(changed) > len(text) else "substitute", changed[place]), changed
