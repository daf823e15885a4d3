"""The tables of a report beside those of plain accuracy: retrieval, and test-time defences."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from .defence_tables import defence_tables
from .recall_tables import recall_tables


class TaskTable(Protocol):
    """One result as a table: `RecallTable`, `DefenceTable`."""

    title: str
    summary: str
    rows: Sequence[Sequence[str]]
    failed: Sequence[str]

    @property
    def note(self) -> str:
        """Return what the numbers are and what their intervals are over."""

    @property
    def header(self) -> Sequence[str]:
        """Return the names of the columns."""

    def markdown(self) -> list[str]:
        """Return the lines of the table in Markdown."""


def task_tables(given: Sequence[str | Path]) -> tuple[list[TaskTable], list[str]]:
    """Return the tables of `recall_tables` and of `defence_tables`, and the messages of both."""
    (recalls, damaged), (defences, left_out) = recall_tables(given), defence_tables(given)
    return [*recalls, *defences], [*damaged, *left_out]
