from __future__ import annotations

import json

import pytest
from squares import CLASS_NAMES, squares

from hf_mmcoa.cli import build_parser, main
from hf_mmcoa.cli.measurement_arguments import SANITY_FAILED, threat_model
from hf_mmcoa.evaluation import evaluator, load_result


@pytest.fixture
def command(model, processor, tmp_path):
    """Arguments of an evaluation of the saved model on a saved data set."""
    model.save_pretrained(tmp_path / "model")
    processor.save_pretrained(tmp_path / "model")
    squares(6).save_to_disk(tmp_path / "data")
    table = tmp_path / "words.json"
    table.write_text(json.dumps({"cat": ["feline"], "dog": ["hound"], "car": ["auto"]}))
    arguments = [
        "--model",
        tmp_path / "model",
        "--dataset",
        tmp_path / "data",
        "--preset",
        "quick",
        "--epsilon",
        "0.05",
    ]
    arguments += ["--num-steps", 3, "--candidates", table, "--cpu", "--quiet", "--output", tmp_path / "result.json"]
    return list(map(str, arguments))


def test_one_command_writes_one_result_and_prints_one_table(command, tmp_path, capsys):
    assert main(["evaluate", *command, "--attacks", "clean", "image", "text", "--max_samples", "5"]) == 0
    result = load_result(tmp_path / "result.json")
    assert result["num_samples"] == 5 and result["attack_spec"]["num_steps"] == 3
    assert result["model"] == str(tmp_path / "model") and "multimodal_accuracy" not in result
    printed = capsys.readouterr().out
    assert "clean" in printed and f"{100 * result['image_accuracy']:.1f}" in printed


def test_a_folder_as_people_keep_it_is_measured_on_its_test_split(command, tmp_path):
    """Beside `test`, a further folder and a loose picture; numbers for class folders; the model's own resize."""
    folder = tmp_path / "mine"
    for number, row in enumerate(squares(12)):
        for split in ("train", "test", "eval"):
            if split == "test" or number >= 3:
                path = folder / split / str(row["label"] + 1) / f"{number}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                row["image"].save(path)
    squares(1)[0]["image"].save(folder / "preview.png")
    (folder / "classnames.txt").write_text("\n".join(CLASS_NAMES))
    command[command.index("--dataset") + 1] = str(folder)
    with pytest.warns(UserWarning, match=r"left out: preview\.png"):
        assert main(["evaluate", *command, "--attacks", "clean"]) == 0
    result = load_result(tmp_path / "result.json")
    assert result["num_samples"] == 12 and result["clean_accuracy"] == 1
    assert result["attack_spec"]["perturb_at"] == "model" and set(result["labels"]) == {0, 1, 2}


def test_the_rule_of_the_resolution_is_in_the_help(capsys):
    with pytest.raises(SystemExit):
        main(["evaluate", "--help"])
    printed = " ".join(capsys.readouterr().out.split())
    assert "no benchmark is `model`, with the resize and crop of the model's own processor" in printed


def test_several_sources_have_names(command, tmp_path):
    table = command[command.index("--candidates") + 1]
    where = command.index("--candidates") + 1
    command[where : where + 1] = [f"known={table}", "near=neighbours"]
    assert main(["evaluate", *command]) == 0
    assert "text_near_accuracy" in load_result(tmp_path / "result.json")
    command[where : where + 2] = [table, "neighbours"]
    assert main(["evaluate", *command, "--overwrite"]) == 1


