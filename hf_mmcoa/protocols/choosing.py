"""Measure a comparison to choose by it: on validation images, and on unseen words that are none of the test's."""

from __future__ import annotations

import dataclasses
from typing import Any, Literal

from ..data.benchmarks import find_benchmark
from .protocol import Protocol
from .split_sizes import first_source

CHOICE = "choice"  # folder, inside a comparison's, of the same rows on validation images and words
VALIDATION: Literal["validation"] = "validation"


def to_choose_by(protocol: Protocol) -> Protocol:
    """Return the same comparison on validation images and validation words, which share none with the test's.

    Raises:
        ValueError: if the data set is a benchmark without a validation split.
    """
    changed: dict[str, Any] = {}
    for name in ("datasets", "evaluate_on"):
        changed[name] = tuple(dataclasses.replace(data, test_split=VALIDATION) for data in getattr(protocol, name))
        for data in changed[name]:
            if find_benchmark(data.dataset or data.name) is not None and first_source(data, VALIDATION) is None:
                raise ValueError(
                    f"`--choose`: {data.name} has no validation split. Choose on another data set, or make a folder of "
                    "your own with train, validation and test."
                )
    return dataclasses.replace(protocol, unseen_words=VALIDATION, **changed)
