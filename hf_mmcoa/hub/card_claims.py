"""Compare what a model card states with the result files that it was made from."""

from __future__ import annotations

from typing import Any

import yaml
from huggingface_hub import ModelCard

from ..evaluation.findings import Finding, finding
from ..file_names import CARD_FILE
from ..io import read_text
from ..report.table import markdown_table
from .card import TAG, card_of
from .measurements import Measurements, Section
from .model_folder import Checkpoint

CHECK = "the card states what the result files hold"


def check_card(checkpoint: Checkpoint, measured: Measurements) -> list[Finding]:
    """Check the numbers of a folder's card, in its metadata and in its tables, against its result files.

    The card is written once more from the result files. Every number of its metadata must be there, and every accuracy
    of the files in its tables.

    Returns:
        One finding for each number or row that is wrong, else one that says how many were compared.
    """
    file = checkpoint.folder / CARD_FILE
    if not file.is_file():
        return [finding(CHECK, None, f"not checked: there is no {CARD_FILE}")]
    try:
        text = read_text(file)
        data: Any = ModelCard(text, ignore_metadata_errors=False).data
    except (ValueError, TypeError, KeyError, AttributeError, yaml.YAMLError) as error:  # the file is untrusted
        return [finding(CHECK, False, f"the metadata of {CARD_FILE} cannot be read: {error}")]
    written: Any = card_of(checkpoint, measured).data
    expected = {_key(one): one for one in written.eval_results or ()}
    stated = data.eval_results or []
    wrong = []
    for one in stated:
        where = f"{one.metric_name} on {one.dataset_name}/{one.dataset_split}"
        if (held := expected.get(_key(one))) is None:
            wrong.append(f"the card states {where}, which no result file on these weights holds")
        elif one.metric_value != held.metric_value:
            wrong.append(f"the card states {one.metric_value} for {where}, the result file {held.metric_value}")
        elif one.metric_args != held.metric_args:
            wrong.append(f"the card states {one.metric_args} for {where}, the result file {held.metric_args}")
    rows: list[list[str]] = []
    if TAG in (data.get("tags") or []):  # tables of cards that others wrote have forms of their own
        shown = [_cells(line) for line in text.splitlines() if line.startswith("| ")]
        rows = [row for section in measured.sections for row in _rows(section)]
        wrong += [
            f"the result files give {row[0]}: {', '.join(row[1:])}, which no table of the card shows"
            for row in rows
            if not any(line[0] == row[0] and set(row) <= set(line) for line in shown)
        ]
    if wrong:
        return [finding(CHECK, False, one) for one in wrong]
    if not stated and not rows:
        return [finding(CHECK, None, "not checked: the card states no numbers")]
    return [finding(CHECK, True, f"{len(stated)} numbers and {len(rows)} rows of tables are the same")]


def _rows(section: Section) -> list[list[str]]:
    """Return the cells of the checkpoint's own column: columns beside it may have been named by hand."""
    lines = markdown_table({section.own: section.result}).split("\n\n")[0].splitlines()
    return [_cells(line) for line in lines[2:]]


def _cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip().strip("|").split(" | ")]


def _key(one: Any) -> tuple[Any, ...]:
    return one.dataset_name, one.dataset_split, one.metric_name
