"""Typing errors: adversarial strings within k insertions, deletions and substitutions of characters.

One search serves training (LEAF, arXiv:2506.03355: a random sample of slots and characters) and evaluation (Charmer,
arXiv:2405.04346: all of them). A text of n characters has 2n + 1 slots: each character, and each gap around one. A slot
is scored by putting a blank there; in the worst slots every character is tried, and deletion.

A letter and the marks that combine with it ("हि") stay together, since a mark on another letter is no typing error: the
letter, its marks and the gaps between them are no slots. Texts are attacked and returned composed (Unicode's NFC), so
an accent that has a letter of its own ("é") is part of one character.
"""

from __future__ import annotations

import string
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar

import torch
from torch import Tensor

from ..substitutes.words import MARKS, words_of
from .contracts import TextEncoder
from .image_losses import embedding_loss

ALPHABET = string.ascii_lowercase + string.digits + string.punctuation + " "  # CLIP's tokenizers lower-case all texts


@dataclass(frozen=True, kw_only=True)
class LevenshteinAttack:
    """Move each text's embedding away from its clean embedding with at most `max_edits` edits of one character each.

    The defaults are LEAF's, for training; `LevenshteinAttack(num_samples=None, num_slots=20)` is Charmer's evaluation.
    The search is greedy: each edit starts from the best text so far and is kept only if it increases the distance.

    Args:
        max_edits: largest Levenshtein distance k; 0 returns the texts unchanged.
        num_samples: random slots tried per edit, and random characters tried in the worst of them (rho); None: all.
        num_slots: number of worst slots that enter the second stage.
        alphabet: characters that may be inserted or substituted.
        dictionary: words in lower case that an edit must not create (LEAF's constraint: "cat" must not become "car").
            The text's own words remain allowed. Empty: no constraint.

    Raises:
        ValueError: if a setting is out of range.

    Example:
        >>> attack = LevenshteinAttack(max_edits=1, alphabet="x")
        >>> attack(["cat"], lambda texts: torch.tensor([[float("x" in text)] for text in texts]))[0].count("x")
        1
    """

    changes: ClassVar[str] = "characters"
    """Unit of text that the attack changes, as named in the settings."""

    max_edits: int = 1
    num_samples: int | None = 50
    num_slots: int = 1
    alphabet: str = ALPHABET
    dictionary: frozenset[str] = field(default=frozenset(), repr=False)

    def __post_init__(self) -> None:
        if self.max_edits < 0:
            raise ValueError(f"`max_edits` must not be negative, got {self.max_edits}.")
        for name in ("num_samples", "num_slots"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"`{name}` must be at least 1, got {value}.")
        object.__setattr__(self, "dictionary", frozenset(self.dictionary))

    def __call__(
        self,
        texts: Sequence[str],
        encode: TextEncoder,
        generator: torch.Generator | None = None,
        reference_encode: TextEncoder | None = None,
    ) -> list[str]:
        """Attack as in `TextAttack`, by squared Euclidean distance of the embeddings (un-normalised in LEAF).

        Args:
            texts: any number of texts; duplicates are attacked once.
            encode: maps texts to embeddings, (texts, dim).
            generator: source of the random samples, on the CPU; a fresh one seeded 0 when None.
            reference_encode: maps texts to the embeddings that they are moved away from, those of the frozen teacher in
                LEAF; `encode` when None.

        Returns:
            Attacked texts, one per input and in the same order.

        Raises:
            ValueError: if `texts` is one string.
        """
        if isinstance(texts, str):
            raise ValueError(f"`texts` must be a sequence of texts, got the string {texts!r}.")
        texts = [unicodedata.normalize("NFC", text) for text in texts]
        generator = torch.Generator().manual_seed(0) if generator is None else generator
        distinct = list(dict.fromkeys(texts))
        if not distinct or self.max_edits == 0:
            return list(texts)
        with torch.no_grad():
            clean = (reference_encode or encode)(distinct)
            current, reached = distinct, clean.new_zeros(len(distinct))
            if reference_encode is not None:  # the clean text may differ from its reference already
                reached = embedding_loss(encode(distinct), clean)
            for _ in range(self.max_edits):
                slots = self._worst_slots(current, clean, encode, generator)
                trials = [
                    [*dict.fromkeys(each for slot in own for each in self._edits(text, slot, original, generator))]
                    for original, text, own in zip(distinct, current, slots, strict=True)
                ]
                scores = _distances(trials, clean, encode)
                best = [(int(own.argmax()) if len(own) else None) for own in scores]
                for row, choice in enumerate(best):
                    if choice is not None and scores[row][choice] > reached[row]:
                        reached[row] = scores[row][choice]
                        current = [*current[:row], trials[row][choice], *current[row + 1 :]]
        attacked = dict(zip(distinct, current, strict=True))
        return [attacked[text] for text in texts]

    def variants(self, texts: Sequence[str]) -> list[list[str]]:
        """List variants as in `EnumerableTextAttack`: about 2 x length x alphabet per text.

        Raises:
            ValueError: if more than one edit is allowed: the texts are too many to list.
        """
        if self.max_edits > 1:
            raise ValueError(f"`max_edits` must be at most 1 to list all variants, got {self.max_edits}.")
        everything = replace(self, num_samples=None)
        texts = [unicodedata.normalize("NFC", text) for text in texts]
        slots = [_slots(text) if self.max_edits else [] for text in texts]
        return [
            list(dict.fromkeys([text, *(each for slot in own for each in everything._edits(text, slot, text))]))
            for text, own in zip(texts, slots, strict=True)
        ]

    def _worst_slots(
        self, texts: list[str], clean: Tensor, encode: TextEncoder, generator: torch.Generator
    ) -> list[list[int]]:
        """Return for each text the slots, of a sample or of all, where a blank moves the embedding furthest."""
        free = [_slots(text) for text in texts]
        slots = [[own[index] for index in _sample(len(own), self.num_samples, generator)] for own in free]
        blanked = [[_edit(text, slot, " ") for slot in own] for text, own in zip(texts, slots, strict=True)]
        scores = _distances(blanked, clean, encode)
        return [
            [own[index] for index in score.topk(min(self.num_slots, len(own))).indices.tolist()]
            for own, score in zip(slots, scores, strict=True)
        ]

    def _edits(self, text: str, slot: int, original: str, generator: torch.Generator | None = None) -> list[str]:
        """Return the allowed edits of the text at this slot, with a sample of the characters or all of them."""
        characters = ["", *self.alphabet] if slot % 2 else list(self.alphabet)
        chosen = _sample(len(characters), self.num_samples, generator)
        edited = [_edit(text, slot, characters[index]) for index in chosen]
        return [each for each in edited if each != text and not self._creates_word(original, each)]

    def _creates_word(self, original: str, text: str) -> bool:
        return bool(self.dictionary) and not self.dictionary.isdisjoint(
            set(words_of(text)).difference(words_of(original))
        )


