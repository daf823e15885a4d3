"""The benchmarks run: in their tiny mode both sides end alike, which they check themselves, and the JSON is complete."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
COMMON = {
    "benchmark",
    "command",
    "date",
    "machine",
    "versions",
    "num_runs",
    "runs",
    "quick",
    "settings",
    "target",
    "met",
}
OPTIONS = {
    "text_attack_speed": ["--prompts", "24", "--sample", "4", "--single", "1"],
    "evaluation_speed": ["--images", "3", "--steps", "2"],
}
SIDES = {
    "text_attack_speed": {"ours", "per_text", "per_variant"},
    "evaluation_speed": {"floor", "evaluator", "early_stopping"},
}


def run(name: str, output: Path, *more: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(BENCHMARKS / f"{name}.py"), "--quick", "--runs", "2", "--output", str(output)]
    return subprocess.run([*command, *OPTIONS[name], *more], capture_output=True, text=True, timeout=300)


@pytest.mark.parametrize("name", OPTIONS)
def test_quick_mode_measures_every_side_and_judges_nothing(name: str, tmp_path: Path) -> None:
    done = run(name, tmp_path / "sub" / "result.json")
    assert done.returncode == 0, done.stderr
    result = json.loads((tmp_path / "sub" / "result.json").read_text())

    assert set(result) >= COMMON
    assert result["benchmark"] == name and result["num_runs"] == len(result["runs"]) == 2
    assert result["quick"] is True and result["met"] is None
    assert "torch" in result["versions"] and result["machine"]["threads"] == 1
    for one in result["runs"]:
        assert set(one) >= SIDES[name]
        assert all(one[side][clock] > 0 for side in SIDES[name] for clock in ("wall", "cpu"))

    lines = done.stdout.splitlines()
    assert len({len(line.rstrip()) for line in lines if line.startswith("run ")}) == 1  # aligned
    assert "not judged" in lines[-1]


def test_ratios_are_taken_within_each_run(tmp_path: Path) -> None:
    run("text_attack_speed", tmp_path / "result.json")
    result = json.loads((tmp_path / "result.json").read_text())
    first, second = (one["per_text"]["wall"] / one["ours"]["wall"] for one in result["runs"])
    assert result["speedup"]["per_text"]["wall"]["runs"] == pytest.approx([first, second])
    assert result["speedup"]["per_text"]["wall"]["median"] == pytest.approx((first + second) / 2)

    # 24 prompts of 12 classes, of which one name ("aquarium fish") has two words. Ours: 12 + 2 + 12 * 10.
    assert result["counts"]["distinct_texts"] == 12
    assert result["counts"]["ours_encodes"] == 134
    # One at a time: each prompt itself, 7 or 8 variants of its words, and 11 candidates.
    assert 24 * 19 <= result["counts"]["per_text_encodes"] <= 24 * 20


def test_template_words_may_be_attacked_as_in_the_release(tmp_path: Path) -> None:
    done = run("text_attack_speed", tmp_path / "result.json", "--attack-template")
    assert done.returncode == 0, done.stderr
    result = json.loads((tmp_path / "result.json").read_text())
    assert result["settings"]["protect_template"] is False
    # "photo" has become a rival of every class name: its importance is looked at too, 12 + 13 names' words + 12.
    assert result["counts"]["ours_encodes"] == 12 + 13 + 12 + 120
