"""`robust:NAME` from a Hub on loopback, with the ids of the real rows and small weights."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import pytest
import torch
from published_forms import publish

from hf_mmcoa.cli import main
from hf_mmcoa.convert.load import load_model
from hf_mmcoa.convert.robust_clips import find_robust_clip


def content(path: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in path.iterdir()}


@pytest.fixture
def robust(tiny_clip):
    """A model that was trained from `tiny_clip`, whose image encoder moved."""
    generator = torch.Generator().manual_seed(0)
    model = copy.deepcopy(tiny_clip)
    with torch.no_grad():
        for weight in model.vision_model.parameters():
            weight.add_(torch.randn(weight.shape, generator=generator) / 200)
    return model


@pytest.fixture
def base(online, tiny_clip, tiny_processor, tmp_path):
    """Put the base of a row on the Hub."""

    def upload(row) -> None:
        tiny_clip.save_pretrained(tmp_path / "base")
        tiny_processor.save_pretrained(tmp_path / "base")
        online.create("models", row.base, False, content(tmp_path / "base"))

    return upload


def same_weights(one, other) -> bool:
    found = other.state_dict()
    return all(torch.equal(weight, found[name]) for name, weight in one.state_dict().items())


@pytest.mark.slow
def test_evaluate_measures_a_robust_clip_by_name(online, robust, base, tmp_path, capsys):
    row = find_robust_clip("simclip4-vit-l-14")
    base(row)
    file = publish(robust, row, tmp_path / "source")
    online.create("models", row.hub_id, False, {"simclip4.pt": file.read_bytes(), "simclip2.pt": b"another model"})
    options = ["--dataset", "digits", "--max_samples", "4", "--attacks", "clean", "--no_sanity", "--cpu", "--quiet"]
    model = ["--model", "robust:simclip4-vit-l-14"]
    assert main(["evaluate", *model, *options, "--output", str(tmp_path / "result.json")]) == 0, capsys.readouterr().err
    assert json.loads((tmp_path / "result.json").read_text())["model"] == "robust:simclip4-vit-l-14"
    assert not any("simclip2" in path for method, path in online.requests if method == "GET")


def test_an_open_clip_folder_takes_only_its_tokenizer_from_the_base(online, robust, base, tmp_path):
    row = find_robust_clip("fare4-vit-l-14")
    base(row)
    online.create("models", row.hub_id, False, content(publish(robust, row, tmp_path / "source")))
    model, _ = load_model(f"robust:{row.name}")
    assert same_weights(robust, model)
    assert not any(row.base in path and path.endswith(".safetensors") for _, path in online.requests)


def test_a_clip_model_folder_takes_its_processor_from_the_base(online, robust, base, tmp_path):
    row = find_robust_clip("leaf-rho50-vit-l-14")
    base(row)
    online.create("models", row.hub_id, False, content(publish(robust, row, tmp_path / "source")))
    model, processor = load_model(f"robust:{row.name}")
    assert same_weights(robust, model) and processor.tokenizer("a cat")["input_ids"]


def test_a_file_whose_name_is_not_known_is_found_if_it_is_one(online, robust, base, tmp_path):
    row = find_robust_clip("qt-aft4-vit-b-16")
    base(row)
    file = publish(robust, row, tmp_path / "source").read_bytes()
    online.create("models", row.hub_id, False, {"vit_b16.pt": file, "vit_l14.pt": b"another model"})
    model, _ = load_model(f"robust:{row.name}")
    assert same_weights(robust, model)


def test_several_files_are_asked_about(online):
    row = find_robust_clip("qt-aft4-vit-b-16")
    online.create("models", row.hub_id, False, {"b16_one.pt": b"1", "b16_two.pt": b"2"})
    with pytest.raises(ValueError, match=r"2 files match: b16_one.pt, b16_two.pt. Download the right one and name it"):
        load_model(f"robust:{row.name}")


def test_a_repository_that_is_gone_is_named(online):
    with pytest.raises(OSError, match=r"robust:fare4-vit-l-14 is chs20/fare4-clip on the Hub, which cannot be read"):
        load_model("robust:fare4-vit-l-14")
