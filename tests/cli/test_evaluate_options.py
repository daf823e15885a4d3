from __future__ import annotations

import datasets
import numpy as np
import pytest
from PIL import Image

from hf_mmcoa.cli import main
from hf_mmcoa.evaluation import load_result
from hf_mmcoa.report.gallery import gallery_path, load_gallery


@pytest.fixture
def command(tiny_clip, tiny_processor, tmp_path):
    """Arguments of a short evaluation of an untrained CLIP on noise."""
    tiny_clip.save_pretrained(tmp_path / "model")
    tiny_processor.save_pretrained(tmp_path / "model")
    pixels = np.random.default_rng(0).integers(0, 256, (6, 32, 32, 3), dtype=np.uint8)
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["cat", "dog", "car"])})
    rows = {"image": [Image.fromarray(one) for one in pixels], "label": [0, 1, 2] * 2}
    datasets.Dataset.from_dict(rows, features=features).save_to_disk(tmp_path / "data")
    arguments = ["--model", tmp_path / "model", "--dataset", tmp_path / "data", "--preset", "quick", "--cpu", "--quiet"]
    return list(map(str, [*arguments, "--num_steps", 2, "--no_sanity"]))


@pytest.mark.filterwarnings("ignore:sanity")
def test_a_gallery_lies_beside_the_result(command, tmp_path):
    output = tmp_path / "result.json"
    assert main(["evaluate", *command, "--output", str(output), "--gallery", "2"]) == 0
    gallery = load_gallery(gallery_path(output))
    assert len(gallery.samples) == 2 and gallery.models == ["model"]
    assert gallery.attack_spec["num_steps"] == 2 == load_result(output)["attack_spec"]["num_steps"]


def test_without_the_option_there_is_no_gallery(command, tmp_path):
    output = tmp_path / "result.json"
    assert main(["evaluate", *command, "--output", str(output), "--attacks", "clean"]) == 0
    assert not gallery_path(output).exists()


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        (["--gallery", "2"], "`--output`"),
        (["--gallery", "0", "--output", "x.json"], "at least 1 sample"),
        (["--gallery", "2", "--output", "x.json", "--task", "retrieval"], "class prompts"),
        (["--task", "retrieval"], "`text_column`"),
    ],
)
def test_what_does_not_fit_is_refused_before_anything_runs(command, changes, text, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["evaluate", *command, *changes]) == 1
    assert text in capsys.readouterr().err.splitlines()[-1] and not (tmp_path / "x.json").exists()
