"""The shipped CLIP of the pictograms: what it knows, what it is made of, and that its script trains."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from hf_mmcoa.data.pictograms import concept_file, load_pictograms
from hf_mmcoa.testbed import build_pictogram_clip
from hf_mmcoa.testbed import pictogram_clip as module
from hf_mmcoa.testbed.build_pictogram_clip import accuracy, save_image_tower, some_patches, train
from hf_mmcoa.testbed.english_clip import english_clip
from hf_mmcoa.testbed.pictogram_clip import pictogram_clip
from hf_mmcoa.testbed.pictogram_views import Views

FOLDER = Path(module.__file__).with_name("pictograms")


@pytest.fixture(scope="module")
def shipped():
    return pictogram_clip()


def test_it_knows_the_validation_design_and_concepts_that_it_never_saw(shipped):
    assert accuracy(*shipped, "validation", "common") > 0.5  # chance is 0.01
    assert accuracy(*shipped, "validation", "held-out") > 0.06  # chance is 0.02


def test_the_text_tower_is_the_english_one(shipped):
    weights = shipped[0].state_dict()
    english = english_clip(image_size=8, patch_size=2)[0].state_dict()
    texts = [name for name in english if name.startswith("text")]
    assert texts and all(torch.equal(weights[name], english[name]) for name in texts)


def test_it_saves_and_loads_as_a_plain_clip(shipped, tmp_path):
    from transformers import CLIPModel, CLIPProcessor

    for part in shipped:
        part.save_pretrained(tmp_path)
    again = CLIPModel.from_pretrained(tmp_path).eval(), CLIPProcessor.from_pretrained(tmp_path)
    assert accuracy(*again, "validation", "held-out") == accuracy(*shipped, "validation", "held-out")


def test_what_is_shipped_is_one_small_tower_whose_card_names_every_designer_of_its_training():
    assert {file.name for file in FOLDER.iterdir()} == {"README.md", "config.json", "model.safetensors"}
    assert sum(file.stat().st_size for file in FOLDER.iterdir()) < 5_000_000
    assert json.loads((FOLDER / "config.json").read_text())["dtype"] == "float16"
    card = " ".join((FOLDER / "README.md").read_text(encoding="utf-8").split())
    notice = (Path(module.__file__).parents[1] / "data/pictograms/NOTICE").read_text(encoding="utf-8")
    for name, design in concept_file()["designs"].items():
        part = next(each for each in notice.split("\n\n") if each.startswith(f"{name}.png: "))
        title, _, author = part.splitlines()[0].partition(": ")[2].partition(", by ")
        if design["split"] == "train":
            assert title in card and author in card and design["licence"] in card


@pytest.mark.slow
def test_a_run_of_the_script_learns_and_writes_what_is_read_again(tmp_path, monkeypatch):
    torch.manual_seed(0)
    monkeypatch.setattr(build_pictogram_clip, "AVERAGE", 0.5)
    monkeypatch.setattr(build_pictogram_clip, "WARMUP", 5)
    model, processor = english_clip(image_size=48, patch_size=16, width=32, layers=1)
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    data = load_pictograms("train", "common")
    plain = Views(affine=0, flip=0, cutmix=0, colour=0, grey=0, outline=0, ground=0, erase=0)
    loss = train(model, processor, data, steps=40, batch_size=64, learning_rate=5e-3, views=plain)
    assert loss[-1] < loss[0] - 0.3
    moved = {name.split(".")[0] for name, weight in model.state_dict().items() if not torch.equal(weight, before[name])}
    assert moved == {"vision_model", "visual_projection"}
    save_image_tower(model, tmp_path)
    assert (tmp_path / "model.safetensors").stat().st_size < 1_000_000


def test_some_patches_are_kept_beside_the_class_token():
    tokens = torch.arange(2 * 37).view(2, 37, 1).float()
    kept = some_patches(tokens)
    assert kept.shape == (2, 19, 1) and kept[:, 0, 0].tolist() == [0, 37]
    assert all(len(set(row.flatten().tolist())) == 19 for row in kept)
