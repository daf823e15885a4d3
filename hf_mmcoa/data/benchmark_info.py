"""The description that a loaded data set carries with it, so that a result can say what it was measured on."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Any, Literal

import datasets

from ..io import parse_json
from .prompts import DEFAULT_TEMPLATE

_KEY = "hf_mmcoa"


@dataclass(frozen=True, kw_only=True)
class BenchmarkInfo:
    """Everything that a result must say about its data.

    Attributes:
        name: name of the row, or the Hub id or folder.
        source: Hub id or folder that the data were read from.
        revision: commit; None unless the data came from the Hub at a pinned commit.
        split: split that was asked for.
        class_names: names of the ClassLabel column; empty for data with captions only.
        template: the paper's prompt, or the default.
        templates: the prompt ensemble.
        perturb_at: "native" or "model", the size at which the attack budget applies.
        shots, seed, row_ids: the few-shot subset and its rows in the split. `row_ids` describes the data set as loaded;
            later calls of `select`, `shuffle` or `filter` do not change it.
        differences: how the data differ from their row, where `accept_differences` let that pass.
        licence: licence of the data, where known.
    """

    name: str
    source: str = ""
    revision: str | None = None
    split: str = ""
    class_names: tuple[str, ...] = ()
    template: str = DEFAULT_TEMPLATE
    templates: tuple[str, ...] = (DEFAULT_TEMPLATE,)
    perturb_at: Literal["native", "model"] = "model"
    shots: int | None = None
    seed: int | None = None
    row_ids: tuple[int, ...] = ()
    differences: tuple[str, ...] = ()
    licence: str = "unknown"


def describe(dataset: datasets.Dataset | datasets.IterableDataset) -> BenchmarkInfo:
    """Return the `BenchmarkInfo` of a data set from `load_benchmark`, or defaults for any other one.

    The description is JSON in `dataset.info.description`. It survives `select`, `shuffle`, `filter`, `map`,
    `save_to_disk`, and `concatenate_datasets` of parts with the same description. The class names come from the
    ClassLabel column.
    """
    features = dataset.features or {}
    label = next((f for f in features.values() if isinstance(f, datasets.ClassLabel)), None)
    names = tuple(label.names) if label is not None else ()
    try:
        stored = parse_json(dataset.info.description, "the description")[_KEY]
        stored = {key: tuple(value) if isinstance(value, list) else value for key, value in stored.items()}
        return BenchmarkInfo(**{**stored, "class_names": names})
    except (ValueError, TypeError, KeyError, AttributeError):  # a description of any other origin
        return BenchmarkInfo(name="", class_names=names)


def attach_info(dataset: Any, info: BenchmarkInfo) -> Any:
    """Store `info` in the data set for `describe`, and return the data set."""
    stored = asdict(info)
    del stored["class_names"]  # kept in one place only, the ClassLabel column
    dataset.info.description = json.dumps({_KEY: stored})
    return dataset
