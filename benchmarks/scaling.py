"""How the time of an MMCoA step grows with batch, classes, attack steps and processes, on a ViT-B/32.

    python benchmarks/scaling.py

One setting is varied at a time around a small step (4 images, 100 classes, 2 attack steps), so that the whole takes
minutes. Processes are real ones (torchrun, gloo), with the same global batch.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
from typing import Any

import measure
import torch
from accelerate import PartialState
from subject import subject
from training_step import Sides

AROUND = {"batch": 4, "classes": 100, "steps": 2}
VARIED = {"batch": (2, 4, 8), "classes": (100, 300, 1000), "steps": (1, 2, 5, 10), "processes": (1, 2)}


def main() -> None:
    options = measure.parser(str(__doc__).splitlines()[0], "scaling", runs=5)
    options.add_argument("--seconds", type=json.loads, help="time one setting here and print its seconds (JSON)")
    options = options.parse_args()
    torch.set_num_threads(options.threads)
    if options.seconds:
        seconds = times(options.seconds, options)
        if PartialState().is_main_process:
            print(json.dumps(seconds))
        return
    result = measure.report(
        "scaling",
        runs := measured(options),
        quick=options.quick,
        settings={"around": AROUND, "threads_of_a_process": options.threads},
        seconds={name: statistics.median(run[name]["wall"] for run in runs) for name in runs[0]},
        target=None,
        met=None,
    )
    measure.save(result, options.output)
    print(show(result))


def settings(name: str, value: int) -> dict[str, Any]:
    return {**AROUND, name: value}


def measured(options: Any) -> list[dict[str, Any]]:
    """Seconds of every setting in every run; within a run one after the other, so that they share its weather."""
    sides = {}
    for name in ("batch", "classes", "steps"):
        for value in VARIED[name]:
            chosen = settings(name, value)
            sides[f"{name} {value}"] = make(chosen, options)
            sides[f"{name} {value}"].ours()
    runs: list[dict[str, Any]] = []
    for number in range(options.runs):
        runs.append({name: measure.timed(side.ours)[1] for name, side in sides.items()})
        print(f"run {number + 1} of {options.runs}", file=sys.stderr, flush=True)
    sides.clear()
    for processes in VARIED["processes"]:
        found = in_processes(processes, options)
        for run, seconds in zip(runs, found, strict=True):
            run[f"processes {processes}"] = seconds
    return runs


def make(chosen: dict[str, Any], options: Any) -> Sides:
    classes = 12 if options.quick else chosen["classes"]
    return Sides(subject(options.quick, classes), chosen["batch"], chosen["steps"])


def times(chosen: dict[str, Any], options: Any) -> list[dict[str, float]]:
    """Seconds of every run in this process, which may be one of several."""
    side = make(chosen, options)
    side.trainer.model_wrapped = model = side.trainer.accelerator.prepare_model(side.model)

    def step() -> None:
        model.zero_grad()
        side.trainer.compute_loss(model, dict(side.batch)).backward()

    step()
    return [measure.timed(step)[1] for _ in range(options.runs)]


def in_processes(processes: int, options: Any) -> list[dict[str, float]]:
    """Seconds of every run with a global batch of 4, split over so many processes."""
    chosen = json.dumps({**AROUND, "batch": AROUND["batch"] // processes})
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes)]
    command += [__file__, "--seconds", chosen, "--runs", str(options.runs), "--threads", str(options.threads)]
    command += ["--quick"] if options.quick else []
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return list(json.loads(done.stdout.splitlines()[-1]))


def show(result: dict[str, Any]) -> str:
    """The table for people: median seconds, and how much more than the first of its kind."""
    rows: list[list[Any]] = []
    for name, values in VARIED.items():
        first = result["seconds"][f"{name} {values[0]}"]
        for value in values:
            seconds = result["seconds"][f"{name} {value}"]
            rows.append([f"{name} {value}", seconds, seconds / first])
    return measure.table(["", "s", "times the first"], rows)


if __name__ == "__main__":
    main()
