"""Divide the instances of a family into training, validation and test parts that share none.

An instance is the reusable part of a change: that "o" was mistyped as "p", or that "see: " stood before the text. A
model that was trained on it has seen it, in whatever text. Half of the instances are for training, a quarter for
validation and a quarter for the test, drawn by a seed: halves of halves, as `substitutes.held_out` divides words.
"""

from __future__ import annotations

import random
from collections.abc import Iterable
from typing import Literal

from ..substitutes.held_out import known_and_unseen
from ..substitutes.source import CandidateSource

Part = Literal["train", "validation", "test"]
PARTS: tuple[Part, ...] = ("train", "validation", "test")

Instance = tuple[str, str]
"""Kind and detail of a change, such as ("adjacent", "op")."""


def check_part(part: str | None) -> None:
    """Raise ValueError unless `part` is one of `PARTS` or None."""
    if part is not None and part not in PARTS:
        raise ValueError(f"`part` must be one of {', '.join(PARTS)}, or None for all of them, got {part!r}.")


def divide(inventory: Iterable[Instance], seed: int = 0) -> dict[Instance, Part]:
    """Give each instance its part, kind by kind, so that every part has its share of every kind.

    The draw of one kind does not depend on the other kinds.

    Example:
        >>> sorted(divide([("affix", each) for each in "abcd"]).values())
        ['test', 'train', 'train', 'validation']
    """
    kinds: dict[str, list[Instance]] = {}
    for instance in dict.fromkeys(inventory):
        kinds.setdefault(instance[0], []).append(instance)
    parts: dict[Instance, Part] = {}
    for kind, instances in kinds.items():
        drawn = random.Random(f"{seed} {kind}").sample(sorted(instances), len(instances))
        half = (len(drawn) + 1) // 2
        quarter = half + (len(drawn) - half + 1) // 2
        for number, instance in enumerate(drawn):
            parts[instance] = "train" if number < half else "validation" if number < quarter else "test"
    return parts


def part_of_source(source: CandidateSource, part: Part | None, seed: int = 0) -> CandidateSource:
    """Return the part of a source of substitutes; its words are in no other part.

    Training gets the known half of `known_and_unseen`; the unseen half is halved again for validation and test.
    """
    if part is None:
        return source
    known, unseen = known_and_unseen(source, seed)
    if part == "train":
        return known
    # With the same seed, the hash of `HalfOf` would put all unseen words into one half.
    validation, test = known_and_unseen(unseen, seed + 1)
    return validation if part == "validation" else test
