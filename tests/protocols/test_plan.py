"""The dry run: whether there are enough images for the shots, and how much work and time a grid will be."""

from __future__ import annotations

import json

import numpy as np
import pytest
import yaml
from PIL import Image

from hf_mmcoa.cli import main
from hf_mmcoa.config import MMCoAConfig
from hf_mmcoa.protocols import plan_protocol, read_protocol, run_protocol
from hf_mmcoa.protocols.cell import Data
from hf_mmcoa.protocols.plan import Speed
from hf_mmcoa.protocols.split_sizes import Size, shots_lines, split_size
from hf_mmcoa.protocols.step_rates import RATE_FILE, rate_of, read_rates
from hf_mmcoa.protocols.work import training_work

SMALL = {
    "datasets": ["digits"],
    "shots": [2],
    "objectives": ["mmcoa"],
    "tiny": {"image_size": 8, "patch_size": 2, "epochs": 1, "max_samples": 64},
    "training": {"epsilon": 0.15, "num_steps": 3, "per_device_train_batch_size": 16, "use_cpu": True},
    "threat_model": {"preset": "quick", "num_steps": 2},
    "candidates": "digits",
    "max_test_samples": 8,
    "batch_size": 8,
}


@pytest.fixture
def protocol(tmp_path):
    def protocol(**changes):
        file = tmp_path / "protocol.yaml"
        file.write_text(yaml.safe_dump(SMALL | changes))
        return read_protocol(file)

    return protocol


@pytest.fixture(autouse=True)
def speed(monkeypatch):
    """A machine whose speed is known and takes no time to measure."""
    known = Speed(image_gradient=0.001, text=0.0001, parameters=1000, what="a model")
    monkeypatch.setattr("hf_mmcoa.protocols.plan.measured_step", lambda protocol: known)


# Shots


@pytest.mark.few(4)
@pytest.mark.parametrize(
    ("data", "shots", "said"),
    [
        ("flowers102", 16, "TOO FEW for 16 shots: 1,020 images of 102 classes, and some class has at most 10"),
        ("flowers102", 8, "enough for 8 shots: every class has 10 images or more"),
        (
            {"name": "flowers102", "train_split": "train+validation"},
            16,
            "enough for 16 shots: every class has 20 images or more",
        ),
        ({"name": "caltech101", "dataset": "mteb/Caltech101"}, 32, "TOO FEW for 32 shots: 3,060 images"),
        ("cars", 64, "TOO FEW for 64 shots: 8,144 images of 196 classes, and some class has at most 41"),
        ("cars", 16, "not known for 16 shots: 41 images a class on average"),
        ("fgvc-aircraft", 16, "not known for 16 shots: the number of images or classes is not"),
        ("country211", 151, "TOO FEW for 151 shots: 31,650 images of 211 classes, and some class has at most 150"),
        ("digits", 200, "TOO FEW for 200 shots: 1,200 images of 10 classes"),
        ("digits", 16, "enough for 16 shots: every class has "),
        ({"name": "mine", "dataset": "someone/mine"}, 4, "not known for 4 shots: the number of images or classes"),
    ],
)
def test_shots_are_checked_against_known_counts(protocol, tmp_path, capsys, data, shots, said):
    given = protocol(datasets=[data], shots=[1, shots])
    (line,) = shots_lines(given, given.cells())
    assert said in line
    assert main(["protocol", str(tmp_path / "protocol.yaml"), "--output", str(tmp_path / "out"), "--dry-run"]) == 0
    assert said in capsys.readouterr().out


def test_rows_held_out_for_model_selection_are_not_counted(protocol):
    training = SMALL["training"] | {"eval_strategy": "epoch"}
    given = protocol(datasets=["flowers102"], shots=[10], training=training)
    assert (
        "TOO FEW for 10 shots: 918 images of 102 classes after 10% are held out" in shots_lines(given, given.cells())[0]
    )


