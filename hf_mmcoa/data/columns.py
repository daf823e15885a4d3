"""Find the columns of a data set that hold images, labels and texts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import datasets

IMAGE_COLUMNS = ("image", "img", "jpg", "webp", "png", "jpeg")
LABEL_COLUMNS = ("label", "labels", "cls", "fine_label")
TEXT_COLUMNS = ("text", "caption", "texts", "captions", "txt")  # txt: tars of img2dataset
AUTO = "auto"


class Columns(NamedTuple):
    """Names of the columns that hold images, labels and texts; None for a missing column."""

    image: str | None
    label: str | None
    text: str | None


def detect_columns(dataset: datasets.Dataset | datasets.IterableDataset) -> Columns:
    """Find the columns by their usual names (`IMAGE_COLUMNS`, ...); the first existing name of each kind wins.

    An image column with another name is found by its type, if it is the only one of type `datasets.Image`.
    """
    present = _visible(dataset)

    def first(names: Sequence[str]) -> str | None:
        return next((name for name in names if name in present), None)

    image = first(IMAGE_COLUMNS)
    if image is None and dataset.features is not None:
        typed = [name for name, feature in dataset.features.items() if isinstance(feature, datasets.Image)]
        image = typed[0] if len(typed) == 1 else None
    return Columns(image, first(LABEL_COLUMNS), first(TEXT_COLUMNS))


def _visible(dataset: datasets.Dataset | datasets.IterableDataset) -> list[str]:
    """Return the names of the columns, without those that `set_format(columns=...)` hides."""
    if isinstance(dataset, datasets.Dataset):
        return list(dataset.format["columns"])
    return dataset.column_names or []


def refuse_transform(dataset: datasets.Dataset | datasets.IterableDataset) -> None:
    """Raise ValueError if the data set has a transform: rows are read as stored, and it would be left out silently."""
    if isinstance(dataset, datasets.Dataset) and dataset.format["type"] == "custom":
        raise ValueError(
            "`dataset` has a transform (`with_transform` or `set_transform`), which is not applied: attacks need the "
            "pictures themselves, in [0, 1]. Write its pictures with `dataset.map`, or drop it with "
            "`dataset.with_format(None)`; resize, crop, mean and std are done by the model's processor."
        )


def resolve_columns(
    dataset: datasets.Dataset | datasets.IterableDataset,
    image_column: str | None = AUTO,
    label_column: str | None = AUTO,
    text_column: str | None = AUTO,
) -> Columns:
    """Find the columns by name where one is given, and by `detect_columns` where it is "auto".

    Args:
        dataset: the data set, only whose column names and features are read.
        image_column: name of the image column.
        label_column, text_column: name of the column; None leaves it out.

    Raises:
        ValueError: if a given name is no column, or there is no image column.
    """
    found = detect_columns(dataset)
    present = _visible(dataset)

    def choose(argument: str, given: str | None, detected: str | None) -> str | None:
        if given == AUTO:
            return detected
        if given is not None and given not in present:
            raise ValueError(f"`{argument}`: the data set has no column {given!r}; it has {', '.join(present)}.")
        return given

    image = choose("image_column", image_column, found.image)
    if image is None:
        raise ValueError(f"no image column found; name it with `image_column`. The data set has {', '.join(present)}.")
    return Columns(
        image, choose("label_column", label_column, found.label), choose("text_column", text_column, found.text)
    )
