"""Substitutes for the class words of Fashion-MNIST that keep the label true.

`load_benchmark("fashion-mnist")` loads the images. As with the digits, training may use one half of each list, and the
other is held out. In a class name of several words, one word is substituted: "top" in "t shirt top", "boot" in "ankle
boot".
"""

from __future__ import annotations

from collections.abc import Sequence

from .source import Ranked
from .synonyms import SynonymTable
from .words import Place, words_of

# As `clean_class_name` returns them.
CLASS_NAMES = (
    "t shirt top", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot",
)  # fmt: skip


class ClothingSynonyms(SynonymTable):
    """A `SynonymTable` that leaves the "shirt" of "t shirt" alone: its substitutes belong to the class "shirt"."""

    def __call__(self, texts: Sequence[str], words: Sequence[Sequence[int]], num_candidates: int) -> Ranked:
        """See `CandidateSource`."""
        return [
            {place: [] if _is_t_shirt(text, place) else listed for place, listed in found.items()}
            for text, found in zip(texts, super().__call__(texts, words, num_candidates), strict=True)
        ]

    def __repr__(self) -> str:
        return super().__repr__().replace("SynonymTable", "ClothingSynonyms")

    def split(self, seed: int | str) -> tuple[SynonymTable, SynonymTable]:
        """Split as `SynonymTable.split` does, into two tables of this class."""
        known, unseen = super().split(seed)
        return ClothingSynonyms(dict(known.table)), ClothingSynonyms(dict(unseen.table))


def _is_t_shirt(text: str, place: Place) -> bool:
    return isinstance(place, int) and words_of(text)[max(place - 1, 0) : place + 1] == ["t", "shirt"]


SYNONYMS = ClothingSynonyms(
    {
        "top": ("tee", "singlet", "camisole", "undershirt", "halter", "tshirt"),
        "trouser": ("pants", "slacks", "breeches", "chinos", "jeans", "pantaloons"),
        "pullover": ("sweater", "jumper", "jersey", "sweatshirt", "slipover", "hoodie"),
        "dress": ("gown", "frock", "sundress", "minidress", "pinafore", "ballgown"),
        "coat": ("overcoat", "jacket", "parka", "anorak", "trenchcoat", "greatcoat"),
        "sandal": ("flipflop", "slingback", "espadrille", "huarache", "mule", "clog"),
        "shirt": ("blouse", "chemise", "buttondown", "kurta", "guayabera", "dashiki"),
        "sneaker": ("trainer", "plimsoll", "runner", "gymshoe", "sandshoe", "kicks"),
        "bag": ("handbag", "purse", "satchel", "tote", "clutch", "pouch"),
        "boot": ("bootee", "bootie", "chukka", "wellington", "jackboot", "buskin"),
    }
)
