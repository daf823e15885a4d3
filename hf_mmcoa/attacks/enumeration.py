"""The legal texts of each class, listed within a limit that is checked before they are built.

One change is listed completely. Two and more are too, where they fit the limit; elsewhere a beam search goes on from
the texts that do most harm after each change, and the result says so.
"""

from __future__ import annotations

import math
import unicodedata
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

from torch import Tensor

from ..substitutes.words import change_cost, words_of
from .bert_attack import BertAttack, Changes, _apply
from .contracts import EnumerableTextAttack
from .levenshtein import LevenshteinAttack

MAX_TEXTS = 1_000_000
"""2 GB of embeddings of dimension 512. All one-edit strings of 100 prompts are a third of it, all two-edit strings of a
single prompt several times as many."""
BEAM_WIDTH = 16

Harm = Callable[[int, list[str]], Tensor]
"""A class's number and some of its texts to how much harm each does, (criteria, texts)."""


@dataclass(frozen=True)
class LegalTexts:
    """The texts that may replace each class prompt.

    Args:
        pools: per class the clean prompt, then the other legal texts, each once.
        search: "exhaustive", or "beam of n texts": the pools then miss some of the legal texts.
        findings: what is odd about the pools, each `{"check", "passed", "detail"}` as in `evaluation.sanity`.
    """

    pools: tuple[tuple[str, ...], ...]
    search: str = "exhaustive"
    findings: tuple[dict[str, Any], ...] = ()


def legal_texts(
    text_attack: EnumerableTextAttack,
    prompts: Sequence[str],
    *,
    max_texts: int = MAX_TEXTS,
    harm: Harm | None = None,
    beam_width: int = BEAM_WIDTH,
    drop_shared: bool = False,
) -> LegalTexts:
    """List the texts that an attack may put in the place of each prompt.

    A text that is another class's prompt is left out: it is right for that class, and the label would be wrong.

    Args:
        text_attack: `BertAttack` or `LevenshteinAttack`, of which the number of texts is predicted, or another attack
            with `variants`, whose texts are counted.
        prompts: clean prompts, C of them.
        max_texts: most texts of all classes together.
        harm: what a beam search goes by; each criterion chooses its share of the beam. Without it more than `max_texts`
            texts are an error.
        beam_width: most texts per class that a beam search extends; fewer where more would exceed `max_texts`.
        drop_shared: leave out the texts that two classes' pools hold. They are a finding either way: under the `all`
            adversary such a text ties with itself, and no sample of either class can be robust.

    Raises:
        ValueError: if the texts are more than `max_texts` and no beam search is possible.
    """
    if isinstance(prompts, str) or len(prompts) == 0:
        raise ValueError(f"`prompts` must be a sequence of at least one prompt, got {prompts!r}.")
    for name, value in (("max_texts", max_texts), ("beam_width", beam_width)):
        if value < 1:
            raise ValueError(f"`{name}` must be at least 1, got {value}.")
    prompts, search = [unicodedata.normalize("NFC", prompt) for prompt in prompts], "exhaustive"
    grower = _grower(text_attack, prompts)
    if grower is None:
        pools = [list(pool) for pool in text_attack.variants(prompts)]
        _raise_if_more(sum(map(len, pools)), max_texts, "has")
    elif (number := grower.bound(grower.changes)) <= max_texts:
        pools = grower.all_texts()
    else:
        width = _width(grower, number, max_texts, beam_width, harm)
        pools, search = _beam(grower, prompts, harm, width), f"beam of {width} texts"  # type: ignore[arg-type]
    pools, findings = _checked(prompts, pools, drop_shared)
    if guarded := _only_other_classes(text_attack, [pool[0] for pool in pools if len(pool) == 1]):
        detail = f"all candidates of {_list(guarded)} name a class and were dropped (`forbid_class_names`)"
        findings.append(_finding("not every candidate names a class", False, detail))
    if isinstance(grower, _Words) and (long := grower.too_long()):
        detail = f"dropped, as they add more words than `max_changes` {grower.changes} allows: {_list(long)}"
        findings.append(_finding("every candidate fits the budget", None, detail))
    if unused := _unused_table_keys(text_attack, prompts):
        findings.append(_finding("every key of the table occurs in a prompt", False, f"in no prompt: {_list(unused)}"))
    return LegalTexts(tuple(map(tuple, pools)), search, tuple(findings))


