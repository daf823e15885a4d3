"""`hf-mmcoa train`: how options are read, and the whole program in miniature."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from transformers import CLIPModel, CLIPProcessor

from hf_mmcoa.cli import main
from hf_mmcoa.cli.train import main as train_main
from hf_mmcoa.cli.train_arguments import parse

SMALL = ["--pretrain_epochs", "1", "--max_steps", "2", "--preset", "quick", "--max_test_samples", "20", "--use_cpu"]


def test_without_a_model_the_settings_are_the_embedded_defaults():
    run, args = parse([])
    assert run.model_name_or_path is None and run.dataset == "digits"
    assert (args.epsilon, args.num_steps, args.learning_rate, args.max_steps) == (0.15, 5, 3e-3, 400)


def test_with_a_model_the_settings_are_the_configs():
    run, args = parse(["--model_name_or_path", "some/clip", "--dataset", "cifar10"])
    assert (args.epsilon, args.num_steps, args.max_steps) == (1 / 255, 10, -1) and run.dataset == "cifar10"


def test_the_command_line_overrides_the_file_and_the_file_the_default(tmp_path):
    file = tmp_path / "run.yaml"
    file.write_text("epsilon: 4/255\nnum_steps: 7\nshots: 4\n")
    run, args = parse(["--config", str(file), "--num_steps", "9"])
    assert (args.epsilon, args.num_steps, args.learning_rate, run.shots) == (4 / 255, 9, 3e-3, 4)


def test_an_unknown_line_in_the_file_is_named(tmp_path, capsys):
    file = tmp_path / "run.yaml"
    file.write_text("epsilom: 4/255\n")
    with pytest.raises(SystemExit):
        parse(["--config", str(file)])
    assert "unknown options epsilom" in capsys.readouterr().err


def test_a_missing_file_is_named():
    with pytest.raises(SystemExit, match=r"nowhere\.yaml: there is no such file"):
        parse(["--config", "nowhere.yaml"])


def test_the_whole_program(tmp_path, capsys):
    assert main(["train", "--output_dir", str(tmp_path), *SMALL]) == 0
    shown = capsys.readouterr()
    results = json.loads((tmp_path / "robustness.json").read_text())
    assert set(results) == {"before", "after"}
    for result in results.values():
        assert result["num_samples"] == 20 and result["attack_spec"]["epsilon"] == 0.15
        assert result["attack_spec"]["rho"] == 1.0  # whatever radius training finds best by itself
        assert {"text_accuracy", "text_unseen_accuracy", "multimodal_unseen_accuracy"} <= set(result)
    assert results["before"]["attack_spec"] == results["after"]["attack_spec"]
    assert "before" in shown.out and "multimodal" in shown.out
    assert (tmp_path / "attacks.png").read_bytes().startswith(b"\x89PNG")
    CLIPProcessor.from_pretrained(tmp_path)
    CLIPModel.from_pretrained(tmp_path)


def test_a_mistake_is_one_line(tmp_path, capsys):
    assert (
        train_main(
            [
                "--model_name_or_path",
                str(tmp_path / "none"),
                "--dataset",
                "cifar1O",
                "--output_dir",
                str(tmp_path),
                *SMALL,
            ]
        )
        == 1
    )
    error = capsys.readouterr().err
    assert "hf-mmcoa train:" in error and "cifar10" in error and "Traceback" not in error


def test_a_value_out_of_range_is_one_line(tmp_path, capsys):
    assert train_main(["--epsilon", "8", "--output_dir", str(tmp_path)]) == 1
    error = capsys.readouterr().err
    assert "Did you mean 8/255" in error and "Traceback" not in error


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--dataset", "cifar10"], "needs `--model_name_or_path`"),
        (["--resume_from_checkpoint", "nowhere"], "'nowhere' holds no trainer_state.json"),
    ],
)
def test_what_cannot_work_is_said_before_any_work(tmp_path, capsys, options, message):
    assert train_main([*options, "--output_dir", str(tmp_path), *SMALL]) == 1
    shown = capsys.readouterr().err
    assert message in shown and "[1/" not in shown


def test_the_saved_folder_needs_nothing_of_ours(tmp_path):
    assert main(["train", "--output_dir", str(tmp_path), *SMALL]) == 0
    code = (
        "import sys; from PIL import Image; from transformers import CLIPModel, CLIPProcessor, pipeline\n"
        f"folder = {str(tmp_path)!r}\n"
        "CLIPModel.from_pretrained(folder), CLIPProcessor.from_pretrained(folder)\n"
        "ask = pipeline('zero-shot-image-classification', model=folder)\n"
        "answer = ask(Image.new('RGB', (8, 8)), candidate_labels=['zero', 'one'])\n"
        "assert {each['label'] for each in answer} == {'zero', 'one'}\n"
        "assert not any(name.startswith('hf_mmcoa') for name in sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(tmp_path).parent)
