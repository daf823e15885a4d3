"""The example that measures defences without training agrees with the evaluator, and its certificates with both."""

from __future__ import annotations

import json
import runpy
import sys
from pathlib import Path

import pytest

from hf_mmcoa import evaluate_robustness, load_benchmark
from hf_mmcoa.evaluation import ThreatModel, load_result
from hf_mmcoa.substitutes.embedded import synonym_table
from hf_mmcoa.substitutes.held_out import known_and_unseen
from hf_mmcoa.testbed.english_clip import english_clip

EXAMPLE = Path(__file__).parents[2] / "examples" / "no_training.py"


@pytest.mark.slow
def test_rows_agree_with_the_evaluator_and_known_words_cost_nothing(tmp_path, monkeypatch, capsys):
    model, processor = english_clip(image_size=8, patch_size=2)
    for folder in (tmp_path, tmp_path / "pretrained"):
        model.save_pretrained(folder)
        processor.save_pretrained(folder)
    (tmp_path / "robustness.json").write_text(json.dumps({"after": {"training_seed": 5}}))
    options = ["--text_attacks", "words", "--max_samples", "20", "--output", str(tmp_path / "rows")]
    monkeypatch.setattr(sys, "argv", [str(EXAMPLE), str(tmp_path), *options])
    runpy.run_path(str(EXAMPLE), run_name="__main__")
    found = {file.parent.name: load_result(file) for file in (tmp_path / "rows").glob("*/seed-5.json")}
    rows = ("alone", "spelling", "spelling and centroid", "template ensemble", "synonym ensemble", "smoothing")
    assert {f"{when}-{row}".replace(" ", "-") for when in ("before", "after") for row in rows} <= found.keys()

    table = synonym_table("digits-wordnet")
    spec = ThreatModel.preset("quick", text_attacks=("words",), num_candidates=20, text_adversaries=("own", "all"))
    candidates = dict(zip(("known", "unseen"), known_and_unseen(table), strict=True))
    expected = evaluate_robustness(
        model, processor, load_benchmark("digits"), ["clean", "text"], threat_model=spec, candidates=candidates,
        max_samples=20, sanity=False, progress=False,
    )  # fmt: skip
    alone = found["before-alone"]
    assert alone["outcomes"] == expected["outcomes"] and alone["attack_spec"] == expected["attack_spec"]
    assert {key: alone[key] for key in alone if key.endswith(("accuracy", "interval"))} == {
        key: expected[key] for key in expected if key.endswith(("accuracy", "interval"))
    }
    for row in rows[2:]:
        outcomes = found[f"before-{row}".replace(" ", "-")]["outcomes"]
        assert (outcomes["text/words/all"] == outcomes["clean"]) == (row != "template ensemble")
    certified = found["before-smoothing"]["certified"]
    assert "1" in certified["text/words/all"] and "1" not in certified["text/words/own:unseen"]

    capsys.readouterr()
    runpy.run_path(str(EXAMPLE), run_name="__main__")
    assert capsys.readouterr().out.count(": kept") == len(found)
