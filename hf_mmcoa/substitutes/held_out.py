"""Substitutes split once into a part that training may use and one that only evaluation sees (METHODS, section 7)."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from .source import CandidateSource
from .table import SynonymTable


@dataclass(frozen=True, kw_only=True)
class HalfOf:
    """The half of a source's proposals that a seeded hash of the word puts into `part`; the halves share no word.

    Args:
        source: asked for twice as many, so that about as many as asked for are left.
        part: "known" or "unseen".
        seed: of the split; the same words fall into the same part in every run and on every machine.
    """

    source: CandidateSource
    part: Literal["known", "unseen"]
    seed: int = 0

    def __call__(
        self, texts: Sequence[str], words: Sequence[Sequence[int]], num_candidates: int
    ) -> list[dict[int, list[str]]]:
        """See `CandidateSource`."""
        return [
            {index: [word for word in ranked if self._has(word)][:num_candidates] for index, ranked in found.items()}
            for found in self.source(texts, words, 2 * num_candidates)
        ]

    def _has(self, word: str) -> bool:
        digest = hashlib.sha256(f"{self.seed} {word.casefold()}".encode()).digest()
        return (digest[0] % 2 == 0) == (self.part == "known")


def known_and_unseen(source: CandidateSource, seed: int = 0) -> tuple[CandidateSource, CandidateSource]:
    """The two halves of a source: of a `SynonymTable` exact halves word by word, of any other source by `HalfOf`."""
    if isinstance(source, SynonymTable):
        return source.split(seed)
    return HalfOf(source=source, part="known", seed=seed), HalfOf(source=source, part="unseen", seed=seed)
