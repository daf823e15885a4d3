"""Substitutes from WordNet: synonyms and hyponyms of a word."""

from __future__ import annotations

import io
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from .source import Ranked
from .vocabulary import _word_at
from .words import WORD


@dataclass(frozen=True)
class WordNetCandidates:
    """Synonyms of a word, then its hyponyms, over all its senses in WordNet's order. Needs `nltk`.

    Only single words are proposed.

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
        return [
            {index: self._relatives(_word_at(text, index))[:num_candidates] for index in indices}
            for text, indices in zip(texts, words, strict=True)
        ]

    def _relatives(self, word: str) -> list[str]:
        synsets = self._wordnet.synsets(word)
        # nltk returns hyponyms in the order of a hash that differs between processes; offsets are WordNet's own order.
        hyponyms = (sorted(synset.hyponyms(), key=lambda each: each.offset()) for synset in synsets)
        relatives = [*synsets, *(each for found in hyponyms for each in found)]
        lemmas = dict.fromkeys(lemma for synset in relatives for lemma in synset.lemma_names())
        return [lemma for lemma in lemmas if WORD.fullmatch(lemma) and lemma.casefold() != word.casefold()]

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
