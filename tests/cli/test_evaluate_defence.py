"""`hf-mmcoa evaluate --defence`: both columns are printed, settings reach the defence, what does not fit is refused."""

from __future__ import annotations

import pytest
from squares import squares

from hf_mmcoa.cli import main
from hf_mmcoa.cli.defence_argument import DEFENCES, named_defence
from hf_mmcoa.defences import RTPT, TTC, GaussianNoise, Quantise
from hf_mmcoa.evaluation import load_defended

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture
def folder(model, processor, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    processor.save_pretrained("clip")
    model.save_pretrained("clip")
    squares(6).save_to_disk("six")
    return tmp_path


def evaluate(*words):
    options = ["--model", "clip", "--dataset", "six", "--cpu", "--quiet", "--preset", "quick", "--num_steps", "2"]
    return main(["evaluate", *options, "--epsilon", "0.1", *words])


def test_both_columns_are_printed_and_written(folder, capsys):
    defence = ["--defence", "noise", "--defence_settings", "sigma=51/255", "--eot_draws", "2", "--draws", "3"]
    assert evaluate(*defence, "--adaptive_steps", "3", "--output", "out.json") == 0
    shown = capsys.readouterr().out
    result = load_defended("out.json")
    assert (result["defence"], result["draws"], result["eot_draws"]) == ("GaussianNoise(sigma=0.2)", 3, 2)
    assert result["adaptive_steps"] == 3 and result["attack_spec"]["num_steps"] == 2
    for label, name in (("static", "static_accuracy"), ("adaptive", "adaptive_accuracy"), ("worst", "robust_accuracy")):
        (line,) = [line for line in shown.splitlines() if line.startswith(label)]
        assert f"{100 * result[name]:.1f}" in line


def test_names_and_settings_become_defences():
    assert named_defence("ttc", ["epsilon=4/255", "num_steps=3"]) == TTC(epsilon=4 / 255, num_steps=3)
    assert named_defence("r-tpt", ["num_views=8"]) == RTPT(num_views=8)
    assert named_defence("noise", ["sigma=0.1"]) == GaussianNoise(sigma=0.1)
    assert named_defence("quantise", ["levels=4"]) == Quantise(levels=4)
    assert len(DEFENCES) == 4


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["--defence", "noise"], "sigma=..."),
        (["--defence", "ttc", "--defence_settings", "strength=1"], "KEY: epsilon"),
        (["--defence", "quantise", "--defence_settings", "levels=many"], "whole number"),
        (["--defence", "ttc", "--task", "retrieval"], "--task zero-shot"),
        (["--defence", "ttc", "--attack", "words"], "text attacks"),
        (["--defence", "ttc", "--csv", "out.csv"], "`--csv`"),
        (["--draws", "3"], "`--draws`"),
    ],
)
def test_options_that_do_not_fit_are_named(folder, capsys, words, named):
    assert evaluate(*words) == 1
    assert named in capsys.readouterr().err