def count_texts(text_attack: BertAttack | LevenshteinAttack, prompts: Sequence[str]) -> int:
    """Predict how many legal texts the prompts have together; an upper bound, without building them."""
    grower = _grower(text_attack, list(prompts))
    if grower is None:
        raise TypeError(f"the texts of {type(text_attack).__name__} cannot be predicted, only listed.")
    return grower.bound(grower.changes)


def unused_keys(keys: Iterable[str], prompts: Sequence[str]) -> list[str]:
    """Return the keys of a candidate table, words or phrases, that occur in no prompt; upper and lower case are equal.

    Example:
        >>> unused_keys(["cat", "beer mug", "dog"], ["a photo of a Cat", "a photo of a beer mug"])
        ['dog']
    """
    written = [f" {' '.join(words_of(prompt))} " for prompt in prompts]
    return [key for key in keys if not any(f" {' '.join(words_of(key))} " in text for text in written)]


def _only_other_classes(text_attack: object, prompts: list[str]) -> list[str]:
    """Return those of the prompts without a legal text that have one if candidates may name classes."""
    if not prompts or not isinstance(text_attack, BertAttack) or not text_attack.forbid_class_names:
        return []
    unguarded = replace(text_attack, forbid_class_names=False, max_changes=min(text_attack.max_changes, 1))
    return [prompt for prompt, pool in zip(prompts, unguarded.variants(prompts), strict=True) if len(pool) > 1]


def _unused_table_keys(text_attack: object, prompts: Sequence[str]) -> list[str]:
    table = getattr(getattr(text_attack, "candidates", None), "table", None)
    keys = list(dict(table)) if table else []
    unused = unused_keys(keys, prompts)
    if unused:
        warnings.warn(
            f"{len(unused)} of {len(keys)} keys of the candidate table occur in no prompt and attack nothing: "
            f"{_list(unused)}. Remove them, or check the class names' spelling.",
            UserWarning,
            stacklevel=3,
        )
    return unused


class _Grower(Protocol):
    """A text attack as steps of one change each."""

    changes: int  # most changes of a text

    def bound(self, changes: int) -> int:
        """Return an upper bound of the number of texts with up to so many changes, of all prompts together."""

    def growth(self, changes: int) -> int:
        """Return an upper bound of what `grow` gives for one text with so many changes of each prompt, together."""

    def all_texts(self) -> list[list[str]]:
        """Return every legal text of each prompt."""

    def grow(self, index: int, text: str) -> list[str]:
        """Return prompt `index` or a text that came from it, changed once more in every way."""


class _Edits:
    """`LevenshteinAttack` in steps of one character."""

    def __init__(self, attack: LevenshteinAttack, prompts: list[str]) -> None:
        self._attack, self._prompts, self.changes = attack, prompts, attack.max_edits
        # A word that the first edit must not create may still be on the way to a legal text.
        self._step = replace(attack, max_edits=min(attack.max_edits, 1), dictionary=frozenset())

    def bound(self, changes: int) -> int:
        letters = len(set(self._attack.alphabet))
        return sum(_edit_bound(len(prompt), letters, changes) for prompt in self._prompts)

    def growth(self, changes: int) -> int:
        letters = len(set(self._attack.alphabet))
        return sum(_edit_bound(len(prompt) + changes, letters, 1) for prompt in self._prompts)  # all insertions

    def all_texts(self) -> list[list[str]]:
        if self.changes <= 1:
            return self._attack.variants(self._prompts)
        return [self._within(prompt) for prompt in self._prompts]

    def _within(self, prompt: str) -> list[str]:
        reached, new = {prompt: None}, [prompt]
        for _ in range(self.changes):
            grown = dict.fromkeys(text for pool in self._step.variants(new) for text in pool)
            new = [text for text in grown if text not in reached]
            reached.update(dict.fromkeys(new))
        return [text for text in reached if not self._attack._creates_word(prompt, text)]

    def grow(self, index: int, text: str) -> list[str]:
        (grown,) = self._step.variants([text])
        return [each for each in grown if not self._attack._creates_word(self._prompts[index], each)]


