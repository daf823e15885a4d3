"""Read and check the labels of a data set without decoding any image."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import datasets
import numpy as np
import pyarrow.compute as pc

from .prompts import clean_class_name

_NAMED = 12  # an error shows this many names


def read_labels(dataset: datasets.Dataset, label_column: str = "label") -> np.ndarray:
    """Read the labels as int64 (N,), from the stored column: no image is decoded.

    Raises:
        ValueError: if the column does not exist, a label is missing, or labels are not integers or booleans.
    """
    if label_column not in dataset.column_names:
        raise ValueError(
            f"`label_column`: the data set has no column {label_column!r}; it has {', '.join(dataset.column_names)}."
        )
    column = dataset.select_columns([label_column]).with_format("arrow")[:][label_column]
    if column.null_count:
        first = int(np.flatnonzero(pc.is_null(column).to_numpy())[0])
        raise ValueError(f"row {first} has no label in column {label_column!r}; filter such rows out first.")
    labels = column.to_numpy()
    if not (labels.dtype == bool or np.issubdtype(labels.dtype, np.integer)):
        raise ValueError(
            f"labels in column {label_column!r} are {column.type}, not integers; "
            f'use `dataset.class_encode_column("{label_column}")`.'
        )
    return labels.astype(np.int64)


def check_labels(dataset: datasets.Dataset, label_column: str, num_classes: int) -> None:
    """Raise ValueError, with the first bad row and its value, unless every label is in [0, `num_classes`)."""
    labels = read_labels(dataset, label_column)
    bad = np.flatnonzero((labels < 0) | (labels >= num_classes))
    if len(bad):
        raise ValueError(
            f"row {bad[0]} has label {labels[bad[0]]}, outside [0, {num_classes}) of the {num_classes} class names "
            f"({len(bad)} such rows). A label of -1 means that it is withheld: filter such rows out. "
            "If labels start at 1, subtract 1."
        )


def check_order(class_names: Sequence[str], feature: Any) -> None:
    """Raise ValueError if `class_names` are a ClassLabel's in another order: labels would mean other classes.

    Args:
        class_names: names that were given, by class number.
        feature: the label column's; anything but a ClassLabel with names has no order of its own.
    """
    own = feature.names if isinstance(feature, datasets.ClassLabel) else None
    given, expected = ([clean_class_name(str(name)) for name in names or ()] for names in (class_names, own))
    if given != expected and sorted(given) == sorted(expected):
        first = next(number for number, name in enumerate(given) if name != expected[number])
        raise ValueError(
            f"`class_names` are the data set's own in another order: class {first} is {expected[first]!r} in the data "
            f"and {given[first]!r} here. The data: {_shown(expected)}. Given: {_shown(given)}. Give them in the order "
            "of the data, or leave `class_names` out."
        )


def _shown(names: Sequence[str]) -> str:
    return ", ".join(names[:_NAMED]) + (", ..." if len(names) > _NAMED else "")
