"""Substitutes from WordNet: synonyms and hyponyms of a word or a phrase."""

from __future__ import annotations

import io
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from .source import Ranked
from .words import WORD, Place, phrases_around, words_of

LONGEST_PHRASE = 4  # "chest of drawers" has three words; longer class names are mostly descriptions


@dataclass(frozen=True)
class WordNetCandidates:
    """Synonyms of a word, then its hyponyms, over all its senses in WordNet's order. Needs `nltk`.

    Phrases of up to four words that WordNet knows ("polar bear") are looked up too. What is proposed has at most as
    many words as the place that it takes: only single words for a word.

    Args:
        root: folder with WordNet's own files, e.g. Debian's "/usr/share/wordnet"; None reads nltk's data.

    Raises:
        ImportError: on first use, if nltk is missing.
        LookupError: on first use, if the data are missing; the message says how to get them.

    Example:
        >>> WordNetCandidates()(["a photo of a dog"], [[4]], 10)  # doctest: +SKIP
    """

    root: str | None = None

    def __call__(self, texts: Sequence[str], words: Sequence[Sequence[int]], num_candidates: int) -> Ranked:
        """See `CandidateSource`."""
        ranked: Ranked = []
        for text, indices in zip(texts, words, strict=True):
            own = words_of(text)
            found: dict[Place, list[str]] = {}
            for index in indices:
                found[index] = self._relatives(own[index])[:num_candidates]
                for place, phrase in phrases_around(text, index, LONGEST_PHRASE):
                    if relatives := self._relatives(phrase):
                        found[place] = relatives[:num_candidates]
            ranked.append(found)
        return ranked

    def _relatives(self, phrase: str) -> list[str]:
        """Return what WordNet has for the word or phrase, with spaces or with hyphens ("t-shirt")."""
        words = phrase.split()
        synsets = [each for join in ("_", "-")[: len(words)] for each in self._wordnet.synsets(join.join(words))]
        # nltk returns hyponyms in the order of a hash that differs between processes; offsets are WordNet's own order.
        hyponyms = (sorted(synset.hyponyms(), key=lambda each: each.offset()) for synset in synsets)
        relatives = [*synsets, *(each for found in hyponyms for each in found)]
        lemmas = dict.fromkeys(lemma.replace("_", " ") for synset in relatives for lemma in synset.lemma_names())
        return [lemma for lemma in lemmas if _plain(lemma, len(words)) and words_of(lemma) != words]

    @cached_property
    def _wordnet(self) -> Any:
        try:
            from nltk.corpus import wordnet
        except ImportError as error:
            raise ImportError("WordNetCandidates reads WordNet through nltk: `pip install nltk`.") from error
        try:
            if self.root is not None:
                return _read_wordnet(self.root)
            wordnet.ensure_loaded()
            return wordnet
        except (LookupError, OSError) as error:
            raise LookupError(
                f"no WordNet in {self.root or 'the data folders of nltk'!r}. "
                'Run nltk.download("wordnet"), or install Debian\'s wordnet-base and give root="/usr/share/wordnet".'
            ) from error


def _plain(lemma: str, most: int) -> bool:
    """Return whether a lemma is words and spaces alone, at most so many."""
    words = lemma.split(" ")
    return len(words) <= most and all(WORD.fullmatch(word) for word in words)


def _read_wordnet(root: str) -> Any:
    """Open nltk's reader on a folder that nltk did not install."""
    import nltk
    from nltk.corpus.reader.wordnet import WordNetCorpusReader

    class Reader(WordNetCorpusReader):  # type: ignore[misc]
        """A reader that does without two files that Debian leaves out: `lexnames`, and the one for other languages."""

        def open(self, file: str) -> Any:
            if file == "lexnames" and not Path(root, file).exists():
                return io.StringIO("".join(f"{number:02d}\tunnamed\t0\n" for number in range(45)))
            return super().open(file)

        def map_wn(self, version: str = "wordnet") -> None:
            return None

    if not Path(root, "data.noun").exists():
        raise LookupError(f"{root} holds no data.noun")
    if root not in nltk.data.path:
        nltk.data.path.append(root)  # nltk 3.10 opens nothing outside the folders listed here
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The multilingual functions are not available")
        return Reader(root, None)
