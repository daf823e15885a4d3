"""The example of test-time defences writes result files that name model and defence."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

import pytest

from hf_mmcoa.evaluation import load_defended
from hf_mmcoa.testbed.tiny_clip import tiny_clip

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "defend_at_test_time.py"


@pytest.mark.filterwarnings("ignore:sanity check failed")
def test_the_example_writes_a_result_for_each_defence(tmp_path, monkeypatch, capsys):
    model, processor = tiny_clip(["This is a photo of a zero"], image_size=32, patch_size=8, width=32)
    model.save_pretrained(tmp_path / "clip")
    processor.save_pretrained(tmp_path / "clip")
    words = ["--model", str(tmp_path / "clip"), "--output", str(tmp_path / "out"), "--max_samples", "4"]
    words += ["--defences", "quantise", "--num_steps", "1"]
    monkeypatch.setattr(sys, "argv", [str(EXAMPLE), *words])
    with pytest.raises(SystemExit) as end:
        runpy.run_path(str(EXAMPLE), run_name="__main__")
    assert end.value.code == 0
    result = load_defended(tmp_path / "out" / "clip-quantise.json")
    assert result["defence"] == "Quantise(levels=4)" and result["num_samples"] == 4
    assert "adaptive" in capsys.readouterr().out