def test_a_failed_check_has_a_status_of_its_own_and_loses_nothing(command, tmp_path, monkeypatch, capsys):
    broken = [{"check": "inside the ball", "passed": False, "detail": "0.2 of 0.1"}]
    monkeypatch.setattr(evaluator, "run_battery", lambda evaluation, records: broken)
    with pytest.warns(UserWarning, match="sanity check failed"):
        assert main(["evaluate", *command]) == SANITY_FAILED == 3
    assert load_result(tmp_path / "result.json")["sanity"] == broken
    assert "sanity check failed: inside the ball: 0.2 of 0.1" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        (["--epsilon", "8"], "Did you mean 8/255"),
        (["--epsilon", "a"], "`epsilon` must be a number"),
        (["--candidates", "dictionary"], "must be neighbours"),
        (["--model", "no/such/folder"], "no/such/folder"),
    ],
)
def test_a_wrong_value_is_one_line_and_status_one(command, changes, text, capsys, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert main(["evaluate", *command, *changes]) == 1
    error = capsys.readouterr().err
    last = error.splitlines()[-1]
    assert last.startswith("hf-mmcoa evaluate: ") and text in last and "Traceback" not in error


def test_options_change_the_preset_and_nothing_else():
    args = build_parser().parse_args(
        ["evaluate", "--model", "m", "--dataset", "d", "--preset", "paper", "--epsilon", "2/255", "--temperature", "10"]
    )
    spec = threat_model(args)
    assert (spec.epsilon, spec.temperature, spec.num_steps, spec.step_size) == (2 / 255, 10.0, 100, 1 / 255)
    assert args.run.__name__ == "run"


def test_an_unknown_preset_is_status_two(command, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["evaluate", *command, "--preset", "weak"])
    assert stopped.value.code == 2


def test_numbers_go_to_a_csv_beside_the_result_and_samples_to_a_folder(command, tmp_path):
    assert main(["evaluate", *command, "--csv", "--export", str(tmp_path / "samples")]) == 0
    result = load_result(tmp_path / "result.json")
    lines = (tmp_path / "result.csv").read_text().splitlines()
    assert any(f",image_accuracy,{result['image_accuracy']}," in line for line in lines)
    assert len(list((tmp_path / "samples" / "images").rglob("*.png"))) == result["num_samples"]
    assert (tmp_path / "samples" / "predictions.parquet").is_file()
    exact = ["--export", str(tmp_path / "exact"), "--export-images", "safetensors", "--csv", str(tmp_path / "a.csv")]
    assert main(["evaluate", *command, *exact]) == 0  # of a finished result
    assert (tmp_path / "a.csv").read_text() == (tmp_path / "result.csv").read_text()
    assert list((tmp_path / "exact" / "images").glob("*.safetensors"))


@pytest.mark.parametrize(
    ("given", "said"),
    [(["--task", "retrieval", "--export", "x"], "--task zero-shot"), (["--csv"], "give `--output`")],
)
def test_options_that_do_not_fit(command, capsys, given, said):
    where = command.index("--output")
    del command[where : where + 2]
    assert main(["evaluate", *command, *given]) == 1
    assert said in capsys.readouterr().err


def test_parts_are_computed_apart_and_merged(command, tmp_path, capsys):
    output = tmp_path / "result.json"
    command += ["--attacks", "image", "--batch_size", "2"]
    assert main(["evaluate", *command, "--shard", "1/2"]) == 0
    printed = capsys.readouterr().out
    assert f"{output}: part 1/2 is done, 2 of 3 batches. When all are: --shard merge/2" in printed
    assert main(["evaluate", *command, "--shard", "merge/2"]) == 1
    assert "2/2 is missing" in capsys.readouterr().err and not output.exists()
    assert main(["evaluate", *command, "--shard", "2/2"]) == 0
    assert main(["evaluate", *command, "--shard", "merge/2", "--csv"]) == 0
    assert output.with_suffix(".csv").exists() and "image" in capsys.readouterr().out
    merged = output.read_bytes()
    assert main(["evaluate", *command, "--shard", "2/2"]) == 0 and "merged already" in capsys.readouterr().out
    output.unlink()
    assert main(["evaluate", *command]) == 0 and output.read_bytes() == merged


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--shard", "3/2"], "is a part and how many there are"),
        (["--shard", "1/2", "--csv"], "has no numbers yet"),
        (["--shard", "1/2", "--gallery", "2"], "has no numbers yet"),
        (["--shard", "1/2", "--task", "retrieval"], "`--shard` needs `--task zero-shot`"),
        (["--shard", "1/2", "--defence", "ttc"], "`--shard` needs `--task zero-shot`, and no `--defence`"),
        (["--shard", "1/2", "--export", "exported"], "cannot be combined with `export`"),
    ],
)
def test_what_parts_cannot_do_is_said(command, options, message, capsys):
    assert main(["evaluate", *command, *options]) == 1
    assert message in capsys.readouterr().err


def test_parts_without_a_file_are_refused(command, capsys):
    assert main(["evaluate", *command[:-2], "--shard", "1/2"]) == 1
    assert "`--shard` needs `--output`" in capsys.readouterr().err
