"""The contract of a source of substitute words.

A source proposes words, ranked. What no attack may use (stop words, the word, class names) is dropped in
one place, `attacks.bert_attack`. Every source answers for many texts in one call, so that a model behind it runs in
batches.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    pass

Ranked = list[dict[int, list[str]]]


class CandidateSource(Protocol):
    """Anything that proposes replacements for words."""

    def __call__(self, texts: Sequence[str], words: Sequence[Sequence[int]], num_candidates: int) -> Ranked:
        """Replacements for words `words[i]` (numbers in the order of `split_words`) of `texts[i]`.

        Returns:
            For each text a dictionary from word number to at most `num_candidates` replacements, best first. A word
            without any may be left out.
        """
