"""What keeps a changed text's meaning: it names no other class, and it is similar enough to the original."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import torch
import torch.nn.functional as F
from torch import Tensor

from ..substitutes.words import WORD

BATCH_SIZE = 256  # texts that a sentence encoder gets at a time


@dataclass(frozen=True)
class ClassNames:
    """The names of all classes, to refuse a changed text that names another class than the original does.

    Names are compared as words, without regard to case, width of the letters and white space. Of names inside each
    other ("tiger" in "tiger cat") the longest counts: "a tiger ct" names the class "tiger", "a tiger cat" does not.

    Example:
        >>> names = ClassNames(("cat", "car"))
        >>> names.keeps("a photo of a cat", "a photo of a car"), names.keeps("a photo of a cat", "a photo of a cqt")
        (False, True)
    """

    names: Sequence[str] = field(default=(), repr=False)

    def keeps(self, text: str, changed: str) -> bool:
        """Return whether the changed text names no class that the text does not name."""
        return self.named(changed) <= self.named(text)

    def named(self, text: str) -> set[tuple[str, ...]]:
        """Return the class names in a text, each as its words, without those inside a longer one."""
        words = _words(text)
        spans = [
            (first, first + length)
            for first, word in enumerate(words)
            for length in self._lengths.get(word, ())
            if tuple(words[first : first + length]) in self._names
        ]
        return {
            tuple(words[first:end])
            for first, end in spans
            if not any(other != (first, end) and other[0] <= first and end <= other[1] for other in spans)
        }

    @cached_property
    def _names(self) -> frozenset[tuple[str, ...]]:
        return frozenset(tuple(_words(name)) for name in self.names) - {()}

    @cached_property
    def _lengths(self) -> dict[str, list[int]]:
        """Return the numbers of words of the names that begin with a word."""
        lengths: dict[str, set[int]] = {}
        for name in self._names:
            lengths.setdefault(name[0], set()).add(len(name))
        return {word: sorted(found) for word, found in lengths.items()}


@dataclass(frozen=True, kw_only=True)
class SentenceSimilarity:
    """A check that drops changed texts whose sentence embedding is too far from the original's.

    Args:
        encode: maps texts to embeddings, (texts, dim), of any length. An encoder of sentences, not the CLIP under
            attack, for which such a check would hide what it is meant to find. Without a download:
            `functools.partial(hf_mmcoa.testbed.word_vectors.word_vectors, "minilm-sentence")`.
        threshold: lowest cosine that is kept, in [-1, 1]. It depends on the encoder, and there is no standard value.

    Raises:
        ValueError: if the threshold is out of range.

    Example:
        >>> check = SentenceSimilarity(encode=lambda texts: torch.tensor([[len(t), 1.0] for t in texts]), threshold=0.9)
        >>> check.keeps("a cat", ["a cats", ""])
        [True, False]
    """

    encode: Callable[[list[str]], Tensor]
    threshold: float

    def __post_init__(self) -> None:
        if not -1 <= self.threshold <= 1:
            raise ValueError(f"`threshold` is a cosine in [-1, 1], got {self.threshold}.")

    def keeps(self, text: str, changed: Sequence[str]) -> list[bool]:
        """Return for each changed text whether it is similar enough to the text."""
        if not changed:
            return []
        with torch.no_grad():
            texts = [text, *changed]
            parts = [self.encode(texts[start : start + BATCH_SIZE]) for start in range(0, len(texts), BATCH_SIZE)]
            embeds = F.normalize(torch.cat(parts).float(), dim=-1)
        return (embeds[1:] @ embeds[0] >= self.threshold).tolist()


def normal(text: str) -> str:
    """Return a text as a reader takes it: one case, one width of letters, single blanks."""
    return " ".join((text if text.isascii() else unicodedata.normalize("NFKC", text)).casefold().split())


def _words(text: str) -> list[str]:
    return WORD.findall(normal(text))