class _Words:
    """`BertAttack` in steps of one word. The source is asked once."""

    def __init__(self, attack: BertAttack, prompts: list[str]) -> None:
        self._attack, self._prompts, self.changes = attack, prompts, attack.max_changes
        self._found = attack._proposed(prompts)
        self._changed: list[dict[str, Changes]] = [{prompt: {}} for prompt in prompts]

    def bound(self, changes: int) -> int:
        total = 0
        for found in self._found:
            ways = [1, *[0] * changes]  # texts that cost 0, 1, .. changes
            for place, candidates in found.items():
                costs = Counter(change_cost(place, candidate) for candidate in candidates)
                ways = [
                    ways[k] + sum(number * ways[k - cost] for cost, number in costs.items() if cost <= k)
                    for k in range(changes + 1)
                ]
            total += sum(ways)
        return total

    def too_long(self) -> list[str]:
        """Return the candidates that cost more than all changes of a text together."""
        costs = {each: change_cost(place, each) for found in self._found for place in found for each in found[place]}
        return [candidate for candidate, cost in costs.items() if cost > self.changes]

    def growth(self, changes: int) -> int:
        return sum(1 + sum(map(len, found.values())) for found in self._found)

    def all_texts(self) -> list[list[str]]:
        return [self._attack._variants(*each) for each in zip(self._prompts, self._found, strict=True)]

    def grow(self, index: int, text: str) -> list[str]:
        prompt, changes = self._prompts[index], self._changed[index][text]
        for place, candidates in self._found[index].items():
            for candidate in self._attack._usable(prompt, changes, place, candidates):
                grown = {**changes, place: candidate}
                self._changed[index].setdefault(_apply(prompt, grown), grown)
        return list(self._changed[index])


def _grower(attack: object, prompts: list[str]) -> _Grower | None:
    if isinstance(attack, LevenshteinAttack):
        return _Edits(attack, prompts)
    return _Words(attack, prompts) if isinstance(attack, BertAttack) else None


def _edit_bound(length: int, letters: int, edits: int) -> int:
    """Return an upper bound of the strings within so many edits of one of `length` characters.

    Summed over numbers of deletions, substitutions and insertions: which characters go, which change and into what,
    and where in what is left new ones stand.
    """
    return sum(
        math.comb(length, deleted)
        * math.comb(length - deleted, substituted)
        * math.comb(length - deleted + inserted, inserted)
        * letters ** (substituted + inserted)
        for deleted in range(min(edits, length) + 1)
        for substituted in range(min(edits, length) - deleted + 1)
        for inserted in range(edits - deleted - substituted + 1)
    )


def _width(grower: _Grower, number: int, max_texts: int, beam_width: int, harm: Harm | None) -> int:
    """Return how many texts of each class the beam may extend, or raise where not even one fits."""
    one = grower.bound(1)
    fits = (max_texts - grower.growth(0)) // max(sum(grower.growth(changes) for changes in range(1, grower.changes)), 1)
    if harm is None or grower.changes < 2 or fits < 1:
        _raise_if_more(
            number,
            max_texts,
            f"with {grower.changes} changes has up to",
            f" One change has {one:,}{'' if harm else '; with `harm` given, a beam search goes on from there'}."
            if grower.changes > 1
            else "",
        )
    return min(beam_width, fits)


