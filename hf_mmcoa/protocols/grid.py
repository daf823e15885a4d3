"""Run the whole grid: unfinished cells, the processes that compute them, the table and the page."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import datasets
from filelock import FileLock, Timeout
from transformers.utils import logging as transformers_logging

from ..attacks.settings import THREATS
from ..evaluation.recalls import DEPTHS, DIRECTIONS
from ..evaluation.results import load_result
from ..io import write_json, write_text
from ..report.page import write_report
from .cell import Cell, shots_name
from .cell_models import base_folder, start_model
from .cells import check_settings, result_path, run_cell
from .grid_table import protocol_table
from .jobs import environments, in_processes, visible_gpus
from .protocol import RETRIEVAL, Protocol

Failures = dict[str, str]  # for each failed cell its error


def run_protocol(
    protocol: Protocol, output: str | Path, processes: int = 1, report: Callable[[str], None] = print
) -> Failures:
    """Compute every unfinished cell, then write `protocol.json`, `table.md` and `index.html`.

    Args:
        protocol: the grid.
        output: folder of the protocol. The same folder resumes an interrupted run.
        processes: number of trainings at the same time, each in a process of its own with one GPU, or with its share of
            the cores. A training and its evaluations share one process.
        report: function that is called with one line of progress about each cell.

    Returns:
        The cells that failed, each with its error; the others are computed and shown nevertheless.

    Raises:
        ValueError: if another process works in `output`, `processes` is less than 1, or the task is retrieval.
    """
    if protocol.task == RETRIEVAL:
        raise ValueError(f"`task: {RETRIEVAL}` is measured by `hf-mmcoa compare`: one data set, methods by seeds.")
    output = Path(output)
    with locked(output):
        failures = run_cells(protocol, output, processes, report)
        write_tables(protocol, output, failures)
        return failures


@contextmanager
def locked(output: Path) -> Iterator[None]:
    """Create a folder if need be, and lock it for this process.

    Raises:
        ValueError: if another process works in it.
    """
    output.mkdir(parents=True, exist_ok=True)
    lock = FileLock(output / ".lock", timeout=0)
    try:
        lock.acquire()
    except Timeout:
        raise ValueError(f"`output`: another process runs a protocol in {output}. Wait for it, or end it.") from None
    try:
        yield
    finally:
        lock.release()


def run_cells(protocol: Protocol, output: Path, processes: int, report: Callable[[str], None]) -> Failures:
    """Compute every unfinished cell in a `locked` folder; return the cells that failed.

    Raises:
        ValueError: if `processes` is less than 1.
    """
    if processes < 1:
        raise ValueError(f"`processes` must be at least 1, got {processes}.")
    cells = protocol.cells()
    failures: Failures = {}
    waiting = []
    for cell in cells:
        try:
            check_settings(cell, output)
        except ValueError as error:
            failures[cell.name] = str(error)
            report(f"{cell.name}: FAILED: {error}")
            continue
        if not result_path(cell, output).exists():
            waiting.append(cell)
    report(f"{protocol.name}: {len(cells)} cells, {len(cells) - len(waiting) - len(failures)} finished already")
    done = 0
    # Pretrain tiny models first: several trainings start from one, and no two processes may pretrain the same.
    stages = [_by(waiting, lambda cell: base_folder(protocol, cell, output)), _by(waiting, _model_of)]
    for make_bases, groups in zip((True, False), stages, strict=True):
        if make_bases:
            groups = [g for g in groups if (base := base_folder(protocol, g[0], output)) and not base.is_dir()]
        with closing(_each(protocol, groups, output, processes, make_bases)) as outcomes:
            for name, seconds, what in outcomes:
                if what.startswith("FAILED"):
                    failures[name] = what.removeprefix("FAILED: ")
                done += not make_bases
                report(f"{'' if make_bases else f'[{done}/{len(waiting)}] '}{name}: {what} ({seconds:.0f} s)")
    # In the order of the cells, whichever process was first: the files are the same with any number of jobs.
    return {cell.name: failures[cell.name] for cell in cells if cell.name in failures}


def write_tables(protocol: Protocol, output: Path, failures: Failures) -> None:
    """Write `protocol.json`, `table.md` and the report of all cells that are finished and not refused."""
    finished = [
        (cell, load_result(result_path(cell, output)))
        for cell in protocol.cells()
        if cell.name not in failures and result_path(cell, output).exists()
    ]
    left_out = {"predictions", "outcomes", "row_ids", "labels"}  # in each cell's own file
    write_json(
        {
            "protocol": asdict(protocol) | {"objectives": [method.to_json() for method in protocol.objectives]},
            "failed": failures,
            "cells": {
                cell.name: {
                    "result": str(result_path(cell, output).relative_to(output)),
                    **{key: value for key, value in result.items() if key not in left_out},
                }
                for cell, result in finished
            },
        },
        output / "protocol.json",
    )
    write_text(protocol_table(protocol, finished, failures), output / "table.md")
    if finished:
        named = [f"{series_name(cell)}={result_path(cell, output)}" for cell, _ in finished]
        write_report(named, output, title=protocol.name)


def series_name(cell: Cell) -> str:
    """Return the name that repetitions of a cell share in the report."""
    name = "no defence" if cell.train_on is None else f"{cell.method.name}, {shots_name(cell.shots)}"
    return f"{name}, word split {cell.word_split}" if cell.word_split else name


# Work


def _model_of(cell: Cell) -> Any:
    """Return a key that cells of one model share, so that it is trained once; cells without training share none."""
    return cell.name if cell.train_on is None else repr(cell.training)


def _by(cells: Iterable[Cell], key: Callable[[Cell], Any]) -> list[list[Cell]]:
    groups: dict[Any, list[Cell]] = {}
    for cell in cells:
        groups.setdefault(key(cell), []).append(cell)
    return list(groups.values())


Done = tuple[str, float, str]  # name, seconds, outcome


def _work(protocol: Protocol, output: Path, make_base: bool, cells: Sequence[Cell]) -> Iterator[Done]:
    """Do one process's share: pretrain a base model, or run the cells of one model. An error ends one cell only."""
    datasets.disable_progress_bars()
    transformers_logging.disable_progress_bar()
    for cell in cells[:1] if make_base else cells:
        started = time.monotonic()
        name = cell.name
        try:
            if make_base:
                name = str(base_folder(protocol, cell, output))
                start_model(protocol, cell, output)
                what = "ready"
            else:
                what = _in_short(run_cell(protocol, cell, output))
        except Exception as error:  # from any library; it is reported with the cell's name
            if make_base:
                return  # its cells fail with the same error, each under its own name
            what = f"FAILED: {type(error).__name__}: {error}"
        yield name, time.monotonic() - started, what


