"""The example that trains on families and measures their test parts, and the table that it made."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from typing import Any

import pytest

from hf_mmcoa.families import FAMILIES

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def example() -> Any:
    spec = importlib.util.spec_from_file_location("families_on_digits", ROOT / "examples" / "families_on_digits.py")
    module = importlib.util.module_from_spec(spec)  # type: ignore[arg-type]
    spec.loader.exec_module(module)  # type: ignore[union-attr]
    return module


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_it_trains_and_measures(example, tmp_path, monkeypatch, capsys):
    few = ["--steps", "1", "--pretrain_epochs", "1", "--methods", "families without homoglyphs"]
    monkeypatch.setattr(sys, "argv", ["families_on_digits.py", *few, "--output", str(tmp_path / "numbers.json")])
    example.main()
    (run,) = json.loads((tmp_path / "numbers.json").read_text())["families without homoglyphs"]
    assert all(f"families/{name}/worst" in run for name in FAMILIES if name != "words")
    assert "| homoglyphs | " in capsys.readouterr().out


def test_the_table_in_the_documentation_is_what_it_printed(example):
    numbers = json.loads((ROOT / "docs" / "results" / "families" / "digits.json").read_text(encoding="utf-8"))
    page = (ROOT / "docs" / "families.md").read_text(encoding="utf-8")
    assert f"<!-- table:families-digits -->\n{example.table(numbers)}\n<!-- /table -->" in page
