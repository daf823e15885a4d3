"""Measure a comparison to choose by it: on validation images, and on unseen words that are none of the test's."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Literal

from ..data.benchmarks import find_benchmark
from ..data.locate import locate_unregistered
from .cell import HELD, KEPT, Data
from .protocol import Protocol
from .split_sizes import first_source

CHOICE = "choice"  # folder, inside a comparison's, of the same rows on validation images and words
VALIDATION: Literal["validation"] = "validation"


def to_choose_by(protocol: Protocol) -> Protocol:
    """Return the same comparison on validation images and validation words, which share none with the test's.

    Where no text is attacked, words are not divided: lists too short for it are no error.
    Where data have no validation split, a tenth of the training rows is measured, and no training sees it, the
    pretraining of a tiny CLIP included.
    """
    return dataclasses.replace(
        protocol,
        unseen_words=VALIDATION if {"text", "multimodal"} & set(protocol.measure) else protocol.unseen_words,
        datasets=tuple(map(_without_test, protocol.datasets)),
        evaluate_on=tuple(map(_without_test, protocol.evaluate_on)),
        train_on=_without_test(protocol.train_on) if protocol.train_on in protocol.evaluate_on else protocol.train_on,
    )


def _without_test(data: Data) -> Data:
    """Return the data set with validation rows in the place of test rows."""
    if _has_validation(data):
        return dataclasses.replace(data, test_split=VALIDATION)
    train = data.train_split
    return dataclasses.replace(data, train_split=f"{train}[{KEPT}]", test_split=f"{train}[{HELD}]")


def _has_validation(data: Data) -> bool:
    """Return whether a data set has a split of that name; of a repository on the Hub it is taken for granted."""
    name = data.dataset or data.name
    if find_benchmark(name) is not None:
        return first_source(data, VALIDATION) is not None
    if data.data_dir is None and not Path(name).is_dir():
        return True
    try:
        locate_unregistered(name, VALIDATION, data.data_dir, streaming=False)
    except (FileNotFoundError, ValueError):
        return False
    return True
