"""Every number in README and docs is the one in its result file, and the results keep what the README promises."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from statistics import mean

ROOT = Path(__file__).resolve().parents[1]


def test_tables_are_made_from_the_result_files():
    done = subprocess.run([sys.executable, ROOT / "docs" / "make_tables.py", "--check"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_three_seeds_fall_before_and_stand_after():
    runs = [json.loads(file.read_text()) for file in sorted((ROOT / "docs" / "results" / "digits").glob("*.json"))]
    assert len(runs) == 3

    def average(part: str, name: str) -> float:
        return mean(run[part][f"{name}_accuracy"] for run in runs)

    assert average("before", "clean") >= 0.95 and average("after", "clean") >= 0.95
    assert average("before", "image") <= 0.20 and average("after", "image") >= 0.65
    assert average("before", "text") <= 0.10 and average("after", "text") >= 0.90
    assert average("before", "multimodal") <= 0.10 and average("after", "multimodal") >= 0.60
    for run in runs:
        spec = run["after"]["attack_spec"]
        assert spec == run["before"]["attack_spec"] and spec["num_steps"] >= 20 and spec["restarts"] >= 2
