"""How many changes an attacked text has, counted from the two texts alone, whatever the attack says that it did."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Mapping
from functools import cached_property
from typing import Any

from ..substitutes.words import count_changes
from .attack_names import AttackName
from .threat_model import ThreatModel


class TextChanges:
    """Changes of texts in the unit of the attack that wrote them: words, or characters.

    Args:
        attacks: attacks on texts by "text/words", "text/words:unseen" or "text/characters".
        spec: the budgets.
    """

    def __init__(self, attacks: Mapping[str, Any], spec: ThreatModel) -> None:
        self._attacks, self._spec = attacks, spec

    def count(self, name: str, text: str, adv_text: str) -> int:
        """Return the fewest changes that make one text of the other; `name` may also name the adversary."""
        name = str(AttackName.parse(name)._replace(adversary=""))
        key = name, text, adv_text
        if key not in self._counted:
            self._counted[key] = self._count(name, text, adv_text)
        return self._counted[key]

    def allowed(self, name: str) -> int:
        """Return the most changes of one text."""
        return self._spec.max_edits if AttackName.parse(name).attack == "characters" else self._spec.max_changes

    def worst(self, name: str, pairs: Iterable[tuple[str, str]]) -> tuple[str, str]:
        """Return, of pairs of a text and its attacked form, the one with the most changes."""
        return max(sorted(set(pairs)), key=lambda pair: self.count(name, *pair))

    def _count(self, name: str, text: str, adv_text: str) -> int:
        if AttackName.parse(name).attack == "characters":
            return levenshtein(*(unicodedata.normalize("NFC", each) for each in (text, adv_text)))
        changes = count_changes(text, adv_text)
        if changes > self.allowed(name):  # a phrase that changes as a whole counts once; asking for phrases is dear
            changes = count_changes(text, adv_text, self._phrases(name, text))
        return changes

    def _phrases(self, name: str, text: str) -> list[tuple[int, int]]:
        if (name, text) not in self._listed:
            phrases = getattr(self._attacks.get(name), "phrases", None)
            self._listed[name, text] = phrases(text) if phrases is not None else []
        return self._listed[name, text]

    @cached_property
    def _counted(self) -> dict[tuple[str, str, str], int]:
        return {}

    @cached_property
    def _listed(self) -> dict[tuple[str, str], list[tuple[int, int]]]:
        return {}


def levenshtein(one: str, other: str) -> int:
    """Return how many insertions, deletions and substitutions of characters make one text of the other.

    Example:
        >>> levenshtein("kitten", "sitting")
        3
    """
    while one and other and one[0] == other[0]:
        one, other = one[1:], other[1:]
    while one and other and one[-1] == other[-1]:
        one, other = one[:-1], other[:-1]
    above = list(range(len(other) + 1))
    for row, a in enumerate(one, 1):
        line = [row]
        for column, b in enumerate(other, 1):
            line.append(min(above[column] + 1, line[-1] + 1, above[column - 1] + (a != b)))
        above = line
    return above[-1]
