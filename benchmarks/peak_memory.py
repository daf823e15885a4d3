"""What an MMCoA step holds in memory beside the model, against the loss's forward and backward alone, on a ViT-B/32.

    python benchmarks/peak_memory.py

Every measurement is a process of its own: the highest resident memory that the kernel saw (VmHWM) less what the process
held before. malloc gives every large block back at once there, so that nothing freed is counted. Linux only.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import measure
import torch
from subject import subject
from training_step import Sides

TARGET = 1.15  # issue 7
CASES = {  # name: (what runs, classes, attack steps, settings)
    "loss alone": ("outer", 100, 1, {}),
    "step, 2 attack steps": ("ours", 100, 2, {}),
    "step, 4 attack steps": ("ours", 100, 4, {}),
    "step, 1,000 classes": ("ours", 1000, 2, {}),
    "step, encode_batch_size": ("ours", 100, 2, {"encode_batch_size": 4, "attack_batch_size": 4}),
}
JUDGED = ("step, 2 attack steps", "step, 4 attack steps", "step, 1,000 classes")


def main() -> None:
    options = measure.parser(str(__doc__).splitlines()[0], "peak_memory", runs=2)
    options.add_argument("--batch-size", type=int, default=16)
    options.add_argument("--case", help="measure this one in this process and print its bytes")
    options = options.parse_args()
    if options.case:
        print(json.dumps(peak(options.case, options)))
        return
    runs = []
    for number in range(options.runs):
        runs.append({name: in_process(name, options) for name in CASES})
        print(f"run {number + 1} of {options.runs}", file=sys.stderr, flush=True)
    over = {name: [run[name] / run["loss alone"] for run in runs] for name in CASES}
    result = measure.report(
        "peak_memory",
        runs,
        quick=options.quick,
        settings={"batch_size": options.batch_size, "cases": {name: list(case) for name, case in CASES.items()}},
        over_loss_alone=over,
        target=TARGET,
        met=None if options.quick else all(max(over[name]) <= TARGET for name in JUDGED),
    )
    measure.save(result, options.output)
    print(show(result))
    if result["met"] is False:
        sys.exit(1)


def in_process(name: str, options: Any) -> int:
    """Bytes of one case, measured in a process of its own."""
    command = [sys.executable, __file__, "--case", name, "--batch-size", str(options.batch_size)]
    command += ["--threads", str(options.threads), *(["--quick"] if options.quick else [])]
    # Blocks above this size are the kernel's, and its again once they are freed.
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
    done = subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE, text=True)
    return int(json.loads(done.stdout.splitlines()[-1]))


def peak(name: str, options: Any) -> int:
    """Bytes that the case needs at its highest point beside what is there before it."""
    torch.set_num_threads(options.threads)
    work, classes, steps, settings = CASES[name]
    sides = Sides(subject(options.quick, classes), options.batch_size, steps, **settings)
    run = sides.ours if work == "ours" else lambda: sides.outer(sides.images)
    Path("/proc/self/clear_refs").write_text("5")  # VmHWM starts again from what is resident now
    before = resident("VmRSS")
    run()
    return resident("VmHWM") - before


def resident(field: str) -> int:
    found = re.search(rf"{field}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found is not None
    return 1024 * int(found[1])


def show(result: dict[str, Any]) -> str:
    """The table for people."""
    header = ["", *(f"MiB, run {number + 1}" for number in range(result["num_runs"])), "over the loss alone"]
    rows = [
        [name, *(run[name] / 2**20 for run in result["runs"]), max(result["over_loss_alone"][name])] for name in CASES
    ]
    return f"{measure.table(header, rows)}\n{measure.verdict(result, 'a step over the loss alone, at most')}"


if __name__ == "__main__":
    main()
