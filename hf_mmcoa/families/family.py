"""A family of perturbations: changes of one sort, divided into parts, each of which keeps the text's class.

`Family` holds what writes texts by rules (`KeyboardTypos`, `Homoglyphs`, ...), `WordFamily` an attack that takes words
from a source. Both list the legal texts of each text, as an `EnumerableTextAttack` does, and draw a few of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache
from typing import Any, Protocol, TypeVar

import torch

from ..substitutes.source import CandidateSource
from .meaning import ClassNames, SentenceSimilarity, normal
from .parts import Instance, Part, check_part, divide, part_of_source


@dataclass(frozen=True)
class Listing:
    """The legal texts of each text, and how many were dropped for their meaning.

    Args:
        pools: for each text the text itself, then every other legal one, each once.
        num_other_class: texts dropped because they name another class, or are another of the texts.
        num_dissimilar: texts dropped by the check of similarity.
    """

    pools: list[list[str]]
    num_other_class: int = 0
    num_dissimilar: int = 0


class TextFamily(Protocol):
    """A family of perturbations of texts: `Family` and `WordFamily`."""

    @property
    def name(self) -> str:
        """Name in results and options."""

    @property
    def part(self) -> Part | None:
        """Return the part whose instances are used; None for all."""

    def variants(self, texts: Sequence[str]) -> list[list[str]]:
        """List for each text the text itself and then every legal text of the family and part."""

    def listing(self, texts: Sequence[str]) -> Listing:
        """List as `variants` does, and count what was dropped."""

    def draws(self, texts: Sequence[str], counts: Sequence[int], generator: torch.Generator) -> list[list[str]]:
        """Draw for each text up to so many distinct legal texts other than itself, uniformly."""


class Changes(Protocol):
    """A sort of change, with all its instances."""

    @property
    def inventory(self) -> Iterable[Instance]:
        """Return all instances that there are, in whatever text."""

    def __call__(self, text: str) -> Iterator[tuple[Instance, str]]:
        """Yield the changed texts, each with its instance; a text may come several times."""


@dataclass(frozen=True, kw_only=True)
class Family:
    """Texts that differ by one change of one sort.

    A text that two instances give belongs to the first of them: parts share neither instances nor texts.

    Args:
        name: name in results and options.
        changes: the sort of change.
        part: instances that may be used: "train", "validation", "test"; None for all.
        class_names: all classes; a text that names another one than the original is dropped. Empty: no check.
        check: drops texts that are unlike the original; None: none.
        without: changes of other families; a text that one of them writes too belongs to that family alone.
        seed: of the division into parts. With another seed, a training's instances are no longer those held out.

    Raises:
        ValueError: if there is no such part.

    Example:
        >>> from hf_mmcoa.families import Affixes
        >>> Family(name="affixes", changes=Affixes(prefixes=("see: ",), suffixes=())).variants(["a cat"])
        [['a cat', 'see: a cat']]
    """

    name: str
    changes: Changes
    part: Part | None = None
    class_names: Sequence[str] = field(default=(), repr=False)
    check: SentenceSimilarity | None = None
    without: Sequence[Changes] = field(default=(), repr=False)
    seed: int = 0

    def __post_init__(self) -> None:
        check_part(self.part)
        object.__setattr__(self, "class_names", tuple(self.class_names))

    @cached_property
    def parts(self) -> dict[Instance, Part]:
        """Return the part of every instance of the family."""
        return divide(self.changes.inventory, self.seed)

    def variants(self, texts: Sequence[str]) -> list[list[str]]:
        """List as in `TextFamily`."""
        return self.listing(texts).pools

    def listing(self, texts: Sequence[str]) -> Listing:
        """List as in `TextFamily`."""
        _raise_if_one_text(texts)
        return _legal(texts, [self._changed(text) for text in texts], self._names, self.check)

    def draws(self, texts: Sequence[str], counts: Sequence[int], generator: torch.Generator) -> list[list[str]]:
        """Draw as in `TextFamily`. The meaning is looked at only in what is drawn, which is far less than all.

        With a `check`, what it drops is not replaced.
        """
        others = {normal(text) for text in texts}
        drawn = []
        for text, count in zip(texts, counts, strict=True):
            found: list[str] = []
            pool = self._changed(text) if count else []
            for index in torch.randperm(len(pool), generator=generator).tolist():
                if len(found) == count:
                    break
                if _keeps_class(text, pool[index], others, self._names):
                    found.append(pool[index])
            drawn.append(found)
        if self.check is None:
            return drawn
        return [
            [each for each, kept in zip(found, self.check.keeps(text, found), strict=True) if kept]
            for text, found in zip(texts, drawn, strict=True)
        ]

    @cached_property
    def _names(self) -> ClassNames:
        return ClassNames(self.class_names)

    @cached_property
    def _changed(self) -> Callable[[str], list[str]]:
        """Return the texts of this part, whatever they mean; the last ones are kept for the next step of a training."""
        return lru_cache(maxsize=64)(self._write)

    def _write(self, text: str) -> list[str]:
        first: dict[str, Instance] = {}
        for instance, changed in self.changes(text):
            first.setdefault(changed, instance)
        for taken in (text, *(each for others in self.without for _, each in others(text))):
            first.pop(taken, None)
        return [each for each, instance in first.items() if self.part is None or self.parts[instance] == self.part]


class WordListing(Protocol):
    """An attack on words that lists its texts: `BertAttack`."""

    @property
    def candidates(self) -> CandidateSource:
        """Source of the substitutes."""

    def variants(self, texts: Sequence[str]) -> list[list[str]]:
        """List for each text the text itself and every text within the attack budget."""


@dataclass(frozen=True, kw_only=True)
class WordFamily:
    """Texts in which an attack substitutes words; the parts are parts of its source of substitutes.

    Args:
        name: "synonyms" where the source knows what words mean, "words" where it does not; or any other.
        attack: `BertAttack`, with its budget and its own guards of class names.
        part: as in `Family`. A `SynonymTable` is divided exactly, word by word, another source by a hash of the
            substitute (`substitutes.held_out`).
        class_names, check, seed: as in `Family`.

    Raises:
        ValueError: if there is no such part.
    """

    name: str
    attack: Any  # a `WordListing` and a dataclass, which no type says
    part: Part | None = None
    class_names: Sequence[str] = field(default=(), repr=False)
    check: SentenceSimilarity | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        check_part(self.part)
        object.__setattr__(self, "class_names", tuple(self.class_names))

    def variants(self, texts: Sequence[str]) -> list[list[str]]:
        """List as in `TextFamily`."""
        return self.listing(texts).pools

    def listing(self, texts: Sequence[str]) -> Listing:
        """List as in `TextFamily`."""
        _raise_if_one_text(texts)
        pools = self._own_part.variants(texts)
        return _legal(texts, pools, ClassNames(self.class_names), self.check)

    def draws(self, texts: Sequence[str], counts: Sequence[int], generator: torch.Generator) -> list[list[str]]:
        """Draw as in `TextFamily`, from the complete listing."""
        asked = [text for text, count in zip(texts, counts, strict=True) if count]
        pools = dict(zip(asked, self.variants(asked), strict=True)) if asked else {}
        drawn = []
        for text, count in zip(texts, counts, strict=True):
            pool = pools[text][1:] if count else []
            drawn.append([pool[index] for index in torch.randperm(len(pool), generator=generator)[:count].tolist()])
        return drawn

    @cached_property
    def _own_part(self) -> WordListing:
        return replace(self.attack, candidates=part_of_source(self.attack.candidates, self.part, self.seed))


Kind = TypeVar("Kind", Family, WordFamily)


def of_part(families: Iterable[Kind], part: Part | None) -> list[Kind]:
    """Return the same families with another part."""
    return [replace(family, part=part) for family in families]


def _legal(
    texts: Sequence[str], changed: Sequence[Sequence[str]], names: ClassNames, check: SentenceSimilarity | None
) -> Listing:
    others = {normal(text) for text in texts}
    pools, other_class, dissimilar = [], 0, 0
    for text, pool in zip(texts, changed, strict=True):
        new = [each for each in dict.fromkeys(pool) if each != text]
        kept = [each for each in new if _keeps_class(text, each, others, names)]
        other_class += len(new) - len(kept)
        if check is not None:
            similar = [each for each, keeps in zip(kept, check.keeps(text, kept), strict=True) if keeps]
            dissimilar += len(kept) - len(similar)
            kept = similar
        pools.append([text, *kept])
    return Listing(pools, other_class, dissimilar)


def _keeps_class(text: str, changed: str, others: set[str], names: ClassNames) -> bool:
    """Return whether a changed text is none of the other texts and names no other class."""
    read = normal(changed)
    return (read not in others or read == normal(text)) and names.keeps(text, changed)


def _raise_if_one_text(texts: Sequence[str]) -> None:
    if isinstance(texts, str):
        raise ValueError(f"`texts` must be a sequence of texts, got the string {texts!r}.")
