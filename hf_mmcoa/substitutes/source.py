"""The contract of a source of substitute words.

A source proposes ranked candidates. `attacks.bert_attack` drops those that no attack may use: stop words, the word
itself, class names, and those with more words than the budget allows. Every source takes many texts in one call, so
that a model behind it runs in batches.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from .words import Place

Ranked = list[dict[Place, list[str]]]  # for each text, word or phrase -> candidates, best first


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
            left out. A source that knows phrases adds those that hold one of the words, under the numbers of their
            first word and of the word after them: `{4: ["cup"], (3, 5): ["stein"]}` in "a photo, a beer mug".
        """
