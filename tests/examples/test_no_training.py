"""The example that measures corrections of prompts runs on what the main command writes."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

import pytest

from hf_mmcoa.testbed.english_clip import english_clip

EXAMPLE = Path(__file__).parents[2] / "examples" / "correct_prompts.py"


@pytest.mark.slow
def test_known_words_that_are_looked_up_cost_nothing(tmp_path, monkeypatch, capsys):
    model, processor = english_clip(image_size=8, patch_size=2)
    for folder in (tmp_path, tmp_path / "pretrained"):
        model.save_pretrained(folder)
        processor.save_pretrained(folder)
    monkeypatch.setattr(sys, "argv", [str(EXAMPLE), str(tmp_path), "--max_samples", "10"])
    runpy.run_path(str(EXAMPLE), run_name="__main__")
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("|")]
    cells = {line.split("|")[1].strip(): [part.strip() for part in line.split("|")[2:-1]] for line in lines[2:]}
    rows = ("", " + spelling", " + spelling + centroid")
    assert list(cells) == [f"{name}{more}" for name in ("before", "after") for more in rows]
    clean, known = cells["before + spelling + centroid"][:2]
    assert known == clean and cells["before"] == cells["after"]
