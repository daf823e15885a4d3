"""The embedded pictograms, which need no network: the same things drawn by different designers.

A model learns from four designs, choices are made on a fifth, and two that it never saw are the test: a real shift.
Fifty concepts are held out of training: new classes as well. `examples/pictograms/` chooses concepts and draws the
sheets in `pictograms/`; `pictograms/NOTICE` has their designers and licences.
"""

from __future__ import annotations

import json
from functools import cache
from importlib.resources import files
from typing import Any, Literal

import datasets
from PIL import Image

Concepts = Literal["all", "common", "held-out"]
SPLITS = {
    "train": ("noto", "noto-v1", "twemoji", "emojione"),
    "validation": ("fxemoji",),
    "test": ("fluent-emoji-flat", "streamline-emojis"),
}


def load_pictograms(split: str = "train", concepts: Concepts = "all") -> datasets.Dataset:
    """Load one split, always the same rows: a picture of each concept by each design of the split that draws it.

    Args:
        split: "train" (four designs), "validation" (one), "test" (two others), or the name of one design.
        concepts: "all" for the 253 concepts of training; "common" for 100 of them, drawn by most designs and with words
            to substitute; "held-out" for 50 others, which no training split has.

    Returns:
        Columns `image` (48x48, RGBA; the ground is transparent), `label` (`ClassLabel`, numbered within `concepts`),
        `text` (three captions), `design` and `concept` (the number among all concepts, the same in every subset).

    Raises:
        ValueError: for an unknown split or subset, and for training on concepts that are held out.

    Example:
        >>> load_pictograms("test", concepts="common")[0]["text"][0]
        'a pictogram of a dog'
    """
    designs = {each for own in SPLITS.values() for each in own}
    if split not in SPLITS and split not in designs:
        raise ValueError(
            f"`split` of pictograms must be one of {', '.join([*SPLITS, *sorted(designs)])}, got {split!r}."
        )
    if concepts not in ("all", "common", "held-out"):
        raise ValueError(f"`concepts` of pictograms must be all, common or held-out, got {concepts!r}.")
    if split == "train" and concepts == "held-out":
        raise ValueError('`split="train"` has no held-out concepts: use "validation" or "test", or one design\'s name.')
    chosen = [(number, each) for number, each in enumerate(concept_file()["concepts"]) if _belongs(each, concepts)]
    rows = [
        {
            "image": _cut(design, number),
            "label": label,
            "text": concept["captions"],
            "design": design,
            "concept": number,
        }
        for design in SPLITS.get(split, (split,))
        for label, (number, concept) in enumerate(chosen)
        if design in concept["designs"]
    ]
    features = datasets.Features(
        {
            "image": datasets.Image(),
            "label": datasets.ClassLabel(names=[concept["name"] for _, concept in chosen]),
            "text": datasets.List(datasets.Value("string")),
            "design": datasets.Value("string"),
            "concept": datasets.Value("int32"),
        }
    )
    return datasets.Dataset.from_list(rows, features=features)


def _belongs(concept: dict[str, Any], concepts: Concepts) -> bool:
    return concept["subset"] != "held-out" if concepts == "all" else concept["subset"] == concepts


@cache
def concept_file() -> dict[str, Any]:
    """Read `concepts.json`: designs, and each concept's name, group, subset, sense, captions and keywords."""
    return json.loads(files(__package__).joinpath("pictograms/concepts.json").read_text(encoding="utf-8"))


@cache
def _sheet(design: str) -> Image.Image:
    with files(__package__).joinpath(f"pictograms/{design}.png").open("rb") as file:
        return Image.open(file).convert("RGBA")


def _cut(design: str, number: int) -> Image.Image:
    """Return a design's picture of a concept; pictures lie in the concepts' order, row by row."""
    size, columns = concept_file()["size"], concept_file()["columns"]
    left, top = number % columns * size, number // columns * size
    return _sheet(design).crop((left, top, left + size, top + size))
