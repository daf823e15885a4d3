"""The tables of a report beside those of plain accuracy: retrieval, and test-time defences."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ..evaluation.defended_results import load_defended
from ..evaluation.retrieval import load_retrieval
from .defence_table import defence_table
from .load import is_defended, is_retrieval, named_path, result_files
from .recall_table import recall_table
from .task_table import TaskTable


def task_tables(given: Sequence[str | Path]) -> tuple[list[TaskTable], list[str]]:
    """Read the results of retrieval and of test-time defences among files and folders.

    Args:
        given: as of `load_results`.

    Returns:
        Their tables, in the order of the files, and a message for each that is damaged.
    """
    tables, left_out = [], []
    for one in given:
        name, path = named_path(one)
        for file in result_files(path):
            try:
                if (found := task_table(file, name)) is not None:
                    tables.append(found[1])
            except (ValueError, KeyError, TypeError) as error:
                left_out.append(f"{file}: {error}")
    return tables, left_out


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
