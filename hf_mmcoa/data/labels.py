"""Read and check the labels of a data set without decoding any image."""

from __future__ import annotations

import datasets
import numpy as np
import pyarrow.compute as pc


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
