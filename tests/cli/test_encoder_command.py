"""`hf-mmcoa encoder` prints and writes how far the features of a tower move."""

from __future__ import annotations

import json

import pytest

from hf_mmcoa.cli import main
from hf_mmcoa.testbed.english_clip import english_clip


@pytest.fixture
def folders(tmp_path):
    for seed in (0, 1):
        model, processor = english_clip(image_size=8, patch_size=2, seed=seed)
        model.save_pretrained(tmp_path / str(seed))
        processor.save_pretrained(tmp_path / str(seed))
    return tmp_path


@pytest.mark.slow
def test_the_table_is_that_of_the_file_and_every_option_counts(folders, capsys):
    def shift(*more: str) -> dict:
        output = folders / "shift.json"
        words = ["encoder", "--model", f"{folders}/0", "--dataset", "digits", "--max_samples", "4", "--cpu"]
        assert main([*words, "--num_steps", "3", "--epsilon", "0.1", "--output", str(output), *more]) == 0
        return json.loads(output.read_text())

    plain = shift()
    printed = capsys.readouterr().out.splitlines()
    attack = plain["shift"]["attack"]
    assert f"| attack | {attack['cosine']:.3f} | {attack['relative_l2']:.3f} |" in printed
    assert plain["num_samples"] == 4 and plain["attack_spec"]["epsilon"] == 0.1
    assert attack["relative_l2"] > plain["shift"]["noise"]["relative_l2"] and "from_reference" not in plain["shift"]
    assert shift("--layer", "-1")["shift"] != plain["shift"]
    assert shift("--norm", "l2")["shift"]["attack"]["relative_l2"] < attack["relative_l2"]
    assert shift("--seed", "1")["shift"]["noise"] != plain["shift"]["noise"]
    assert shift("--reference", f"{folders}/1")["shift"]["from_reference"]["cosine"] < 0.5


def test_what_is_wrong_is_one_line(folders, capsys):
    words = ["encoder", "--model", f"{folders}/0", "--dataset", "digits", "--max_samples", "4", "--cpu"]
    assert main([*words, "--layer", "9"]) == 1
    assert capsys.readouterr().err.splitlines()[-1].startswith("hf-mmcoa encoder: `layer`: the tower has 2 layers")
