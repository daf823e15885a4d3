"""The embedded data set: scikit-learn's 1,797 handwritten digits with class words, captions and substitutes; no
network.

The pictures are real scans (UCI Optical Recognition of Handwritten Digits, 8x8). The substitutes are plain English
words for the same number. One half of each digit's list is known to training, the other is held out: robustness to
words that were trained on says nothing about words that were not, so both are measured.
"""

from __future__ import annotations

from functools import cache
from typing import Literal

import datasets
import numpy as np
from PIL import Image

from ..attacks.candidates import SynonymTable

CLASS_NAMES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
IMAGE_SIZE = 8
EPSILON = 0.15  # of LAB's prototype: a clean CLIP falls below 20% and a robust one can stand
SPLITS = {"train": 1200, "validation": 237, "test": 360}

SYNONYMS = SynonymTable(
    {
        "zero": ("nought", "nil", "cipher", "null", "naught", "nothing"),
        "one": ("single", "ace", "unit", "unity", "solo", "sole"),
        "two": ("pair", "couple", "deuce", "duo", "twain", "brace"),
        "three": ("trio", "triad", "triple", "trey", "threesome", "trinity"),
        "four": ("quartet", "foursome", "tetrad", "quadruple", "quaternary", "quatern"),
        "five": ("quintet", "fivesome", "pentad", "quint", "quintuple", "cinque"),
        "six": ("sextet", "sixsome", "hexad", "sextuple", "sise", "senary"),
        "seven": ("septet", "sevensome", "heptad", "septuple", "septenary", "hebdomad"),
        "eight": ("octet", "eightsome", "octad", "octuple", "ogdoad", "octonary"),
        "nine": ("nonet", "ninesome", "ennead", "nonuple", "novenary", "niner"),
    }
)

# For pretraining: several ways to say it, so that the text tower learns which word matters.
CAPTION_TEMPLATES = (
    "This is a photo of a {}",
    "a photo of a {}",
    "a picture of a {}",
    "an image of a {}",
    "a scan of the digit {}",
    "the number {}",
    "a handwritten {}",
    "a drawing of a {}",
    "someone wrote a {}",
    "this is the digit {}",
    "a small {} in black and white",
    "a blurry photo of a {}",
    "the figure {} on paper",
    "a {} written by hand",
    "here is a {}",
    "one can read a {}",
    "it says {}",
)


@cache
def _pictures() -> tuple[np.ndarray, np.ndarray]:
    from sklearn.datasets import load_digits as load  # a second to import: only where the digits are used

    pictures, labels = load(return_X_y=True)
    return (pictures.reshape(-1, IMAGE_SIZE, IMAGE_SIZE) * (255 / 16)).round().astype(np.uint8), labels


def load_digits(split: Literal["train", "validation", "test"] = "train") -> datasets.Dataset:
    """One split of the digits: columns `image` (8x8, grey) and `label` (`ClassLabel`), drawn by class, always the same.

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


def load_captioned_digits(seed: int = 0) -> datasets.Dataset:
    """The training split with a caption a picture, of `CAPTION_TEMPLATES`: what the tiny CLIP is pretrained on."""
    dataset = load_digits("train")
    templates = np.random.default_rng(seed).integers(len(CAPTION_TEMPLATES), size=len(dataset))
    texts = [
        CAPTION_TEMPLATES[template].format(CLASS_NAMES[label])
        for template, label in zip(templates, dataset["label"], strict=True)
    ]
    return dataset.add_column("text", texts)


def vocabulary() -> list[str]:
    """Every text a tokenizer for the digits must know: captions, class words and all substitutes."""
    words = [*CLASS_NAMES, *(word for _, listed in SYNONYMS.table for word in listed)]
    return [template.format(word) for template in CAPTION_TEMPLATES for word in words]


def _split_rows(labels: np.ndarray) -> dict[str, list[int]]:
    """Stratified by class: each class is shuffled and dealt out in turn, so that every split has its share of it."""
    rng = np.random.default_rng(0)
    order = np.concatenate([rng.permutation(np.flatnonzero(labels == label)) for label in range(len(CLASS_NAMES))])
    # Every 5th row to test, every 7.58th to validation: exact sizes by position in the class-sorted order.
    test = np.linspace(0, len(order) - 1, SPLITS["test"]).round().astype(int)
    rest = np.delete(order, test)
    validation = np.linspace(0, len(rest) - 1, SPLITS["validation"]).round().astype(int)
    return {
        "train": np.delete(rest, validation).tolist(),
        "validation": rest[validation].tolist(),
        "test": order[test].tolist(),
    }