def _beam(grower: _Grower, prompts: list[str], harm: Harm, width: int) -> list[list[str]]:
    """Return all texts with one change, and what is reached from the `width` most harmful ones after each change."""
    pools = []
    for index, prompt in enumerate(prompts):
        reached, beam = {prompt: None}, [prompt]
        for left in range(grower.changes - 1, -1, -1):
            grown = dict.fromkeys(each for text in beam for each in grower.grow(index, text))
            new = [text for text in grown if text not in reached]
            reached.update(dict.fromkeys(new))
            beam = _worst(harm(index, new), new, width) if left and new else []
        pools.append(list(reached))
    return pools


def _worst(harms: Tensor, texts: list[str], width: int) -> list[str]:
    """Return the texts that lead under any criterion, in turn, until there are `width`, (criteria, texts)."""
    orders = harms.argsort(dim=1, descending=True, stable=True)[:, :width].T.flatten().tolist()
    return list(dict.fromkeys(texts[at] for at in orders))[:width]


def _checked(prompts: list[str], pools: list[list[str]], drop_shared: bool) -> tuple[list[list[str]], list[dict]]:
    """Return the pools, each text once and the clean prompt first, without other classes' prompts; and findings."""
    owner = {as_tokenized(prompt): index for index, prompt in enumerate(prompts)}
    pools = [list(dict.fromkeys([prompt, *pool])) for prompt, pool in zip(prompts, pools, strict=True)]
    findings = []

    def foreign(index: int, text: str) -> bool:
        return owner.get(as_tokenized(text), index) != index

    taken = [sum(foreign(index, text) for text in pool[1:]) for index, pool in enumerate(pools)]
    only = [prompts[index] for index, pool in enumerate(pools) if 0 < taken[index] == len(pool) - 1]
    pools = [[pool[0], *(text for text in pool[1:] if not foreign(index, text))] for index, pool in enumerate(pools)]
    if sum(taken):
        detail = f"{sum(taken)} texts are another class's prompt and were left out"
        detail += f"; nothing else is left for {_list(only)}" if only else ""
        findings.append(_finding("no text is another class's prompt", False if only else None, detail))
    holders: dict[str, int] = {}
    shared = set()
    for index, pool in enumerate(pools):
        for text in pool:
            if holders.setdefault(as_tokenized(text), index) != index:
                shared.add(as_tokenized(text))
    if shared:
        what = "were left out" if drop_shared else "no sample of these classes is robust under `all`"
        detail = f"{len(shared)} texts lie in two classes' pools ({what}): {_list(sorted(shared))}"
        findings.append(_finding("no text belongs to two classes", None, detail))
        if drop_shared:
            pools = [[pool[0], *(text for text in pool[1:] if as_tokenized(text) not in shared)] for pool in pools]
    bare = [pool[0] for pool in pools if len(pool) == 1]
    if bare:
        every = len(bare) == len(pools)
        detail = (
            "no class has a text but its clean prompt: the accuracy is the clean one and says nothing on robustness"
            if every
            else f"{len(bare)} of {len(pools)} classes have none and cannot be attacked: {_list(bare)}"
        )
        findings.append(_finding("every class has a candidate text", False if every else None, detail))
    return pools, findings


def as_tokenized(text: str) -> str:
    """Return the text as tokenizers read it: composed characters, one case, single spaces."""
    return " ".join(unicodedata.normalize("NFC", text).casefold().split())


def _finding(check: str, passed: bool | None, detail: str) -> dict[str, Any]:
    return {"check": f"legal texts: {check}", "passed": passed, "detail": detail}


def _list(texts: Sequence[str], most: int = 5) -> str:
    rest = f" and {len(texts) - most} more" if len(texts) > most else ""
    return ", ".join(repr(text) for text in texts[:most]) + rest


def _raise_if_more(number: int, max_texts: int, what: str, more: str = "") -> None:
    if number > max_texts:
        raise ValueError(
            f"the attack {what} {number:,} legal texts, `max_texts` is {max_texts:,}.{more} Allow fewer changes, a "
            "smaller alphabet or fewer candidates, give fewer prompts, or raise `max_texts` (each text is encoded once "
            "and takes 4 bytes per dimension)."
        )