def test_local_classes_are_counted(tmp_path):
    for name, number in (("cat", 3), ("dog", 1)):
        for picture in range(number):
            file = tmp_path / "pets" / "train" / name / f"{picture}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.full((4, 4, 3), picture, dtype=np.uint8)).save(file)
    data = Data(name="pets", dataset=str(tmp_path / "pets"), data_dir=str(tmp_path / "pets"))
    assert split_size(data, "train") == Size(rows=4, classes=2, smallest=1, exact=True)


# Work


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"num_train_epochs": 3}, (6, 60, 180)),  # 20 rows in batches of 16: two steps an epoch
        ({"num_train_epochs": 3, "dataloader_drop_last": True}, (3, 48, 144)),
        ({"num_train_epochs": 3, "gradient_accumulation_steps": 2}, (3, 60, 180)),
        ({"max_steps": 5}, (5, 56, 168)),
        ({"max_steps": 4, "objective": "clean"}, (4, 40, 0)),
        ({"max_steps": 4, "objective": "leaf"}, (4, 40, 0)),
        ({"max_steps": 4, "objective": "tga-zsr", "restarts": 2}, (4, 40, 240)),
        ({"max_steps": 4, "attack_schedule": "fast"}, (4, 40, 120)),
        ({"max_steps": 4, "lambda_image": 0.0}, (4, 40, 0)),
    ],
)
def test_work_follows_from_the_settings(settings, expected):
    base = {"output_dir": "unused", "use_cpu": True, "per_device_train_batch_size": 16, "num_steps": 3}
    work = training_work(MMCoAConfig(**(MMCoAConfig.without_unread(base, settings) | settings)), 20)
    assert (work.steps, work.images, work.attack_gradients) == expected


def test_the_dry_run_tells_the_work_of_each_data_set_and_of_all(protocol, tmp_path):
    given = protocol(objectives=["none", "clean", "mmcoa"], training=SMALL["training"] | {"num_train_epochs": 3})
    said = plan_protocol(given, tmp_path / "out", 2)
    assert "digits/train, 2-shot: 2 trainings of 6 steps on 20 images; 120 images seen, 180 attack gradients" in said
    assert "together: 12 steps, 120 images seen, 180 attack gradients" in said
    assert "with 2 jobs" in said and "timed by steps of this folder" not in said


@pytest.mark.slow
def test_steps_are_what_the_trainer_takes_and_their_measured_rate_times_the_next(protocol, tmp_path):
    training = SMALL["training"] | {"num_train_epochs": 2}
    given, output = protocol(training=training), tmp_path / "out"
    assert not run_protocol(given, output, report=lambda line: None)
    (trained,) = output.glob("models/digits_*/training.json")
    assert json.loads(trained.read_text())["steps"] == training_work(given.arguments("u", "mmcoa", 0), 20).steps == 4

    file = trained.with_name(RATE_FILE)
    rate = json.loads(file.read_text())
    assert rate["steps"] == 4 and rate["seconds"] > 0 and rate["device"] == "cpu"
    assert "seconds" not in trained.read_text()  # results are the same on a slower machine
    file.write_text(json.dumps(rate | {"seconds": 40.0}))
    more = protocol(training=training, seeds=[0, 1, 2], objectives=["mmcoa", "clean"])
    said = plan_protocol(more, output)
    assert "2 of 5 trainings timed by steps of this folder: 10 s a step on cpu" in said
    assert "training, 0 s evaluation" in said and "80 s training" in said  # two trainings of four steps
    for changed in ({"num_steps": 9}, {"per_device_train_batch_size": 8}):
        (cell,) = protocol(training=training | changed).cells()
        assert rate_of(cell, read_rates(output)) is None
    file.write_text("{")
    assert read_rates(output) == []


def test_the_dry_run_takes_a_robust_clip_for_its_base(protocol, tmp_path):
    given = protocol(model="robust:fare4-vit-b-32-laion2b", tiny=None, training={"max_steps": 1})
    said = plan_protocol(given, tmp_path / "out", 1)
    assert "chs20/FARE4-ViT-B-32-laion2B-s34B-b79K" in said and "laion/CLIP-ViT-B-32-laion2B-s34B-b79K" in said
