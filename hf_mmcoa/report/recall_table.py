"""A retrieval result as a table of a report: recall in both directions, each with its interval over images."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..evaluation.recalls import DEPTHS, DIRECTIONS
from ..io import printable
from .conditions import describe
from .task_table import TaskTable, percent_cell

HEADER = ["recall under", *(f"{d.replace('_', ' ')} R@{k}" for d in DIRECTIONS for k in DEPTHS)]
NOTE = (
    "Percent with the 95% interval over images, of which each brings its captions; "
    "worst case per query over the attacks."
)


def recall_table(result: Mapping[str, Any], name: str | None = None) -> TaskTable:
    """Return a result of `load_retrieval` as a table; `name` replaces the model's own."""
    first = f"_{DIRECTIONS[0]}_recall_at_{DEPTHS[0]}"
    threats = [key.removesuffix(first) for key in result if key.endswith(first) and "/" not in key]
    columns = [f"{direction}_recall_at_{depth}" for direction in DIRECTIONS for depth in DEPTHS]
    rows = [
        [threat.replace("_", " "), *(percent_cell(result, f"{threat}_{column}") for column in columns)]
        for threat in threats
    ]
    return TaskTable(
        title=printable(f"Retrieval: {name or result['model']} on {result['dataset']}"),
        summary=f"{result['num_samples']} images, {result['num_captions']} captions; {describe(result['attack_spec'])}",
        header=HEADER,
        rows=rows,
        note=NOTE,
        failed=[f"{one['check']} ({one['detail']})" for one in result["sanity"] if one["passed"] is False],
    )
