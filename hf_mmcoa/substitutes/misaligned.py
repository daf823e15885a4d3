"""The release's misaligned candidates for any source, to measure the effect of that fault without a language model.

The release reads the masked language model's output one position to the left, so each word gets the candidates of its
left neighbour (METHODS.md, section 4). `MaskedLMCandidates(align_to_cls=False)` does the same with the language model.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from .source import CandidateSource, Ranked


@dataclass(frozen=True)
class LeftNeighboursCandidates:
    """For each word, the candidates of `source` for the word before it; none for the first word."""

    source: CandidateSource

    def __call__(self, texts: Sequence[str], words: Sequence[Sequence[int]], num_candidates: int) -> Ranked:
        """See `CandidateSource`."""
        left = [[word - 1 for word in own if word > 0] for own in words]
        return [
            {word + 1: listed for word, listed in found.items()} for found in self.source(texts, left, num_candidates)
        ]
