"""Split substitutes into those that training may use and those for evaluation only (docs/methods.md, section 7)."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from .source import CandidateSource, Ranked
from .synonyms import SynonymTable


@dataclass(frozen=True, kw_only=True)
class HalfOf:
    """One half of a source's candidates, chosen by a seeded hash of the word; the two halves share no word.

    Args:
        source: source to split. It is asked for twice as many candidates, of which about half are kept.
        part: the half to propose, "known" or "unseen".
        seed: seed of the split; a word is in the same half in every run and on every machine.
    """

    source: CandidateSource
    part: Literal["known", "unseen"]
    seed: int = 0

    def __call__(self, texts: Sequence[str], words: Sequence[Sequence[int]], num_candidates: int) -> Ranked:
        """See `CandidateSource`."""
        return [
            {place: [word for word in ranked if self._has(word)][:num_candidates] for place, ranked in found.items()}
            for found in self.source(texts, words, 2 * num_candidates)
        ]

    def _has(self, word: str) -> bool:
        digest = hashlib.sha256(f"{self.seed} {word.casefold()}".encode()).digest()
        return (digest[0] % 2 == 0) == (self.part == "known")


def known_and_unseen(source: CandidateSource, seed: int = 0) -> tuple[CandidateSource, CandidateSource]:
    """Split a source: a `SynonymTable` into exact halves word by word, any other source by `HalfOf`."""
    if isinstance(source, SynonymTable):
        return source.split(seed)
    return HalfOf(source=source, part="known", seed=seed), HalfOf(source=source, part="unseen", seed=seed)
