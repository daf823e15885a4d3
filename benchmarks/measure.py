"""What every benchmark shares: two clocks, the machine it ran on, ratios of one run, a JSON file and an aligned table.

Only ratios of things measured side by side are compared: seconds differ from machine to machine and, on a shared one,
from minute to minute. Wall seconds are what a user waits; CPU seconds of the process leave out the time in which other
processes had the core, so on a busy machine their ratio is the steadier one.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch

from hf_mmcoa.evaluation.provenance import versions

Result = TypeVar("Result")


def parser(description: str, name: str, runs: int) -> argparse.ArgumentParser:
    """The options that all benchmarks have."""
    options = argparse.ArgumentParser(description=description, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    options.add_argument("--runs", type=int, default=runs, help="measurements of each side, alternating")
    options.add_argument("--threads", type=int, default=1, help="of torch")
    options.add_argument("--quick", action="store_true", help="a tiny model, seconds: shows that it runs, no result")
    options.add_argument("--output", type=Path, default=Path(__file__).parent / "results" / f"{name}.json")
    return options


def timed(call: Callable[[], Result]) -> tuple[Result, dict[str, float]]:
    """What `call` returns, and the seconds it took on both clocks."""
    wall, cpu = time.perf_counter(), time.process_time()
    result = call()
    return result, {"wall": time.perf_counter() - wall, "cpu": time.process_time() - cpu}


def ratio(runs: Sequence[dict[str, Any]], above: str, below: str) -> dict[str, Any]:
    """`above` over `below` within each run, on both clocks: median, smallest and largest."""
    return {
        clock: {
            "median": statistics.median(ratios),
            "low": min(ratios),
            "high": max(ratios),
            "runs": ratios,
        }
        for clock in ("wall", "cpu")
        if (ratios := [run[above][clock] / run[below][clock] for run in runs])
    }


def report(name: str, runs: list[dict[str, Any]], **content: Any) -> dict[str, Any]:
    """The JSON value of a benchmark: what was run, where, every run's figures, and `content`."""
    return {
        "benchmark": name,
        "command": " ".join(["python", f"benchmarks/{Path(sys.argv[0]).name}", *sys.argv[1:]]),
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "machine": {
            "processor": _processor(),
            "cores": os.cpu_count(),
            "threads": torch.get_num_threads(),
            "load_average": os.getloadavg(),
            "system": platform.platform(),
        },
        "versions": versions(),
        "num_runs": len(runs),
        "runs": runs,
        **content,
    }


def save(result: dict[str, Any], output: Path) -> None:
    """Write the JSON file."""
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


def table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Aligned columns: the first to the left, numbers to the right."""
    cells = [list(header), *([f"{cell:.2f}" if isinstance(cell, float) else str(cell) for cell in row] for row in rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(header))]
    lines = [
        "  ".join(
            cell.rjust(width) if place else cell.ljust(width)
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in cells
    ]
    return "\n".join([lines[0], "-" * len(lines[0]), *lines[1:]])


def verdict(result: dict[str, Any], what: str) -> str:
    """Whether the target was reached; a quick run, or a count, says nothing about it."""
    met = {True: "reached", False: "MISSED", None: "not judged: a quick run, or nothing timed"}[result["met"]]
    return f"target: {what} {result['target']}: {met}"


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
