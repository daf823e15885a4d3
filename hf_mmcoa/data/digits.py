"""The embedded data set, which needs no network: scikit-learn's 1,797 handwritten digits (UCI, 8x8 scans)."""

from __future__ import annotations

from functools import cache
from typing import Literal

import datasets
import numpy as np
from PIL import Image

CLASS_NAMES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
IMAGE_SIZE = 8
EPSILON = 0.15  # LAB's prototype: a clean CLIP falls below 20% accuracy, and a robust one can resist
SPLITS = {"train": 1200, "validation": 237, "test": 360}


@cache
def _pictures() -> tuple[np.ndarray, np.ndarray]:
    from sklearn.datasets import load_digits as load  # takes a second, so only when digits are loaded

    pictures, labels = load(return_X_y=True)
    return (pictures.reshape(-1, IMAGE_SIZE, IMAGE_SIZE) * (255 / 16)).round().astype(np.uint8), labels


def load_digits(split: Literal["train", "validation", "test"] = "train") -> datasets.Dataset:
    """Load one split, always the same rows, with columns `image` (8x8, grey) and `label` (`ClassLabel`).

    Raises:
        ValueError: if the split is not one of train, validation and test.
    """
    if split not in SPLITS:
        raise ValueError(f"`split` of digits must be one of {', '.join(SPLITS)}, got {split!r}.")
    pictures, labels = _pictures()
    rows = _split_rows(labels)[split]
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=list(CLASS_NAMES))})
    columns = {"image": [Image.fromarray(pictures[row]) for row in rows], "label": labels[rows].tolist()}
    return datasets.Dataset.from_dict(columns, features=features)


def _split_rows(labels: np.ndarray) -> dict[str, list[int]]:
    """Draw the rows of each split, stratified by class: every split gets its share of every class."""
    rng = np.random.default_rng(0)
    order = np.concatenate([rng.permutation(np.flatnonzero(labels == label)) for label in range(len(CLASS_NAMES))])
    # Evenly spaced positions in the class-sorted order give every split its exact size and its share of each class.
    test = np.linspace(0, len(order) - 1, SPLITS["test"]).round().astype(int)
    rest = np.delete(order, test)
    validation = np.linspace(0, len(rest) - 1, SPLITS["validation"]).round().astype(int)
    return {
        "train": np.delete(rest, validation).tolist(),
        "validation": rest[validation].tolist(),
        "test": order[test].tolist(),
    }
