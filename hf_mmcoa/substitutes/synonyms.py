"""Substitutes from a given table of words and phrases."""

from __future__ import annotations

import hashlib
import random
import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import InitVar, dataclass, field

from .source import CandidateSource, Ranked
from .words import WORD, Place, phrases_around, words_of


@dataclass(frozen=True, repr=False)
class SynonymTable:
    """A list of substitutes for each word or phrase, in order of preference, looked up without regard to case.

    A phrase ("beer mug") is found wherever its words follow each other, also as "beer-mug", and is replaced as a whole.
    Where it holds another key ("mug"), the substitutes of both are candidates.

    Args:
        synonyms: each key's substitutes; stored as `table`, a tuple of pairs, so that tables can be hashed.

    Raises:
        ValueError: if a key or a substitute holds no word, a key occurs twice, or a substitute is listed more than
            once: an attacked text must keep its meaning, so a substitute must belong to one word only.

    Example:
        >>> SynonymTable({"zero": ("nought", "nil"), "one": ("unity",)})(["a photo of a Zero"], [[4]], 10)
        [{4: ['nought', 'nil']}]
        >>> SynonymTable({"beer mug": ["stein"], "mug": ["cup"]})(["a photo of a beer mug"], [[4, 5]], 10)
        [{4: [], (4, 6): ['stein'], 5: ['cup']}]
    """

    synonyms: InitVar[Mapping[str, Sequence[str]]]
    table: tuple[tuple[str, tuple[str, ...]], ...] = field(init=False)

    def __post_init__(self, synonyms: Mapping[str, Sequence[str]]) -> None:
        for word, substitutes in synonyms.items():
            if not words_of(word):
                raise ValueError(f"`synonyms` has the key {word!r}, which holds no word.")
            if isinstance(substitutes, str) or not all(WORD.search(substitute) for substitute in substitutes):
                raise ValueError(f"`synonyms` of {word!r} must be a sequence of words, got {substitutes!r}.")
        table = tuple(
            (" ".join(words_of(word)), tuple(unicodedata.normalize("NFC", each) for each in substitutes))
            for word, substitutes in synonyms.items()
        )
        _raise_if_repeated(
            [word for word, _ in table], "has a key twice, but for case, hyphens or the encoding of accents"
        )
        _raise_if_repeated([each.casefold() for _, listed in table for each in listed], "lists words more than once")
        object.__setattr__(self, "table", table)

    def __call__(self, texts: Sequence[str], words: Sequence[Sequence[int]], num_candidates: int) -> Ranked:
        """See `CandidateSource`."""
        table = {word: list(listed[:num_candidates]) for word, listed in self.table}
        longest = max((word.count(" ") + 1 for word in table), default=1)
        ranked: Ranked = []
        for text, indices in zip(texts, words, strict=True):
            own = words_of(text)
            found: dict[Place, list[str]] = {}
            for index in indices:
                found[index] = table.get(own[index], [])
                phrases = phrases_around(text, index, longest) if longest > 1 else ()
                found |= {place: table[phrase] for place, phrase in phrases if phrase in table}
            ranked.append(found)
        return ranked

    def __repr__(self) -> str:
        digest = hashlib.sha256(str(self.table).encode()).hexdigest()[:8]  # distinguishes two tables in a result file
        substitutes = sum(len(listed) for _, listed in self.table)
        return f"SynonymTable({len(self.table)} words, {substitutes} substitutes, {digest})"

    def split(self, seed: int | str) -> tuple[SynonymTable, SynonymTable]:
        """Split each word's substitutes at random into two halves, known and unseen; an odd one goes to the known half.

        The draw of one word does not depend on the other words of the table.
        """
        known, unseen = {}, {}
        for word, listed in self.table:
            drawn = random.Random(f"{seed} {word}").sample(listed, (len(listed) + 1) // 2)
            known[word] = [each for each in listed if each in drawn]
            unseen[word] = [each for each in listed if each not in drawn]
        return SynonymTable(known), SynonymTable(unseen)


def most_substitutes(
    sources: Mapping[str, CandidateSource], texts: Sequence[str], num_candidates: int
) -> dict[str, int]:
    """Return for those sources that are tables how many substitutes a word or phrase of the texts has at most.

    Example:
        >>> table = SynonymTable({"zero": ("nought", "nil"), "one": ("unity",)})
        >>> most_substitutes({"known": table}, ["a photo of one"], 10)
        {'known': 1}
    """
    words = [range(len(words_of(text))) for text in texts]
    return {
        name: max(
            (len(found) for ranked in source(texts, words, num_candidates) for found in ranked.values()), default=0
        )
        for name, source in sources.items()
        if isinstance(source, SynonymTable)
    }


def _raise_if_repeated(words: list[str], what: str) -> None:
    repeated = sorted(word for word, times in Counter(words).items() if times > 1)
    if repeated:
        raise ValueError(f"`synonyms` {what}: {', '.join(repeated)}. Keep each in one place.")
