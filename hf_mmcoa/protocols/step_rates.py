"""Keep how fast trainings were, so that a dry run in the same folder need not guess.

The file lies beside the model and not in any result: results are the same, however fast the machine was.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..io import fingerprint, read_json, write_json
from .cell import Cell

RATE_FILE = "speed.json"


@dataclass(frozen=True, kw_only=True)
class Rate:
    """How long a training step of a method took.

    Args:
        method: what steps of equal cost share: model, objective, training settings.
        data: name of the data set.
        seconds: a step, in seconds.
        device: device that it ran on.
    """

    method: str
    data: str
    seconds: float
    device: str


def write_rate(cell: Cell, folder: Path, steps: int, seconds: float, device: str) -> None:
    """Write beside a trained model how many steps it took in how many seconds, in this run."""
    if steps < 1 or cell.train_on is None:
        return
    rate = {"method": _method(cell), "data": cell.train_on.name, "steps": steps, "seconds": seconds, "device": device}
    write_json(rate, folder / RATE_FILE)


def read_rates(output: Path) -> list[Rate]:
    """Return the rates that were measured in an output folder; damaged files are left out."""
    rates = []
    for file in sorted(output.glob(f"models/*/{RATE_FILE}")):
        try:
            found = read_json(file)
            seconds = float(found["seconds"]) / int(found["steps"])
            rates.append(Rate(method=found["method"], data=found["data"], seconds=seconds, device=found["device"]))
        except (OSError, ValueError, TypeError, KeyError, ZeroDivisionError):
            continue
    return rates


def rate_of(cell: Cell, rates: Sequence[Rate]) -> Rate | None:
    """Return the slowest measured rate of a cell's method, on its own data set if there is one."""
    own = [rate for rate in rates if rate.method == _method(cell)]
    same = [rate for rate in own if cell.train_on is not None and rate.data == cell.train_on.name]
    return max(same or own, key=lambda rate: rate.seconds, default=None)


def _method(cell: Cell) -> str:
    """Return a fingerprint of what decides the cost of a step, whatever the data set, the draw and the seed."""
    model: Any = cell.settings["model"]
    if isinstance(model, dict):
        model = {key: value for key, value in model.items() if key not in ("seed", "captions_of")}
    decisive = [model, cell.settings["objective"], cell.settings["training"]]
    return fingerprint(json.loads(json.dumps(decisive)))
