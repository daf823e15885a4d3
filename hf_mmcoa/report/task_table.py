"""One result as a table of a report: what retrieval and test-time defences have in common."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .markdown import Verbatim, markdown_lines


@dataclass(frozen=True, kw_only=True)
class TaskTable:
    """A table of accuracies or recalls, in percent with their intervals.

    Args:
        title: the model and the data.
        summary: samples and how they were attacked.
        header: names of the columns.
        rows: a name, then a number for each further column.
        note: what the numbers are and what their intervals are over.
        failed: sanity checks that failed, in words.
    """

    title: str
    summary: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    note: str
    failed: Sequence[str]

    def markdown(self) -> list[str]:
        """Return the lines of the table in Markdown."""
        return markdown_lines(self.header, [[name, *map(Verbatim, numbers)] for name, *numbers in self.rows])


def percent_cell(result: Mapping[str, Any], name: str) -> str:
    """Return a number of a result and its interval in percent: "90.0 [85.1, 93.4]"."""
    low, high = result[f"{name}_interval"]
    return f"{100 * result[name]:.1f} [{100 * low:.1f}, {100 * high:.1f}]"
