"""`hf-mmcoa evaluate` with several models, data sets and epsilons, and with models of other forms."""

from __future__ import annotations

import json

import pytest
import torch
from squares import squares

from hf_mmcoa.cli import main
from hf_mmcoa.convert.checkpoint import convert
from hf_mmcoa.evaluation import evaluator, load_result
from hf_mmcoa.models.lora import add_lora
from hf_mmcoa.testbed.tiny_clip import tiny_clip

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture
def folder(model, processor, tmp_path, monkeypatch):
    """Two models and two data sets, in the working directory."""
    monkeypatch.chdir(tmp_path)
    for name in ("first", "second"):
        processor.save_pretrained(name)
        model.save_pretrained(name)
        with torch.no_grad():
            model.visual_projection.weight += 0.02
    squares(6).save_to_disk("six")
    squares(9, seed=3).save_to_disk("nine")
    return tmp_path


def evaluate(*words):
    options = ["--cpu", "--quiet", "--no_sanity", "--preset", "quick", "--num_steps", "2", "--attacks", "image"]
    return main(["evaluate", *options, *map(str, words)])


GRID = ["--model", "first", "second", "--dataset", "six", "nine", "--epsilon", "1/255", "4/255", "--output", "out"]


def test_every_cell_has_a_file_and_a_row_and_is_measured_once(folder, capsys, monkeypatch):
    measured = []
    attack = evaluator.ZeroShotTask.attack
    monkeypatch.setattr(evaluator.ZeroShotTask, "attack", lambda *given: measured.append(1) or attack(*given))
    assert evaluate("--model", "first", "--dataset", "six", "nine", "--epsilon", "1/255", "--output", "out") == 0
    assert len(measured) == 2
    capsys.readouterr()
    assert evaluate(*GRID) == 0
    assert len(measured) == 8, "the two finished cells are not measured again"
    names = [f"{m}_{d}_eps{e}-255.json" for m in ("first", "second") for d in ("nine", "six") for e in (1, 4)]
    assert sorted(path.name for path in (folder / "out").iterdir()) == sorted(names)
    assert load_result("out/second_nine_eps4-255.json")["attack_spec"]["epsilon"] == 4 / 255
    assert load_result("out/second_nine_eps4-255.json")["num_samples"] == 9
    rows = [line.split()[:3] for line in capsys.readouterr().out.splitlines()[1:9]]
    assert rows == [[m, d, f"{e}/255"] for m in ("first", "second") for d in ("six", "nine") for e in (1, 4)]


def test_an_interrupted_cell_goes_on_within_itself(folder, monkeypatch):
    attack, begun = evaluator.ZeroShotTask.attack, []

    def stops(task, index, batch):
        begun.append(index)
        if len(begun) == 5:  # the first cell has 3 batches, so this is the second batch of the second
            raise KeyboardInterrupt
        return attack(task, index, batch)

    monkeypatch.setattr(evaluator.ZeroShotTask, "attack", stops)
    command = ["--model", "first", "second", "--dataset", "six", "--output", "out", "--batch_size", "2"]
    with pytest.raises(KeyboardInterrupt):
        evaluate(*command)
    assert evaluate(*command) == 0 and begun == [0, 1, 2, 0, 1, 1, 2]


def test_another_specification_is_never_mixed_in(folder, capsys):
    command = ["--model", "first", "--dataset", "six", "nine", "--output", "out"]
    assert evaluate(*command) == 0
    assert evaluate(*command, "--num_steps", "3") == 1
    error = capsys.readouterr().err
    assert error.count("holds the result of another evaluation") == 2 and "num_steps" in error
    assert load_result("out/first_six_eps1-255.json")["attack_spec"]["num_steps"] == 2


def test_one_cell_that_fails_does_not_lose_the_others(folder, capsys):
    assert evaluate("--model", "gone/away", "first", "--dataset", "six", "--output", "out") == 1
    assert "gone/away on six" in capsys.readouterr().err and load_result("out/first_six_eps1-255.json")


def test_models_of_one_name_have_files_of_their_own(folder):
    (folder / "other").mkdir()
    (folder / "other/first").symlink_to(folder / "second")
    assert evaluate("--model", "first", "other/first", "--dataset", "six", "--output", "out") == 0
    assert len(list((folder / "out").iterdir())) == 2


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        (["--output", "a.json"], "name a folder"),
        (["--epsilon", "1/255", "0.00392156862745098"], "twice"),
        (["--model", "first", "first"], "twice"),
        (["--epsilon", "1/255", "8"], "Did you mean 8/255"),
    ],
)
def test_what_cannot_be_a_grid_is_refused_at_once(folder, changes, text, capsys):
    assert evaluate(*GRID, *changes) == 1
    assert text in capsys.readouterr().err and not (folder / "out").exists()


def clean(model, *words):
    assert (
        main(["evaluate", "--cpu", "--quiet", "--attacks", "clean", "--model", model, "--dataset", "nine", *words]) == 0
    )


def test_an_adapter_is_a_model(folder, model, processor, capsys):
    adapted = add_lora(model, rank=2)
    with torch.no_grad():
        for name, weight in adapted.named_parameters():
            if "lora_B" in name:
                weight.normal_(0, 0.5, generator=torch.Generator().manual_seed(0))
    adapted.save_pretrained("adapter")
    config = json.loads((folder / "adapter/adapter_config.json").read_text())
    for base in (str(folder / "second"), None):
        (folder / "adapter/adapter_config.json").write_text(json.dumps({**config, "base_model_name_or_path": base}))
        if base is None:
            capsys.readouterr()
            assert main(["evaluate", "--model", "adapter", "--dataset", "nine", "--cpu"]) == 1
            assert "--base" in capsys.readouterr().err
        clean("adapter", "--output", f"{base is None}.json", *([] if base else ["--base", "first"]))
    prints = [load_result(f"{name}.json")["fingerprints"]["model"] for name in ("True", "False")]
    clean("first", "--output", "plain.json")
    assert len({*prints, load_result("plain.json")["fingerprints"]["model"]}) == 3


def test_an_openclip_folder_and_a_file_are_models(folder, capsys):
    convert("first", "openclip", to="open_clip")
    clean("first", "--output", "plain.json")
    expected = load_result("plain.json")["predictions"]
    clean("openclip", "--processor", "first", "--output", "a.json")
    clean("openclip/open_clip_model.safetensors", "--base", "first", "--output", "b.json")
    assert load_result("a.json")["predictions"] == load_result("b.json")["predictions"] == expected
    capsys.readouterr()
    for words, text in ((["openclip"], "--processor"), (["gone.pt"], "gone.pt")):
        assert main(["evaluate", "--model", *words, "--dataset", "nine", "--cpu"]) == 1
        assert text in capsys.readouterr().err.splitlines()[-1]


def test_a_model_of_the_library_is_read_as_before(folder):
    built, processor = tiny_clip(["a photo of a cat"], image_size=8, patch_size=2)
    built.save_pretrained("tiny")
    processor.save_pretrained("tiny")
    clean("tiny", "--base", "first", "--output", "tiny.json")


def test_of_several_data_sets_none_is_read_in_the_place_of_a_missing_one(folder, capsys):
    squares(6).save_to_disk("data/me/six")
    options = ["--model", "first", "--dataset", "me/six", "me/seven", "--data_dir", "data", "--output", "out"]
    assert evaluate(*options) == 1
    assert "there is no folder data/me/seven" in capsys.readouterr().err
    assert [load_result(path)["num_samples"] for path in (folder / "out").iterdir()] == [6]
