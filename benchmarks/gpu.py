"""What a GPU does with the package: is it right, how fast, how much memory, where does it wait.

    python benchmarks/gpu.py                          # under nine minutes on an H100; no network
    python benchmarks/gpu.py --quick --device cpu     # every section on tiny models: shows that it runs

Every section is a process of its own with a limit of its own, so that an error, a lack of memory or a hang in one
leaves the others alone; what it had found until then is kept. Exit status 1: a check failed or a section did not end.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

import measure
import torch

HERE = Path(__file__).resolve()


class Section(NamedTuple):
    """A function of another file, and the seconds that it may take."""

    module: str
    limit: float


SECTIONS = {
    "correctness": Section("gpu_correctness", 110),
    "reads": Section("gpu_speed", 40),
    "steps": Section("gpu_speed", 110),
    "attack": Section("gpu_speed", 60),
    "evaluation": Section("gpu_speed", 70),
    "parts": Section("gpu_speed", 60),
    "compiled": Section("gpu_speed", 85),
}


def main() -> None:
    options = measure.parser(str(__doc__).splitlines()[0], "gpu", runs=1)
    options.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    options.add_argument("--sections", nargs="+", choices=list(SECTIONS), default=list(SECTIONS))
    options.add_argument("--limit", type=float, default=535, help="seconds for all sections")
    options.add_argument("--rows", type=Path, help="run the one section here and write what it finds (JSON lines)")
    options = options.parse_args()
    if options.device == "cuda" and not torch.cuda.is_available():
        sys.exit("there is no CUDA device: --quick --device cpu shows that every section runs")
    if options.rows:
        run(options.sections[0], options)
        return
    results, start = {}, time.monotonic()
    for name in options.sections:
        limit = min(SECTIONS[name].limit, start + options.limit - time.monotonic())
        results[name] = in_process(name, limit, options)
        print(show(name, results[name]), flush=True)
    failed = [
        f"{name}: {each['what']}" for name, result in results.items() for each in result["found"] if not passed(each)
    ]
    failed += [f"{name}: {result['ended']}" for name, result in results.items() if result["ended"] != "whole"]
    result = measure.report(
        "gpu",
        [],
        quick=options.quick,
        device=device(options.device),
        settings={"sections": {name: SECTIONS[name]._asdict() for name in options.sections}, "limit": options.limit},
        sections=results,
        failed=failed,
        target="every check holds and every section ends",
        met=None if options.quick else not failed,
    )
    measure.save(result, options.output)
    print(
        f"\n{time.monotonic() - start:.0f} s on {result['device']['name']}", *(failed or ["nothing failed"]), sep="\n"
    )
    if failed:
        sys.exit(1)


def passed(finding: dict[str, Any]) -> bool:
    """Return whether a finding is no check, or one that holds."""
    return bool(finding.get("passed", True))


def run(name: str, options: Any) -> None:
    """Run a section in this process, and write every finding as soon as it is there."""
    import importlib

    from gpu_bench import Bench

    torch.set_num_threads(options.threads if options.device == "cpu" else os.cpu_count() or 1)
    section = getattr(importlib.import_module(SECTIONS[name].module), name)
    with options.rows.open("w", encoding="utf-8") as file:
        for finding in section(Bench(options.device, options.quick)):
            file.write(json.dumps(finding) + "\n")
            file.flush()


def in_process(name: str, limit: float, options: Any) -> dict[str, Any]:
    """Return what a section found in a process of its own, how it ended, and its seconds."""
    if limit <= 0:
        return {"found": [], "ended": "not begun: no time was left", "seconds": 0.0}
    with tempfile.TemporaryDirectory() as folder:
        rows = Path(folder) / "rows"
        command = [sys.executable, str(HERE), "--sections", name, "--device", options.device, "--rows", str(rows)]
        command += ["--threads", str(options.threads), *(["--quick"] if options.quick else [])]
        # Without this setting cuBLAS refuses to be deterministic; it has to be there before the process begins.
        environment = {**os.environ, "CUBLAS_WORKSPACE_CONFIG": ":4096:8", "HF_HUB_OFFLINE": "1"}
        start = time.monotonic()
        try:
            done = subprocess.run(command, env=environment, timeout=limit, capture_output=True, text=True)
            last = (done.stderr.strip().splitlines() or ["no message"])[-1]
            ended = "whole" if done.returncode == 0 else f"exit status {done.returncode}: {last[:300]}"
        except subprocess.TimeoutExpired:
            ended = f"stopped after {limit:.0f} s"
        lines = rows.read_text(encoding="utf-8").splitlines() if rows.exists() else []
        complete = [json.loads(line) for line in lines if line.endswith("}")]
        return {"found": complete, "ended": ended, "seconds": time.monotonic() - start}


def device(name: str) -> dict[str, Any]:
    """Return what is measured, for the file."""
    if name == "cpu":
        return {"name": "cpu"}
    properties = torch.cuda.get_device_properties(0)
    return {"name": properties.name, "memory_gib": properties.total_memory / 2**30, "cuda": torch.version.cuda}


def show(name: str, result: dict[str, Any]) -> str:
    """Return the table of one section, for people."""
    rows = []
    for each in result["found"]:
        value = each["value"]
        shown = f"{value:.4g}" if isinstance(value, float) else str(value)
        more = {key: each[key] for key in each if key not in ("what", "value", "unit", "passed", "places")}
        details = [f"{key} {more[key]:.3g}" if isinstance(more[key], float) else f"{key} {more[key]}" for key in more]
        held = {None: "", True: "ok", False: "FAILED"}[each.get("passed")]
        rows.append([each["what"], shown, each["unit"], held, ", ".join(details)])
    head = f"\n{name}: {result['ended']}, {result['seconds']:.0f} s"
    return f"{head}\n{measure.table(['', 'value', 'unit', 'check', ''], rows)}" if rows else head


if __name__ == "__main__":
    main()
