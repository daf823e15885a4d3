"""Word substitution without labels or images: BERT-Attack (arXiv:2004.09984) in the KL form of Co-Attack (2206.09391).

Distinct texts are attacked once, in one batch: one forward pass computes the importance of all words of all texts, and
one scores all candidates of a round. A text needs a second round only if its most important word had no usable
candidate, or if more than one word may change.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import ClassVar

import torch
from torch import Tensor

from ..losses import coordinate_kl
from ..substitutes.source import CandidateSource
from ..substitutes.words import STOP_WORDS, Place, change_cost, replace_word, span_of, split_words, words_of

Encode = Callable[[list[str]], Tensor]
Span = tuple[int, int]  # numbers of a place's first word and of the word after its last
Changes = dict[Span, str]

# Literally these five characters: CLIP's unknown token is its end-of-text token, where pooling would stop.
UNKNOWN_WORD = "[UNK]"


@dataclass(frozen=True, kw_only=True)
class BertAttack:
    """Move each text's embedding away from its clean embedding by substituting its most important words.

    1. The importance of a word is KL(softmax g(t) || softmax g(t with the word replaced by "[UNK]")). Words are visited
       in order of decreasing importance; stop words, punctuation and the template's own words are never attacked.
    2. The source proposes candidates for the original text: for the word, and for phrases that hold it ("beer mug").
       Stop words, the word itself and, with `forbid_class_names`, candidates that put a class name in the word's place
       are dropped. A word without candidates is skipped.
    3. The candidate with the largest KL is kept; after the first change, only if it increases the KL.

    A change puts one substitute in the place of one word or of one phrase that the source lists. It counts as one, and
    as one more for each word by which it makes the text longer: "beer mug" to "stein" is one change, "zero" to "goose
    egg" is two. A phrase is one unit of meaning, so replacing it is one change; without the second half of the rule,
    one change could add a whole description. A word changes once. A phrase that reaches beyond the class name into the
    template is never replaced.

    Texts are attacked and returned in their composed form (Unicode's NFC).

    The attack is deterministic, works inside `torch.no_grad()`, and calls models only through `encode` and the source.

    Args:
        candidates: source of the substitute words, see `hf_mmcoa.substitutes`.
        num_candidates: candidates requested per word or phrase.
        max_changes: largest number of changes per text, counted as above; 0 returns the texts unchanged.
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
        if self.template is not None:
            object.__setattr__(self, "template", unicodedata.normalize("NFC", self.template))

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
        texts = [unicodedata.normalize("NFC", text) for text in texts]
        distinct = list(dict.fromkeys(texts))
        with torch.no_grad():
            attacked = dict(zip(distinct, self._attack(distinct, encode), strict=True))
        return [attacked[text] for text in texts]

    def variants(self, texts: Sequence[str]) -> list[list[str]]:
        """List for each text the text itself and every text within the attack budget and constraints.

        An attack that sees the image chooses among them. Their number grows as candidates^max_changes per choice of
        words, so this is for short texts and few changes.
        """
        texts = [unicodedata.normalize("NFC", text) for text in texts]
        return [self._variants(text, found) for text, found in zip(texts, self._proposed(texts), strict=True)]

    def phrases(self, text: str) -> list[Span]:
        """Return the places of the phrases of a text that change as one, for `substitutes.words.count_changes`."""
        (found,) = self._proposed([unicodedata.normalize("NFC", text)])
        return [(first, end) for first, end in found if end - first > 1]

    def _proposed(self, texts: list[str]) -> list[dict[Span, list[str]]]:
        """Return what the source proposes for every place of each text that may change, unfiltered."""
        attackable = [self._attackable(text) if self.max_changes else [] for text in texts]
        proposed = self.candidates(texts, attackable, self.num_candidates)
        return [self._places(*each) for each in zip(texts, attackable, proposed, strict=True)]

    def _variants(self, text: str, proposed: dict[Span, list[str]]) -> list[str]:
        reached: list[Changes] = [{}]
        for span, candidates in proposed.items():
            reached += [
                {**changes, span: candidate}
                for changes in reached
                for candidate in self._usable(text, changes, span, candidates)
            ]
        return list(dict.fromkeys(_apply(text, changes) for changes in reached))

    def _attack(self, texts: list[str], encode: Encode) -> list[str]:
        attackable = [self._attackable(text) if self.max_changes else [] for text in texts]
        clean, waiting = _by_importance(texts, attackable, encode)
        changes: list[Changes] = [{} for _ in texts]
        reached = [-1.0] * len(texts)  # KL of each current text; -1 so that the first change is always accepted
        while turn := [row for row, left in enumerate(waiting) if left and self._left(changes[row])]:
            words = {row: waiting[row].pop(0) for row in turn}
            asked = [[words[row]] for row in turn]
            proposed = self.candidates([texts[row] for row in turn], asked, self.num_candidates)
            trials = [
                (row, {**changes[row], span: candidate})
                for row, found in zip(turn, proposed, strict=True)
                for span, candidates in self._places(texts[row], [words[row]], found).items()
                for candidate in self._usable(texts[row], changes[row], span, candidates)
            ]
            if not trials:
                continue
            new_texts = [_apply(texts[row], changed) for row, changed in trials]
            kl = coordinate_kl(clean[[row for row, _ in trials]], _checked(encode, new_texts))
            for (row, changed), value in zip(trials, kl.tolist(), strict=True):
                if value > reached[row]:
                    reached[row] = value
                    changes[row] = changed
        return [_apply(text, changed) for text, changed in zip(texts, changes, strict=True)]

    def _attackable(self, text: str) -> list[int]:
        """Return the indices of the words that may change."""
        first, last = self._name_span(text)
        return [
            index
            for index, (start, end) in enumerate(split_words(text))
            if start < last and end > first and text[start:end].casefold() not in self._stop_words
        ]

    def _places(self, text: str, asked: list[int], found: dict[Place, list[str]]) -> dict[Span, list[str]]:
        """Return, in the text's order, the candidates of the asked words and of the phrases that hold one of them."""
        first, last = self._name_span(text)
        words = split_words(text)
        spans = {span_of(place): candidates for place, candidates in found.items()}
        return {
            span: spans[span]
            for span in sorted(spans)
            if any(index in asked for index in range(*span))
            and (span[1] - span[0] == 1 or (words[span[0]][0] >= first and words[span[1] - 1][1] <= last))
        }

    def _name_span(self, text: str) -> tuple[int, int]:
        """Return the span of the class name in a text that matches the template, else the span of the whole text."""
        if self.protect_template and self.template is not None:
            before, after = (re.escape(part) for part in self.template.split("{}"))
            if match := re.fullmatch(f"{before}(.*){after}", text, re.IGNORECASE | re.DOTALL):
                return match.span(1)
        return 0, len(text)

    def _left(self, changes: Changes) -> int:
        """Return how many changes the text still allows."""
        return self.max_changes - sum(change_cost(span, substitute) for span, substitute in changes.items())

    def _usable(self, text: str, changes: Changes, span: Span, candidates: list[str]) -> list[str]:
        """Return the candidates that pass the filters and fit the budget, without duplicates, in their order."""
        left = self._left(changes)
        if left < 1 or any(first < span[1] and span[0] < end for first, end in changes):
            return []
        first, end = span
        words = [[word] for word in words_of(text)]
        original = [word for place in words[first:end] for word in place]
        for (start, stop), substitute in [*changes.items(), (span, "")]:
            words[start:stop] = [words_of(substitute), *[[]] * (stop - start - 1)]
        usable: dict[str, str] = {}
        for candidate in candidates:
            words[first] = words_of(candidate)
            if not words[first] or words[first] == original or candidate.casefold() in self._stop_words:
                continue
            if change_cost(span, candidate) > left or (self.forbid_class_names and self._names_class(words, first)):
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
        return frozenset(tuple(words_of(name)) for name in self.class_names) - {()}

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


def _apply(text: str, changes: Changes) -> str:
    for span in sorted(changes, reverse=True):  # from the right: a replacement shifts the words after it
        text = replace_word(text, span, changes[span])
    return text