def _slots(text: str) -> list[int]:
    """Return the slots at which an edit parts no letter from its marks."""
    marks = [index for index, character in enumerate(text) if character in MARKS]
    held = {slot for mark in marks for slot in (2 * mark - 1, 2 * mark, 2 * mark + 1)}  # what it is on, the gap, itself
    return [slot for slot in range(2 * len(text) + 1) if slot not in held]


def _edit(text: str, slot: int, character: str) -> str:
    """Put a character into a slot: even slots are the gaps around the characters, odd slots the characters."""
    return text[: slot // 2] + character + text[slot // 2 + slot % 2 :]


def _sample(size: int, num_samples: int | None, generator: torch.Generator | None) -> list[int]:
    if num_samples is None or num_samples >= size:
        return list(range(size))
    return torch.randperm(size, generator=generator)[:num_samples].tolist()


def _distances(trials: list[list[str]], clean: Tensor, encode: TextEncoder) -> list[Tensor]:
    """Return each trial's squared distance from its clean text's embedding, in one call of `encode`."""
    counts = [len(own) for own in trials]
    if not sum(counts):
        return [clean.new_zeros(0) for _ in trials]
    rows = torch.tensor([row for row, count in enumerate(counts) for _ in range(count)], device=clean.device)
    return list(embedding_loss(encode([text for own in trials for text in own]), clean[rows]).split(counts))
