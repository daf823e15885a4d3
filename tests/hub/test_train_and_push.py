"""`hf-mmcoa train --push_to_hub`: one command from nothing to a repository whose card holds the numbers."""

from __future__ import annotations

import json

import pytest
from hub_server import metadata_errors

from hf_mmcoa.cli import main
from hf_mmcoa.report.table import markdown_table

SMALL = ["--pretrain_epochs", "1", "--max_steps", "2", "--preset", "quick", "--max_test_samples", "20", "--use_cpu"]


@pytest.mark.slow
@pytest.mark.parametrize("lora", [[], ["--lora", "both"]], ids=["full", "lora"])
def test_train_and_push(online, tmp_path, lora):
    there = ["--push_to_hub", "--hub_model_id", "user/digits", "--save_strategy", "steps", "--save_steps", "1"]
    assert main(["train", "--output_dir", str(tmp_path / "out"), *SMALL, *there, *lora]) == 0
    files = online.files("user/digits")
    assert {"README.md", "model.safetensors", "robustness.json", "training_args.yaml", "attacks.png"} <= set(files)
    assert not any(name.endswith((".bin", ".pt", ".pth", ".pkl")) or "adapter" in name for name in files)
    card = files["README.md"].decode()
    assert markdown_table(json.loads(files["robustness.json"])) in card and metadata_errors(card) == []
    assert "hf-mmcoa train --config training_args.yaml" in card and "![Attacked images" in card
    assert (tmp_path / "out" / "README.md").read_text() == card
