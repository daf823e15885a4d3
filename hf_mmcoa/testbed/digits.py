"""Handwritten digits with captions, on which the tiny CLIP is pretrained."""

from __future__ import annotations

import datasets
import numpy as np

from ..data.digits import CLASS_NAMES, load_digits
from ..substitutes.digits import SYNONYMS

# Several phrasings, so that the text encoder learns in pretraining which word matters.
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


def load_captioned_digits(seed: int = 0) -> datasets.Dataset:
    """Return the digits' training split with one caption per picture, drawn from `CAPTION_TEMPLATES` by the seed."""
    dataset = load_digits("train")
    templates = np.random.default_rng(seed).integers(len(CAPTION_TEMPLATES), size=len(dataset))
    texts = [
        CAPTION_TEMPLATES[template].format(CLASS_NAMES[label])
        for template, label in zip(templates, dataset["label"], strict=True)
    ]
    return dataset.add_column("text", texts)


def vocabulary() -> list[str]:
    """Return all texts that a tokenizer for the digits must know: captions with every class word and substitute."""
    words = [*CLASS_NAMES, *(word for _, listed in SYNONYMS.table for word in listed)]
    return [template.format(word) for template in CAPTION_TEMPLATES for word in words]