def _in_short(result: dict[str, Any]) -> str:
    ends = {"_accuracy": "", f"_{DIRECTIONS[0]}_recall_at_{DEPTHS[0]}": f" R@{DEPTHS[0]}"}
    return ", ".join(
        f"{kind}{label} {100 * result[f'{kind}{end}']:.1f}"
        for kind in THREATS
        for end, label in ends.items()
        if f"{kind}{end}" in result
    )


def _each(
    protocol: Protocol, groups: list[list[Cell]], output: Path, processes: int, make_base: bool
) -> Generator[Done, None, None]:
    """Yield the outcome of each cell as soon as it is known."""
    on_cpu = protocol.training.get("use_cpu") or any(method.training.get("use_cpu") for method in protocol.objectives)
    gpus = [] if on_cpu else visible_gpus()
    work = partial(_work, protocol, output, make_base)
    if min(processes, len(groups)) < 2 and len(gpus) < 2:
        for group in groups:
            yield from work(group)
        return
    jobs = environments(processes, gpus)
    told: set[str] = set()
    lost = []
    with closing(in_processes(work, groups, jobs)) as outcomes:
        for number, done in outcomes:
            if done is None:  # its process died
                lost.append(groups[number])
            else:
                told.add(done[0])
                yield done
    for group in lost:  # again, each alone, since several together may have been too much for the memory
        left = [cell for cell in group if cell.name not in told]
        with closing(in_processes(work, [left], jobs[:1])) as outcomes:
            for _, done in outcomes:
                if done is not None:
                    told.add(done[0])
                    yield done
                for cell in left if done is None and not make_base else ():
                    if cell.name not in told:
                        yield cell.name, 0.0, "FAILED: its process was killed, perhaps for memory; use fewer --jobs."


def print_to_stderr(line: str) -> None:
    """Print progress to stderr, apart from what the command prints."""
    print(line, file=sys.stderr, flush=True)
