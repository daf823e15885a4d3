"""The tables of a report beside those of plain accuracy: retrieval, and test-time defences."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from .defence_tables import defence_tables
from .recall_tables import recall_tables
from .task_table import TaskTable


def task_tables(given: Sequence[str | Path]) -> tuple[list[TaskTable], list[str]]:
    """Return the tables of `recall_tables` and of `defence_tables`, and the messages of both.

    Args:
        given: as of `load_results`.
    """
    (recalls, damaged), (defences, left_out) = recall_tables(given), defence_tables(given)
    return [*recalls, *defences], [*damaged, *left_out]
