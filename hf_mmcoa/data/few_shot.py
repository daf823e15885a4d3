"""Few-shot subsets as fixed lists of rows, drawn once from a seed: the same in every epoch and on every machine.

MMCoA's release draws new images in each epoch until a class has none left, which is not few-shot (METHODS.md, section
7).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import datasets


def few_shot_indices(
    labels: Sequence[int] | np.ndarray, shots: int, seed: int, class_names: Sequence[str] | None = None
) -> list[int]:
    """Draw exactly `shots` rows of every class; return their numbers in ascending order.

    Every row gets a key from the seed, and each class keeps the rows with its `shots` smallest keys. With the same
    seed, a draw with fewer shots is therefore part of one with more. The keys are raw PCG64 output, whose stream numpy
    promises never to change (NEP 19).

    Args:
        labels: class number of each row, (N,).
        shots: number of rows per class, at least 1.
        seed: seed of the draw, a non-negative integer.
        class_names: names of all classes, so that a class without rows raises too; None takes the classes in `labels`.

    Raises:
        ValueError: if a class has fewer than `shots` rows (the message names it), or `shots` or `seed` is out of range.

    Example:
        >>> few_shot_indices([0, 0, 1, 1], shots=2, seed=0)
        [0, 1, 2, 3]
    """
    if shots < 1:
        raise ValueError(f"`shots` is the number of images per class, at least 1, got {shots}.")
    if seed < 0:
        raise ValueError(f"`seed` is a non-negative integer, got {seed}.")
    rows = np.asarray(labels, dtype=np.int64)
    keys = np.random.PCG64(seed).random_raw(len(rows))
    by_class_and_key = np.lexsort((keys, rows))
    classes = np.unique(rows) if class_names is None else np.arange(len(class_names))
    first = np.searchsorted(rows[by_class_and_key], classes, side="left")
    end = np.searchsorted(rows[by_class_and_key], classes, side="right")
    short = np.flatnonzero(end - first < shots)
    if len(short):
        number = int(classes[short[0]])
        name = f"class {number}" if class_names is None else f"class {class_names[number]!r} ({number})"
        raise ValueError(
            f"`shots={shots}`: {name} has only {(end - first)[short[0]]} rows ({len(short)} classes have too few). "
            "Use fewer shots or a larger split."
        )
    return sorted(int(i) for start in first for i in by_class_and_key[start : start + shots])


def few_shot(dataset: datasets.Dataset, shots: int, seed: int, label_column: str = "label") -> datasets.Dataset:
    """Select the rows that `few_shot_indices` draws. Of a ClassLabel column, every class must have enough rows."""
    import datasets  # a second to import; `hf_mmcoa.data` imports this module at once

    from .labels import read_labels

    feature: Any = dataset.features.get(label_column)
    names = feature.names if isinstance(feature, datasets.ClassLabel) else None
    return dataset.select(few_shot_indices(read_labels(dataset, label_column), shots, seed, names))
