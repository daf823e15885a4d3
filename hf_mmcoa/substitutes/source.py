"""The contract of a source of substitute words.

A source proposes ranked candidates. `attacks.bert_attack` drops those that no attack may use: stop words, the word
itself and class names. Every source takes many texts in one call, so that a model behind it runs in batches.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

Ranked = list[dict[int, list[str]]]  # for each text, word number -> candidates, best first


class CandidateSource(Protocol):
    """Anything that proposes replacements for words."""

    def __call__(self, texts: Sequence[str], words: Sequence[Sequence[int]], num_candidates: int) -> Ranked:
        """Propose substitutes for words of many texts.

        Args:
            texts: the texts.
            words: for each text, the numbers of the words to substitute, counted as by `split_words`.
            num_candidates: largest number of candidates per word.

        Returns:
            For each text, a dictionary from word number to candidates, best first. A word without candidates may be
            left out.
        """
