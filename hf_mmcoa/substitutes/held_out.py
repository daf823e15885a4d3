"""Split substitutes into those that training may use and those for evaluation only (docs/methods.md, section 7).

The seed of a split draws the halves, "known" and "unseen". Where something is chosen by unseen words, the unseen half
is split again: what is chosen on its validation words is measured on its test words.
"""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from .source import CandidateSource, Ranked
from .synonyms import SynonymTable

UnseenWords = Literal["all", "validation", "test"]
UNSEEN_WORDS: tuple[UnseenWords, ...] = get_args(UnseenWords)


@dataclass(frozen=True, kw_only=True)
class HalfOf:
    """One half of a source's candidates, chosen by a seeded hash of the word; the two halves share no word.

    Args:
        source: source to split. It is asked for twice as many candidates, of which about half are kept.
        part: the half to propose, "known" or "unseen"; of an unseen half "test" or "validation".
        seed: seed of the split; a word is in the same half in every run and on every machine.
    """

    source: CandidateSource
    part: Literal["known", "unseen", "test", "validation"]
    seed: int | str = 0

    def __call__(self, texts: Sequence[str], words: Sequence[Sequence[int]], num_candidates: int) -> Ranked:
        """See `CandidateSource`."""
        return [
            {place: [word for word in ranked if self._has(word)][:num_candidates] for place, ranked in found.items()}
            for found in self.source(texts, words, 2 * num_candidates)
        ]

    def _has(self, word: str) -> bool:
        digest = hashlib.sha256(f"{self.seed} {word.casefold()}".encode()).digest()
        return (digest[0] % 2 == 0) == (self.part in ("known", "test"))


def known_and_unseen(source: CandidateSource, seed: int = 0) -> tuple[CandidateSource, CandidateSource]:
    """Split a source: a `SynonymTable` into exact halves word by word, any other source by `HalfOf`."""
    if isinstance(source, SynonymTable):
        return source.split(seed)
    return HalfOf(source=source, part="known", seed=seed), HalfOf(source=source, part="unseen", seed=seed)


def measured_unseen(unseen: CandidateSource, words: UnseenWords, seed: int = 0) -> CandidateSource:
    """Return the unseen words that are measured: all, or the quarter of the whole list for validation or for test.

    A `SynonymTable` is split into exact quarters word by word, and an odd substitute goes to the test quarter: a word
    with a single unseen substitute has none for validation. Any other source is split by `HalfOf`. A class whose words
    have no substitute in the part is not attacked by words: its prompt stays as it is.

    Args:
        unseen: the unseen half of `known_and_unseen`.
        words: "all", "validation" or "test"; the latter two share no word.
        seed: seed of the word split. It draws the quarters independently of the halves.

    Raises:
        ValueError: if `words` is none of these, or the part of a table is empty.
    """
    if words not in UNSEEN_WORDS:
        raise ValueError(f"`unseen_words` must be one of {', '.join(UNSEEN_WORDS)}, got {words!r}.")
    if words == "all":
        return unseen
    own = f"{seed} quarters"
    if not isinstance(unseen, SynonymTable):
        return HalfOf(source=unseen, part=words, seed=own)
    part = unseen.split(own)[0 if words == "test" else 1]
    lacking = [word for word, listed in part.table if not listed]
    if len(lacking) == len(part.table):
        raise ValueError(
            f"`unseen_words`: no word has a {words} substitute; for one each, a list needs 3 words for test and 4 for "
            "validation. Give longer lists, or measure all unseen words."
        )
    if lacking:
        warnings.warn(
            f"`unseen_words`: no {words} substitutes for {', '.join(lacking)}: these words are not attacked. Lists of "
            "4 words and more have some.",
            UserWarning,
            stacklevel=2,
        )
    return part
