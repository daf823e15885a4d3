"""docs/howto/own-images.md: its commands, read from the page, take a folder of pictures to a model and its card."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from pictures import write_pictures
from transformers import pipeline

from hf_mmcoa import ZeroShotClassifier, load_benchmark
from hf_mmcoa.cli import main
from hf_mmcoa.data.fitting import fitting_for
from hf_mmcoa.data.images import to_tensor
from hf_mmcoa.models.encoder import load_clip

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/howto/own-images.md").read_text(encoding="utf-8")
# What makes a command of the page short; everything else is as on the page.
SHORT = ["--max_steps", "2", "--pretrain_epochs", "1", "--max_test_samples", "10", "--use_cpu", "--num_steps", "1"]


def block(name: str) -> str:
    (text,) = re.findall(rf"<!-- own-images: {name} -->\n```\w+\n(.*?)```", PAGE, re.DOTALL)
    return text


def commands(name: str) -> list[list[str]]:
    return [shlex.split(line)[1:] for line in block(name).splitlines()]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    return tmp_path


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_the_training_of_the_page_in_short(folder, capsys):
    write_pictures(folder, train=1, test=1, shapes=1)
    (command,) = commands("train")
    assert main([*command, *SHORT]) == 0
    results = json.loads((folder / "robust-shapes/robustness.json").read_text())
    assert set(results) == {"before", "after"} and results["after"]["num_samples"] == 10
    assert "SynonymTable(9 words" in str(results["after"]["attack_spec"]["candidates"])
    arguments = (folder / "robust-shapes/training_args.yaml").read_text()
    assert "candidates: synonyms.json" in arguments and "tiny: true" in arguments
    capsys.readouterr()
    assert same_answers("robust-shapes", "shapes") == 10


@pytest.mark.filterwarnings("ignore")
def test_captions_are_measured_by_retrieval(folder, capsys):
    write_pictures(folder, train=1, test=1, shapes=1)
    (command,) = commands("captions")
    assert main([*command, *SHORT]) == 0
    results = json.loads((folder / "robust-captioned/robustness.json").read_text())
    assert {result["task"] for result in results.values()} == {"retrieval"}
    assert "image to text" in capsys.readouterr().out
    assert "image to text" in (folder / "robust-captioned/README.md").read_text().lower()


@pytest.mark.parametrize("command", ["compare", "protocol"])
def test_the_yaml_of_the_page_plans_both_grids(folder, capsys, command):
    write_pictures(folder, train=1, test=1, shapes=1)
    (folder / "own.yaml").write_text(block("yaml"))
    (given,) = (words for words in commands("compare") if words[0] == command)
    assert main([*given, "--dry_run"]) == 0, capsys.readouterr().err
    assert "mmcoa" in capsys.readouterr().out


def same_answers(model: str, dataset: str) -> int:
    """For how many test pictures transformers' pipeline and our classifier have the same first answer."""
    test = load_benchmark(dataset, split="test")
    names = test.features["label"].names
    ask = pipeline("zero-shot-image-classification", model=model, device="cpu")
    answers = ask(test["image"][:], candidate_labels=names, hypothesis_template="This is a photo of a {}")
    clip, processor = load_clip(model)
    classifier = ZeroShotClassifier(clip, processor, names)
    fit = fitting_for(test, clip.config.vision_config.image_size, processor.image_processor)
    with torch.no_grad():
        ours = classifier(torch.stack([to_tensor(fit(image.convert("RGB"))) for image in test["image"]])).argmax(-1)
    return sum(answer[0]["label"] == names[own] for answer, own in zip(answers, ours.tolist(), strict=True))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_a_hundred_classes_from_folder_to_card(folder, capsys):
    write_pictures(folder, train=8, test=2)
    (train,), measurements = commands("train"), commands("measure")
    shorter = ["--pretrain_epochs", "45", "--max_steps", "100"]  # than the page's 60 and 400
    for command in [[*train, *shorter], *measurements]:
        assert main(command) == 0, command
    results = json.loads((folder / "robust-shapes/robustness.json").read_text())
    before, after = results["before"], results["after"]
    assert after["num_samples"] == 200 and before["clean_accuracy"] > 0.7
    assert after["image_accuracy"] > before["image_accuracy"] + 0.1
    assert after["text_accuracy"] > before["text_accuracy"] + 0.1
    assert (folder / "report-shapes/index.html").is_file()
    assert f"{100 * after['clean_accuracy']:.1f}" in (folder / "robust-shapes/README.md").read_text()
    assert same_answers("robust-shapes", "shapes") == 200
    clean = json.loads((folder / "robust-shapes/results/after.json").read_text())["clean_accuracy"]
    assert clean == after["clean_accuracy"]


@pytest.mark.slow
def test_two_processes(folder):
    write_pictures(folder, train=1, test=1)
    line = block("two").replace("$(which hf-mmcoa)", str(folder / "hf-mmcoa.py"))
    (folder / "hf-mmcoa.py").write_text("import sys\nfrom hf_mmcoa.cli import main\nsys.exit(main())\n")
    words = [sys.executable, "-m", "accelerate.commands.accelerate_cli", *shlex.split(line)[1:], *SHORT]
    done = subprocess.run(words, capture_output=True, text=True, cwd=folder)
    assert done.returncode == 0, done.stderr[-3000:]
    results = json.loads((folder / "robust-two/robustness.json").read_text())
    assert results["after"]["num_samples"] == 10 and same_answers("robust-two", "shapes") == 100


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_the_grids_of_the_page_in_short(folder, capsys):
    write_pictures(folder, train=1, test=1, shapes=1)
    short = block("yaml").replace("epochs: 60", "epochs: 1").replace("max_steps: 300", "max_steps: 2")
    (folder / "own.yaml").write_text(short)
    for command in commands("compare"):
        assert main(command) == 0, capsys.readouterr().err
    assert "tecoa" in (folder / "output/compare-own/comparison.md").read_text()
    assert "tecoa" in (folder / "output/protocol-own/table.md").read_text()
