"""The tables of a report beside those of plain accuracy: retrieval, and test-time defences."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ..evaluation.defended_results import load_defended
from ..evaluation.retrieval import load_retrieval
from .defence_tables import defence_table, defence_tables
from .load import is_defended, is_retrieval
from .recall_tables import recall_table, recall_tables
from .task_table import TaskTable


def task_tables(given: Sequence[str | Path]) -> tuple[list[TaskTable], list[str]]:
    """Return the tables of `recall_tables` and of `defence_tables`, and the messages of both.

    Args:
        given: as of `load_results`.
    """
    (recalls, damaged), (defences, left_out) = recall_tables(given), defence_tables(given)
    return [*recalls, *defences], [*damaged, *left_out]


def task_table(file: Path, name: str | None = None) -> tuple[str, TaskTable] | None:
    """Return the fingerprint of the weights that a result of retrieval or of a defence was measured on, and its table.

    Args:
        file: a result file; of plain accuracy, or none, gives None.
        name: replaces the model's own.

    Raises:
        ValueError: if it says that it is such a result, and is not.
    """
    if is_retrieval(file):
        recalls = load_retrieval(file)
        return recalls["fingerprints"]["model"], recall_table(recalls, name)
    if is_defended(file):
        defended = load_defended(file)
        return defended["fingerprints"]["model"], defence_table(defended, name)
    return None
