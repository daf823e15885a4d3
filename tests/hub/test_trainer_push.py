"""Pushes of `MMCoATrainer`: our card, no pickle, and no push error that stops the training."""

from __future__ import annotations

import logging

import pytest
import torch
import yaml
from hub_server import metadata_errors
from result_dicts import make_result
from safetensors.torch import load
from test_trainer import SUBSTITUTES, picture_rows

from hf_mmcoa.attacks.bert_attack import BertAttack
from hf_mmcoa.config import MMCoAConfig
from hf_mmcoa.io import write_json
from hf_mmcoa.training.trainer import MMCoATrainer

SENT = {
    ".gitattributes",
    "README.md",
    "config.json",
    "model.safetensors",
    "processor_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "training_args.yaml",
}


@pytest.fixture
def make(tiny_clip, tiny_processor, tmp_path):
    """A trainer of two steps; keyword arguments go to the config."""

    def build(model=None, **config):
        settings = {
            "output_dir": str(tmp_path / "robust"),
            "max_steps": 2,
            "per_device_train_batch_size": 6,
            "learning_rate": 1e-3,
            "num_steps": 1,
            "save_strategy": "no",
            "report_to": "none",
            "disable_tqdm": True,
            "use_cpu": True,
        }
        return MMCoATrainer(
            model or tiny_clip,
            MMCoAConfig(**{**settings, **config}),
            picture_rows(),
            processing_class=tiny_processor,
            text_attack=BertAttack(candidates=SUBSTITUTES),
        )

    return build


def test_push_to_hub_by_hand(online, make, tmp_path):
    trainer = make()
    trainer.train()
    (tmp_path / "robust").mkdir(exist_ok=True)
    (tmp_path / "robust" / "scheduler.pt").write_bytes(b"\x80\x04")
    write_json(make_result(model="stale"), tmp_path / "robust" / "robustness.json")  # of an earlier training
    for name in ("robustness.gallery.json", "attacks.png"):
        (tmp_path / "robust" / name).write_text("{}")
    trainer.push_to_hub(commit_message="Ready", license="mit", tags="mine", finetuned_from="org/base")
    there = online.files("user/robust")
    assert set(there) == SENT and online.repositories["models", "user/robust"].messages[-1] == "Ready"
    weights = load(there["model.safetensors"])
    assert torch.equal(weights["logit_scale"], trainer.model.logit_scale.data)
    card = there["README.md"].decode()
    assert (
        metadata_errors(card) == [] and "base_model: org/base" in card and "- mine" in card and "license: mit" in card
    )
    assert "No robustness was measured" in card and "max_steps: 2" in card


def test_push_to_hub_while_training(online, make, tmp_path):
    trainer = make(
        push_to_hub=True, hub_model_id="user/trained", hub_private_repo=True, save_strategy="steps", save_steps=1
    )
    trainer.train()
    repository = online.repositories["models", "user/trained"]
    assert repository.private and "Training in progress, step 1" in repository.messages[1]
    for files in list(repository.commits.values())[1:]:
        assert set(files) == SENT
    assert (tmp_path / "robust" / "checkpoint-2" / "optimizer.pt").is_file()  # to resume from, here
    with torch.no_grad():
        trainer.model.logit_scale += 1
    trainer.save_model()
    assert repository.messages[-1] == "Model save" and set(online.files("user/trained")) == SENT
    settings = yaml.safe_load(online.files("user/trained")["training_args.yaml"])
    assert settings["max_steps"] == 2 and not any("hub" in name for name in settings)


def test_a_push_that_breaks_off_does_not_stop_the_training(online, make, caplog):
    trainer = make(push_to_hub=True, hub_model_id="user/trained", save_strategy="steps", save_steps=1)
    online.cuts = 1000
    with caplog.at_level(logging.WARNING, "hf_mmcoa.training.trainer"):
        trainer.train()
    assert trainer.state.global_step == 2 and set(online.files("user/trained")) == {".gitattributes"}
    assert "a push during training broke off" in caplog.text
    with pytest.raises(ConnectionError, match="the same command repeats the push"):
        trainer.push_to_hub()
    online.cuts = 0
    trainer.push_to_hub()
    assert set(online.files("user/trained")) == SENT


@pytest.mark.parametrize("strategy", ["checkpoint", "all_checkpoints"])
def test_checkpoints_are_not_pushed(online, make, strategy):
    with pytest.raises(ValueError, match=r"`hub_strategy=.*would push optimizer\.pt"):
        make(push_to_hub=True, hub_strategy=strategy)
    assert not online.repositories


def test_the_strategy_end_pushes_nothing_before_the_end(online, make):
    make(push_to_hub=True, hub_strategy="end", save_strategy="steps", save_steps=1).train()
    assert online.repositories["models", "user/robust"].messages == ["init"]


def test_what_a_repository_holds_is_seen_before_training(online, make):
    online.create("models", "user/robust", False, {"app.py": b"print()"})
    with pytest.raises(ValueError, match="user/robust holds something else"):
        make(push_to_hub=True)


def test_no_token_is_seen_before_training(online, make, monkeypatch):
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(PermissionError, match="hf auth login"):
        make(push_to_hub=True)


def test_a_card_is_written_without_any_hub(make, tmp_path):
    trainer = make()
    trainer.run_settings = {"dataset": "squares"}
    trainer.save_model()
    trainer.create_model_card()
    card = (tmp_path / "robust" / "README.md").read_text()
    assert card.startswith("---\n") and "Data: squares" in card
    (tmp_path / "robust" / "README.md").write_text("# By hand\n")
    trainer.create_model_card()
    assert (tmp_path / "robust" / "README.md").read_text() == "# By hand\n"
