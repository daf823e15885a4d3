"""Word substitution without labels or images: BERT-Attack (arXiv:2004.09984) in the KL form of Co-Attack (2206.09391).

Distinct texts are attacked once, in one batch: one forward pass computes the importance of all words of all texts, and
one scores all candidates of a round. A text needs a second round only if its most important word had no usable
candidate, or if more than one word may change.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import ClassVar

import torch
from torch import Tensor

from ..losses import coordinate_kl
from ..substitutes.source import CandidateSource
from ..substitutes.words import STOP_WORDS, WORD, replace_word, split_words

Encode = Callable[[list[str]], Tensor]

# Literally these five characters: CLIP's unknown token is its end-of-text token, where pooling would stop.
UNKNOWN_WORD = "[UNK]"


@dataclass(frozen=True, kw_only=True)
class BertAttack:
    """Move each text's embedding away from its clean embedding by substituting its most important words.

    1. The importance of a word is KL(softmax g(t) || softmax g(t with the word replaced by "[UNK]")). Words are visited
       in order of decreasing importance; stop words, punctuation and the template's own words are never attacked.
    2. The source proposes candidates for the original text. Stop words, the word itself and, with `forbid_class_names`,
       candidates that put a class name in the word's place are dropped. A word without candidates is skipped.
    3. The candidate with the largest KL is kept; after the first change, only if it increases the KL.

    The attack is deterministic, works inside `torch.no_grad()`, and calls models only through `encode` and the source.

    Args:
        candidates: source of the substitute words, see `hf_mmcoa.substitutes`.
        num_candidates: candidates requested per word.
        max_changes: largest number of words changed per text; 0 returns the texts unchanged.
        template: class prompt with `{}` for the class name. In a text that matches it, the words outside the class name
            are the template's; any other text has none.
        class_names: all classes. A class name that is itself a stop word ("can") is attacked like any other.
        protect_template: never change the template's words. MMCoA's release attacks them.
        forbid_class_names: drop a candidate that is a class name or completes one ("oak" in "a maple tree", where "oak
            tree" is a class): the text would describe another class and its label would be wrong.

    Raises:
        ValueError: if a number is out of range, or the template has not exactly one `{}`.

    Example:
        >>> from hf_mmcoa.substitutes import SynonymTable
        >>> attack = BertAttack(candidates=SynonymTable({"cat": ("feline",)}))
        >>> attack(["a photo of a cat"], lambda texts: torch.ones(len(texts), 2))
        ['a photo of a feline']
    """

    changes: ClassVar[str] = "words"
    """Unit of text that the attack changes, as named in the settings."""

    candidates: CandidateSource
    num_candidates: int = 10
    max_changes: int = 1
    template: str | None = None
    class_names: Sequence[str] = field(default=(), repr=False)
    protect_template: bool = True
    forbid_class_names: bool = True

    def __post_init__(self) -> None:
        if self.num_candidates < 1:
            raise ValueError(f"`num_candidates` must be at least 1, got {self.num_candidates}.")
        if self.max_changes < 0:
            raise ValueError(f"`max_changes` must not be negative, got {self.max_changes}.")
        if self.template is not None and self.template.count("{}") != 1:
            raise ValueError(f"`template` needs exactly one {{}} for the class name, got {self.template!r}.")
        if isinstance(self.class_names, str):
            raise ValueError(f"`class_names` must be a sequence of names, got the string {self.class_names!r}.")
        object.__setattr__(self, "class_names", tuple(self.class_names))

    def __call__(self, texts: Sequence[str], encode: Encode) -> list[str]:
        """Attack texts.

        Args:
            texts: any number of texts; duplicates are attacked once.
            encode: maps texts to unit embeddings, (texts, dim).

        Returns:
            Attacked texts, one per input and in the same order; a text without attackable words comes back unchanged.

        Raises:
            ValueError: if `texts` is one string, or `encode` gives no finite row per text.
        """
        if isinstance(texts, str):
            raise ValueError(f"`texts` must be a sequence of texts, got the string {texts!r}.")
        distinct = list(dict.fromkeys(texts))
        with torch.no_grad():
            attacked = dict(zip(distinct, self._attack(distinct, encode), strict=True))
        return [attacked[text] for text in texts]

    def variants(self, texts: Sequence[str]) -> list[list[str]]:
        """List for each text the text itself and every text within the attack budget and constraints.

        An attack that sees the image chooses among them. Their number grows as candidates^max_changes per choice of
        words, so this is for short texts and few changes.
        """
        attackable = [self._attackable(text) if self.max_changes else [] for text in texts]
        proposed = self.candidates(texts, attackable, self.num_candidates)
        return [
            self._variants(text, indices, found)
            for text, indices, found in zip(texts, attackable, proposed, strict=True)
        ]

    def _variants(self, text: str, indices: list[int], candidates: dict[int, list[str]]) -> list[str]:
        reached: list[dict[int, str]] = [{}]
        for index in indices:
            reached += [
                {**changes, index: candidate}
                for changes in reached
                if len(changes) < self.max_changes
                for candidate in self._usable(text, changes, index, candidates.get(index, []))
            ]
        return list(dict.fromkeys(_apply(text, changes) for changes in reached))

    def _attack(self, texts: list[str], encode: Encode) -> list[str]:
        attackable = [self._attackable(text) if self.max_changes else [] for text in texts]
        clean, waiting = _by_importance(texts, attackable, encode)
        changes: list[dict[int, str]] = [{} for _ in texts]
        reached = [-1.0] * len(texts)  # KL of each current text; -1 so that the first change is always accepted
        while turn := [row for row, left in enumerate(waiting) if left and len(changes[row]) < self.max_changes]:
            words = {row: waiting[row].pop(0) for row in turn}
            asked = [[words[row]] for row in turn]
            proposed = self.candidates([texts[row] for row in turn], asked, self.num_candidates)
            trials = [
                (row, candidate)
                for row, found in zip(turn, proposed, strict=True)
                for candidate in self._usable(texts[row], changes[row], words[row], found.get(words[row], []))
            ]
            if not trials:
                continue
            new_texts = [_apply(texts[row], {**changes[row], words[row]: candidate}) for row, candidate in trials]
            kl = coordinate_kl(clean[[row for row, _ in trials]], _checked(encode, new_texts))
            for (row, candidate), value in zip(trials, kl.tolist(), strict=True):
                if value > reached[row]:
                    reached[row] = value
                    changes[row][words[row]] = candidate
        return [_apply(text, changed) for text, changed in zip(texts, changes, strict=True)]

    def _attackable(self, text: str) -> list[int]:
        """Return the indices of the words that may change."""
        first, last = self._name_span(text)
        return [
            index
            for index, (start, end) in enumerate(split_words(text))
            if start < last and end > first and text[start:end].casefold() not in self._stop_words
        ]

    def _name_span(self, text: str) -> tuple[int, int]:
        """Return the span of the class name in a text that matches the template, else the span of the whole text."""
        if self.protect_template and self.template is not None:
            before, after = (re.escape(part) for part in self.template.split("{}"))
            if match := re.fullmatch(f"{before}(.*){after}", text, re.IGNORECASE | re.DOTALL):
                return match.span(1)
        return 0, len(text)

    def _usable(self, text: str, changes: dict[int, str], index: int, candidates: list[str]) -> list[str]:
        """Return the candidates that pass the filters, without duplicates, in their order."""
        words = [[text[start:end].casefold()] for start, end in split_words(text)]
        original = words[index]
        for changed, word in changes.items():
            words[changed] = _words(word)
        usable: dict[str, str] = {}
        for candidate in candidates:
            words[index] = _words(candidate)
            if not words[index] or words[index] == original or candidate.casefold() in self._stop_words:
                continue
            if self.forbid_class_names and self._names_class(words, index):
                continue
            usable.setdefault(candidate.casefold(), candidate)
        return list(usable.values())

    def _names_class(self, words: list[list[str]], index: int) -> bool:
        """Return whether the text contains a class name that covers place `index`."""
        flat = [word for place in words for word in place]
        start = sum(len(place) for place in words[:index])
        end = start + len(words[index])
        return any(
            tuple(flat[first : first + length]) in self._class_words
            for length in self._name_lengths
            for first in range(max(0, start - length + 1), end)
        )

    @cached_property
    def _class_words(self) -> frozenset[tuple[str, ...]]:
        return frozenset(tuple(_words(name)) for name in self.class_names) - {()}

    @cached_property
    def _name_lengths(self) -> set[int]:
        return {len(name) for name in self._class_words}

    @cached_property
    def _stop_words(self) -> frozenset[str]:
        return STOP_WORDS - {" ".join(name) for name in self._class_words}


def _by_importance(texts: list[str], attackable: list[list[int]], encode: Encode) -> tuple[Tensor, list[list[int]]]:
    """Return clean embeddings, (texts, dim), and each text's attackable words in order of decreasing importance.

    One call of `encode` serves all texts. A text without attackable words is not encoded (its row is zero); a single
    attackable word needs no ranking and thus no variant.
    """
    rows = [row for row, indices in enumerate(attackable) if indices]
    if not rows:
        return torch.empty(len(texts), 0), attackable
    rivals = [(row, index) for row in rows if len(attackable[row]) > 1 for index in attackable[row]]
    variants = [replace_word(texts[row], index, UNKNOWN_WORD) for row, index in rivals]
    embeds = _checked(encode, [texts[row] for row in rows] + variants)
    clean = embeds.new_zeros(len(texts), embeds.shape[1])
    clean[rows] = embeds[: len(rows)]
    kl = coordinate_kl(clean[[row for row, _ in rivals]], embeds[len(rows) :])
    importance = dict(zip(rivals, kl.tolist(), strict=True))
    order = [
        sorted(indices, key=lambda index, row=row: -importance.get((row, index), 0.0))  # type: ignore[misc]
        for row, indices in enumerate(attackable)
    ]
    return clean, order


def _checked(encode: Encode, texts: list[str]) -> Tensor:
    embeds = encode(texts)
    if embeds.ndim != 2 or len(embeds) != len(texts):
        raise ValueError(f"`encode` must give one row per text, ({len(texts)}, dim), got shape {tuple(embeds.shape)}.")
    if not embeds.isfinite().all():
        row = int((~embeds.isfinite().all(1)).int().argmax())
        raise ValueError(f"`encode` gives a non-finite embedding for {texts[row]!r}: the model is broken or overflows.")
    return embeds


def _words(text: str) -> list[str]:
    return [word.casefold() for word in WORD.findall(text)]


def _apply(text: str, changes: dict[int, str]) -> str:
    for index in sorted(changes, reverse=True):  # from the right: a replacement shifts the words after it
        text = replace_word(text, index, changes[index])
    return text
