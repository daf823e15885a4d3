"""Results of test-time defences as tables of a report: static and adaptive attacks side by side, always both."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..evaluation.defended_results import LABELS, load_defended
from ..evaluation.sanity import failed
from ..io import printable
from .load import is_defended, named_path, result_files
from .markdown import Verbatim, markdown_lines
from .table import count, describe

HEADER = ["defence", *LABELS.values()]


@dataclass(frozen=True, kw_only=True)
class DefenceTable:
    """One model behind one defence as a table.

    Args:
        title: the model and the data.
        summary: samples, attacks, draws.
        rows: the defence and its accuracies, as `HEADER`.
        failed: sanity checks that failed, in words.
    """

    title: str
    summary: str
    rows: Sequence[Sequence[str]]
    failed: Sequence[str]

    @property
    def header(self) -> Sequence[str]:
        """Names of the columns."""
        return HEADER

    @property
    def note(self) -> str:
        """Return what the numbers are and what their intervals are over."""
        return (
            "Percent with the 95% interval over images. Static attacks are made without the defence, adaptive ones "
            "through it; worst: the worse of both for each sample."
        )

    def markdown(self) -> list[str]:
        """Return the lines of the table in Markdown."""
        rows = [[name, *map(Verbatim, numbers)] for name, *numbers in self.rows]
        return markdown_lines(HEADER, rows, ["left", *["right"] * len(LABELS)])


def defence_tables(given: Sequence[str | Path]) -> tuple[list[DefenceTable], list[str]]:
    """Read the results of `evaluate_defence` among files and folders.

    Args:
        given: as of `load_results`.

    Returns:
        Their tables, and a message for each that is damaged.
    """
    tables, left_out = [], []
    for one in given:
        name, path = named_path(one)
        for file in filter(is_defended, result_files(path)):
            try:
                tables.append(defence_table(load_defended(file), name))
            except (ValueError, KeyError, TypeError) as error:
                left_out.append(f"{file}: {error}")
    return tables, left_out


def defence_table(result: Mapping[str, Any], name: str | None = None) -> DefenceTable:
    """Return a result of `load_defended` as a table; `name` replaces the model's own."""
    return DefenceTable(
        title=printable(f"Test-time defence: {name or result['model']} on {result['dataset']}"),
        summary=f"{result['num_samples']} samples; {describe_defended(result)}",
        rows=[[printable(result["defence"]), *(accuracy_cell(result, accuracy) for accuracy in LABELS)]],
        failed=[f"{one['check']} ({one['detail']})" for one in failed(result["sanity"])],
    )


def describe_defended(result: Mapping[str, Any]) -> str:
    """Describe in one line how a defence was attacked and asked."""
    return (
        f"{describe(result['attack_spec'])}; adaptive: {', '.join(result['adaptive_attacks'])}, "
        f"{count(result['adaptive_steps'], 'step')}, {count(result['eot_draws'], 'draw')} a step; "
        f"{count(result['draws'], 'answer')} to each sample"
    )


def accuracy_cell(result: Mapping[str, Any], accuracy: str) -> str:
    """Return an accuracy and its interval in percent."""
    low, high = result[f"{accuracy}_interval"]
    return f"{100 * result[accuracy]:.1f} [{100 * low:.1f}, {100 * high:.1f}]"
