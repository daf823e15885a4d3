"""Correct a prompt before it is encoded: baselines that a robust text encoder has to beat.

A correction maps texts to texts, so every attack on words or characters meets it unchanged: the attacker's texts are
corrected, and the search for the worst one sees the corrected embeddings. An attack on token embeddings goes past it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from ..attacks.contracts import TextEncoder
from ..substitutes.words import WORD
from .synonyms import SynonymEnsemble, synonym_sets

Correction = Callable[[Sequence[str]], list[str]]


class CorrectingProcessor:
    """A processor whose tokenizer reads corrected texts; everything else is the processor's own.

    Args:
        processor: of the model.
        corrections: applied in turn.

    Example:
        >>> evaluate_robustness(model, CorrectingProcessor(processor, correction), data)  # doctest: +SKIP
    """

    def __init__(self, processor: Any, *corrections: Correction) -> None:
        self.processor = processor
        self.tokenizer = _CorrectingTokenizer(processor.tokenizer, corrections)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.processor, name)


class _CorrectingTokenizer:
    def __init__(self, tokenizer: Any, corrections: Sequence[Correction]) -> None:
        self._tokenizer, self._corrections = tokenizer, corrections

    def __call__(self, texts: Sequence[str], **options: Any) -> Any:
        read = list(texts)
        for correct in self._corrections:
            read = correct(read)
        return self._tokenizer(read, **options)

    def __len__(self) -> int:
        return len(self._tokenizer)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._tokenizer, name)


class NearestCentroid:
    """Read a text as the class prompt whose class lies nearest: the mean embedding of its prompt and known rewordings.

    Prompts and known rewordings themselves are looked up, not compared.

    It needs the list of classes, which zero-shot classification has and retrieval has not.

    Args:
        encode: texts to unit embeddings, (texts, dim): of the attacked model, or of any other encoder.
        prompts: one a class.
        known: rewordings of each class's prompt, the same order; a class may have none.

    Raises:
        ValueError: if the two differ in length.
    """

    def __init__(self, encode: TextEncoder, prompts: Sequence[str], known: Sequence[Sequence[str]]) -> None:
        sets = synonym_sets(prompts, known)
        self._encode, self.prompts = encode, list(prompts)
        self._centroids = SynonymEnsemble(encode, sets)(prompts)
        self._read = {text: synonyms[0] for text, synonyms in sets.items()}

    def __call__(self, texts: Sequence[str]) -> list[str]:
        """Return for each text the prompt of the class nearest to it."""
        if new := [text for text in dict.fromkeys(texts) if text not in self._read]:
            with torch.no_grad():
                nearest = (self._encode(new) @ self._centroids.T).argmax(1).tolist()
            self._read |= {text: self.prompts[row] for text, row in zip(new, nearest, strict=True)}
        return [self._read[text] for text in texts]


@dataclass(frozen=True)
class SpellCorrection:
    """Replace a word that is not in the vocabulary by the one word of it at one edit; leave it if there is none.

    Norvig's corrector without its counts: an edit inserts, deletes or replaces a letter, or exchanges two neighbours.
    Of several words at one edit, the first of the vocabulary is taken.

    Args:
        vocabulary: words in order of preference, in lower case.

    Raises:
        ValueError: if the vocabulary is empty.

    Example:
        >>> SpellCorrection(("a", "photo", "of", "nine", "one"))(["a phto of nin"])
        ['a photo of nine']
    """

    vocabulary: tuple[str, ...]

    def __post_init__(self) -> None:
        if not self.vocabulary:
            raise ValueError("`vocabulary` is empty: give the words that a prompt may hold.")
        object.__setattr__(self, "_at_one_edit", _signatures(self.vocabulary))

    def __call__(self, texts: Sequence[str]) -> list[str]:
        """Return the texts with their unknown words corrected."""
        return [WORD.sub(lambda match: self._corrected(match.group()), text) for text in texts]

    def _corrected(self, word: str) -> str:
        lower = word.lower()
        if lower in self.vocabulary:
            return word
        signatures: Mapping[str, list[int]] = self._at_one_edit  # type: ignore[attr-defined]
        shared = {row for form in (lower, *_deletions(lower)) for row in signatures.get(form, ())}
        found = [row for row in sorted(shared) if one_edit(lower, self.vocabulary[row])]
        return self.vocabulary[found[0]] if found else word


def one_edit(first: str, second: str) -> bool:
    """Return whether one insertion, deletion, replacement or exchange of neighbours turns one word into the other."""
    if len(first) > len(second):
        first, second = second, first
    if len(second) - len(first) > 1 or first == second:
        return False
    start = next((i for i, (a, b) in enumerate(zip(first, second, strict=False)) if a != b), len(first))
    if len(first) < len(second):
        return first[start:] == second[start + 1 :]
    rest = first[start + 1 :], second[start + 1 :]
    exchanged = (
        first[start : start + 2] == second[start : start + 2][::-1] and first[start + 2 :] == second[start + 2 :]
    )
    return rest[0] == rest[1] or exchanged


def _signatures(words: Sequence[str]) -> dict[str, list[int]]:
    """Return which words give each string by at most one deletion: words at one edit share such a string."""
    found: dict[str, list[int]] = {}
    for row, word in enumerate(words):
        for form in {word, *_deletions(word)}:
            found.setdefault(form, []).append(row)
    return found


def _deletions(word: str) -> list[str]:
    return [word[:place] + word[place + 1 :] for place in range(len(word))]
