"""The release's misaligned candidates for any source, to measure the effect of that fault without a language model.

The release reads the masked language model's output one position to the left, so each word gets the candidates of its
left neighbour (docs/methods.md, section 4). `MaskedLMCandidates(align_to_cls=False)` does so with the
language model.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from .source import CandidateSource, Ranked
from .words import Place, span_of


@dataclass(frozen=True)
class LeftNeighboursCandidates:
    """For each word, the candidates of `source` for the word or the phrase before it; none for the first word."""

    source: CandidateSource

    def __call__(self, texts: Sequence[str], words: Sequence[Sequence[int]], num_candidates: int) -> Ranked:
        """See `CandidateSource`."""
        left = [[word - 1 for word in own if word > 0] for own in words]
        ranked: Ranked = []
        for own, found in zip(words, self.source(texts, left, num_candidates), strict=True):
            shifted: dict[Place, list[str]] = {}
            for place, listed in found.items():
                _, word = span_of(place)
                if word in own:
                    shifted[word] = (shifted.get(word, []) + listed)[:num_candidates]
            ranked.append(shifted)
        return ranked
