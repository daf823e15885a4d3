"""A result of a test-time defence as a table of a report: static and adaptive attacks side by side, always both."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..evaluation.defended_results import LABELS
from ..evaluation.sanity import failed
from ..io import printable
from .conditions import count, describe
from .task_table import TaskTable, percent_cell

HEADER = ["defence", *LABELS.values()]
NOTE = (
    "Percent with the 95% interval over images. Static attacks are made without the defence, adaptive ones through it; "
    "worst: the worse of both for each sample."
)


def defence_table(result: Mapping[str, Any], name: str | None = None) -> TaskTable:
    """Return a result of `load_defended` as a table; `name` replaces the model's own."""
    return TaskTable(
        title=printable(f"Test-time defence: {name or result['model']} on {result['dataset']}"),
        summary=f"{result['num_samples']} samples; {describe_defended(result)}",
        header=HEADER,
        rows=[[printable(result["defence"]), *(percent_cell(result, accuracy) for accuracy in LABELS)]],
        note=NOTE,
        failed=[f"{one['check']} ({one['detail']})" for one in failed(result["sanity"])],
    )


def describe_defended(result: Mapping[str, Any]) -> str:
    """Describe in one line how a defence was attacked and asked."""
    return (
        f"{describe(result['attack_spec'], measured=['image'])}; adaptive: {', '.join(result['adaptive_attacks'])}, "
        f"{count(result['adaptive_steps'], 'step')}, {count(result['eot_draws'], 'draw')} a step; "
        f"{count(result['draws'], 'answer')} to each sample"
    )
