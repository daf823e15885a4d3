"""Captions of labelled pictures, from which a tiny CLIP learns what the classes are called."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import datasets
import numpy as np

from ..data.labels import read_labels
from ..data.prompts import class_prompts

# Varied wording teaches the text tower which word matters.
CAPTION_TEMPLATES = (
    "This is a photo of a {}",
    "a photo of a {}",
    "a picture of a {}",
    "an image of a {}",
    "a drawing of a {}",
    "a small {}",
    "a blurry photo of a {}",
    "a close photo of a {}",
    "a bad photo of the {}",
    "one {}",
    "the {}",
    "here is a {}",
    "someone saw a {}",
    "this is the {}",
    "a {} in black and white",
    "a {} on a table",
    "it shows a {}",
)


def captioned(dataset: datasets.Dataset, seed: int) -> datasets.Dataset:
    """Add a caption to each image, from those `CAPTION_TEMPLATES` that contain no class name ("one", of digits).

    Args:
        dataset: pictures with a ClassLabel column `label` and no column `text`.
        seed: seed of the draw of the templates.
    """
    names = dataset.features["label"].names
    fitting = [template for template in CAPTION_TEMPLATES if not set(template.lower().split()) & set(names)]
    fitting = fitting or list(CAPTION_TEMPLATES)
    templates = np.random.default_rng(seed).integers(len(fitting), size=len(dataset))
    texts = [
        fitting[template].replace("{}", names[label])
        for template, label in zip(templates, read_labels(dataset, "label"), strict=True)
    ]
    return dataset.add_column("text", texts)


def class_vocabulary(names: Sequence[str], templates: Iterable[str] = (), words: Iterable[str] = ()) -> list[str]:
    """Return every text that a tokenizer must know to caption and to prompt the classes, and the substitutes.

    Args:
        names: names of the classes.
        templates: prompts with one `{}` each, beside `CAPTION_TEMPLATES`.
        words: substitutes for words of the names.
    """
    every = [*CAPTION_TEMPLATES, *templates]
    return [*(template.replace("{}", name) for template in every for name in names), *class_prompts(names), *words]
