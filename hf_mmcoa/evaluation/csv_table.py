"""The numbers of results as a table for spreadsheets and data frames: one row a model, data set and metric."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..io import printable, write_text
from .threat_model import preset_of

_OF_THE_RUN = ("format", "num_samples", "num_images", "num_captions", "batch_size", "seed", "training_seed")
COLUMNS = (
    "model",
    "dataset",
    "metric",
    "value",
    "low",
    "high",
    "interval_over",
    "num_samples",
    "preset",
    "norm",
    "epsilon",
    "seed",
)


def write_csv(results: Sequence[Mapping[str, Any]], path: str | Path) -> None:
    """Write the numbers of results of `evaluate_robustness` or `evaluate_retrieval`, in one step.

    Args:
        results: the results.
        path: the file; its columns are `COLUMNS`. Numbers are written so that they read back exactly. `low` and `high`
            are the ends of a metric's 95% interval, empty for one that has none.
    """
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(COLUMNS)
    for result in results:
        writer.writerows(_rows(result))
    write_text(stream.getvalue(), path)


def _rows(result: Mapping[str, Any]) -> Iterator[list[Any]]:
    spec = result["attack_spec"]
    names = [_cell(result.get(key, "")) for key in ("model", "dataset")]
    setting = [preset_of(spec) or "", spec["norm"], float(spec["epsilon"]), result["seed"]]
    for metric, value in _metrics(result):
        low, high = result.get(f"{metric}_interval") or ("", "")
        over = result.get(f"{metric}_interval_over", "")
        yield [*names, _cell(metric), value, low, high, over, result.get("num_samples", ""), *setting]


def _metrics(result: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    for key, value in result.items():
        if isinstance(value, (int, float)) and not isinstance(value, bool) and key not in _OF_THE_RUN:
            yield key, value
    for kind, found in result.get("calibration", {}).items():
        for key in ("ece", "nll"):
            yield f"calibration/{kind}/{key}", found[key]


def _cell(text: Any) -> str:
    """Return a name that no spreadsheet takes for a formula."""
    name = printable(str(text))
    return f"'{name}" if name[:1] in ("=", "+", "-", "@") else name
