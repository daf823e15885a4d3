"""Run one cell: settings, model, evaluation, result; an interrupted cell can be resumed any number of times.

A cell's folder holds `settings.json` from the start and `result.json` once the cell is finished; in between it holds
the finished batches of the evaluation.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ..evaluation.evaluator import evaluate_robustness
from ..evaluation.partial import header_differences
from ..evaluation.results import load_result, save_result
from ..evaluation.retrieval import evaluate_retrieval, load_retrieval
from ..evaluation.threat_model import ThreatModel
from ..io import read_json, remove_scratch, write_json
from ..report.load import is_retrieval
from .cell import Cell
from .cell_models import TRAINING_FILE, load_model, load_rows, start_model, substitutes, train_model
from .protocol import RETRIEVAL, Protocol

SETTINGS_FILE, RESULT_FILE, EVALUATION_FILE = "settings.json", "result.json", "evaluation.json"


def cell_folder(cell: Cell, output: Path) -> Path:
    """Return the folder of a cell."""
    return output / "cells" / cell.name


def result_path(cell: Cell, output: Path) -> Path:
    """Return the path of the result file of a cell, which exists once the cell is finished."""
    return cell_folder(cell, output) / RESULT_FILE


def read_result(path: Path) -> dict[str, Any]:
    """Read the result of a cell, of `evaluate_robustness` or of `evaluate_retrieval`."""
    return load_retrieval(path) if is_retrieval(path) else load_result(path)


def check_settings(cell: Cell, output: Path) -> None:
    """Raise ValueError, naming the differences, if the cell's folder was created with other settings."""
    file = cell_folder(cell, output) / SETTINGS_FILE
    if not file.exists():
        return
    then = _mapping(file)
    if found := header_differences(then, json.loads(json.dumps(cell.settings))):
        raise ValueError(
            f"its settings have changed; then and now: {'; '.join(found)}. Choose another --output, or delete "
            f"{file.parent} to run it anew."
        )


def _mapping(file: Path) -> dict[str, Any]:
    content = read_json(file)
    if not isinstance(content, dict):
        raise ValueError(
            f"{file} holds a {type(content).__name__}, not a mapping: it is damaged. Delete {file.parent}."
        )
    return content


def run_cell(protocol: Protocol, cell: Cell, output: Path) -> dict[str, Any]:
    """Return the result of a cell: read it if the cell is finished, else compute what is missing.

    Raises:
        ValueError: if the cell was started with other settings, or as training and evaluation raise it.
    """
    check_settings(cell, output)
    finished = result_path(cell, output)
    if finished.exists():
        return read_result(finished)
    remove_scratch(finished.parent)
    write_json(cell.settings, finished.with_name(SETTINGS_FILE))

    test = load_rows(protocol, cell.data, cell.data.test_split)
    start, processor = start_model(protocol, cell, output)
    lists = substitutes(protocol, cell.data, start, processor, word_split=cell.word_split)
    model, training = start, None
    if cell.train_on is not None:
        folder = train_model(protocol, cell, output)
        model, processor = load_model(protocol, folder)
        training = _mapping(folder / TRAINING_FILE)
    model.to(protocol.arguments("unused", "clean", 0).device)
    evaluation = finished.with_name(EVALUATION_FILE)
    evaluate = evaluate_retrieval if protocol.task == RETRIEVAL else evaluate_robustness
    result: dict[str, Any] = evaluate(  # type: ignore[operator]  # the arguments that both have
        model,
        processor,
        test,
        attacks=protocol.measure,
        threat_model=ThreatModel.from_dict(cell.settings["threat_model"]),
        candidates={name: lists[name] for name in protocol.substitutes},
        batch_size=protocol.batch_size,
        max_samples=protocol.max_test_samples,
        output=evaluation,
        progress=False,
        model_name=protocol.model or f"tiny CLIP, seed {cell.seed}",
        dataset_name=f"{cell.data.name}/{cell.data.test_split}",
        training_seed=cell.seed,
    )
    result |= {"cell": dict(cell.settings), "training": training}
    if protocol.task == RETRIEVAL:
        write_json(result, finished)
    else:
        save_result(result, finished)
    evaluation.unlink()
    return result
