"""The example of a LLaVA with a robust tower runs, and prints what it writes."""

from __future__ import annotations

import json
import runpy
import sys
from pathlib import Path

import pytest

EXAMPLE = Path(__file__).parents[2] / "examples" / "robust_llava.py"


@pytest.mark.slow
def test_the_table_is_of_the_numbers_that_are_written(tmp_path, monkeypatch, capsys):
    few = ["--pretrain_epochs", "4", "--teach_steps", "60", "--steps", "3", "--max_samples", "40"]
    monkeypatch.setattr(sys, "argv", [str(EXAMPLE), *few, "--output", str(tmp_path / "llava.json")])
    runpy.run_path(str(EXAMPLE), run_name="__main__")
    written = json.loads((tmp_path / "llava.json").read_text())
    assert list(written) == ["original", "fare"]
    original, robust = (written[name][0] for name in written)
    printed = capsys.readouterr().out
    for key in original:
        assert f"| {key} | {original[key]:.3f} | {robust[key]:.3f} |" in printed
    assert original["text changed by the attack"] > original["text changed by noise"]
    assert original["cosine under the attack"] < 0.95 and robust != original
