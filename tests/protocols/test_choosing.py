"""`--choose` on data without a validation split: a tenth of the training rows, which nothing is trained on."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from hf_mmcoa.cli import main
from hf_mmcoa.data import describe, load_benchmark
from hf_mmcoa.evaluation import load_result
from hf_mmcoa.protocols import read_protocol
from hf_mmcoa.protocols.cell import Data
from hf_mmcoa.protocols.choosing import to_choose_by
from hf_mmcoa.protocols.plan import plan_protocol
from hf_mmcoa.protocols.split_sizes import split_size

ROOT = Path(__file__).parents[2]
PER_CLASS = {"train": 20, "test": 4}


@pytest.fixture(scope="module")
def fruit(tmp_path_factory):
    """A comparison on class folders with train and test; each picture's grey value is its number over both."""
    folder = tmp_path_factory.mktemp("fruit")
    number = 0
    for split, count in PER_CLASS.items():
        for name in ("apple", "pear"):
            (folder / "fruit" / split / name).mkdir(parents=True)
            for each in range(count):
                picture = np.full((8, 8), number, dtype=np.uint8)
                Image.fromarray(picture).save(folder / "fruit" / split / name / f"{each:02}.png")
                number += 1
    content = {
        "datasets": [{"name": "fruit", "data_dir": "."}],
        "tiny": {"image_size": 8, "patch_size": 4, "epochs": 1},
        "objectives": ["none", "clean"],
        "training": {"max_steps": 1, "per_device_train_batch_size": 8, "use_cpu": True, "epsilon": "8/255"},
        "threat_model": {"preset": "quick"},
        "measure": ["clean"],
        "unseen_words": "test",
    }
    file = folder / "comparison.yaml"
    file.write_text(yaml.safe_dump(content))
    return file


def greys(dataset):
    return {np.asarray(image.convert("L"))[0, 0].item() for image in dataset["image"]}


def test_without_a_validation_split_training_rows_are_held_out(fruit):
    protocol = read_protocol(fruit)
    test, (chosen,) = greys(protocol.datasets[0].load("test")), to_choose_by(protocol).datasets
    train, measured = chosen.load(chosen.train_split), chosen.load(chosen.test_split)
    assert (len(train), len(measured)) == (36, 4)
    assert greys(train) | greys(measured) == set(range(40)) and not greys(measured) & (greys(train) | test)
    assert greys(chosen.load(chosen.test_split)) == greys(measured)  # the same draw at every call
    assert describe(measured).split == "train[held-out]" and describe(measured).class_names == ("apple", "pear")
    assert split_size(chosen, chosen.test_split).rows == 4


def test_a_validation_split_that_is_there_is_taken(fruit, tmp_path):
    assert to_choose_by(read_protocol(ROOT / "examples/comparisons/digits.yaml")).datasets[0].test_split == "validation"
    for name in ("apple", "pear"):
        for split in ("train", "validation", "test"):
            (tmp_path / "fruit" / split / name).mkdir(parents=True)
            Image.new("L", (8, 8)).save(tmp_path / "fruit" / split / name / "0.png")
    own = tmp_path / "comparison.yaml"
    own.write_text(fruit.read_text())
    chosen = to_choose_by(read_protocol(own)).datasets[0]
    assert (chosen.train_split, chosen.test_split) == ("train", "validation")


def test_a_plan_says_what_the_parts_of_a_benchmark_hold_and_reads_each_once(tmp_path, monkeypatch):
    read = []
    monkeypatch.setattr(Data, "load", lambda data, split: read.append(split) or load_benchmark("digits", split="train"))
    chosen = to_choose_by(read_protocol(ROOT / "examples/comparisons/fashion-mnist-captions.yaml"))
    data = chosen.datasets[0]
    assert (data.train_split, data.test_split) == ("train[kept]", "train[held-out]")
    assert "fashion-mnist/train[kept]" in plan_protocol(chosen, tmp_path)
    assert sorted(read) == ["train[held-out]", "train[kept]"]  # however many cells: 60,000 pictures each time


@pytest.mark.slow
def test_without_attacked_texts_short_lists_of_words_do_not_matter(fruit):
    (fruit.parent / "table.json").write_text('{"apple": ["pome"]}')  # no half of it can be halved
    content = yaml.safe_load(fruit.read_text()) | {"candidates": "table.json", "objectives": ["none"]}
    for measure, status in ((["clean", "image"], 0), (["clean", "text"], 1)):
        file = fruit.parent / f"{measure[1]}.yaml"
        file.write_text(yaml.safe_dump({**content, "unseen_words": "all", "measure": measure}))
        assert main(["compare", str(file), "--output", str(fruit.parent / measure[1]), "--choose"]) == status


@pytest.mark.slow
def test_the_option_measures_held_out_rows(fruit, capsys):
    output = fruit.parent / "out"
    assert main(["compare", str(fruit), "--output", str(output), "--choose"]) == 0
    result = load_result(output / "choice/cells/fruit_full_clean_seed0/result.json")
    assert (result["dataset"], result["num_samples"]) == ("fruit/train[held-out]", 4)
    assert result["training"]["num_rows"] == 36
    pretrained = json.loads(next((output / "choice/models").glob("pretrained*/training.json")).read_text())
    assert pretrained["num_rows"] == 36
    assert "choice/comparison.md" in capsys.readouterr().out
