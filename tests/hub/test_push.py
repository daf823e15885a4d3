"""The files that a push sends and keeps back, what it refuses, and the state after it breaks off."""

from __future__ import annotations

import json
import re

import pytest
import torch
from hub_server import metadata_errors
from huggingface_hub import metadata_load
from safetensors.torch import load_file
from transformers import CLIPModel

from hf_mmcoa.cli import main
from hf_mmcoa.hub.push import push
from hf_mmcoa.testbed.tiny_clip import tiny_clip as build_tiny_clip

PUBLISHED = {
    "README.md",
    "config.json",
    "model.safetensors",
    "processor_config.json",
    "robustness.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "training_args.yaml",
}


def test_what_is_published_and_nothing_else(online, checkpoint, capsys):
    (checkpoint / "robustness.gallery.json").write_text("{}")
    (checkpoint / "attacks.png").write_bytes(b"a picture")
    assert main(["push", str(checkpoint), "user/robust-clip"]) == 0
    there = online.files("user/robust-clip")
    assert set(there) == {*PUBLISHED, ".gitattributes", "robustness.gallery.json", "attacks.png"}
    assert all(there[name] == (checkpoint / name).read_bytes() for name in PUBLISHED)
    assert metadata_errors(there["README.md"].decode()) == []
    shown = capsys.readouterr()
    assert "/user/robust-clip/commit/" in shown.out and "left out: optimizer.pt" in shown.err
    assert not online.repositories["models", "user/robust-clip"].private


def test_a_push_is_one_commit_and_the_same_push_again_is_none(online, checkpoint):
    push(checkpoint, "user/robust-clip")
    push(checkpoint, "robust-clip")  # the token's user
    assert online.repositories["models", "user/robust-clip"].messages == ["init", "Push robust-clip"]


def test_a_private_repository_stays_private_or_the_push_is_refused(online, checkpoint):
    push(checkpoint, "user/secret", private=True)
    assert online.repositories["models", "user/secret"].private
    push(checkpoint, "user/secret", private=True)
    push(checkpoint, "user/open")
    with pytest.raises(ValueError, match="user/open exists and is public"):
        push(checkpoint, "user/open", private=True)


def test_a_branch_is_created_and_main_stays(online, checkpoint):
    push(checkpoint, "user/robust-clip")
    (checkpoint / "robustness.json").unlink()
    push(checkpoint, "user/robust-clip", revision="unmeasured")
    push(checkpoint, "user/robust-clip", revision="unmeasured")
    assert "robustness.json" in online.files("user/robust-clip")
    assert "robustness.json" not in online.files("user/robust-clip", revision="unmeasured")


def test_results_from_elsewhere_go_to_results(online, checkpoint, tmp_path):
    after = json.loads((checkpoint / "robustness.json").read_text())["after"]
    (checkpoint / "robustness.json").unlink()
    (tmp_path / "measured.json").write_text(json.dumps(after))
    push(checkpoint, "user/robust-clip", results=[f"mine={tmp_path / 'measured.json'}"])
    there = online.files("user/robust-clip")
    assert json.loads(there["results/measured.json"]) == after and b"| mine |" in there["README.md"]


def test_what_an_earlier_push_left_is_taken_away_and_a_reader_s_file_is_not(online, checkpoint):
    push(checkpoint, "user/robust-clip")
    repository = online.repositories["models", "user/robust-clip"]
    files = repository.commits[repository.branches["main"]]
    for name in ("model-00001-of-00002.safetensors", "results/old.json", "pytorch_model.bin", "discussion.md"):
        files[name] = files["config.json"]
    push(checkpoint, "user/robust-clip")
    assert set(online.files("user/robust-clip")) == {*PUBLISHED, ".gitattributes", "discussion.md"}


@pytest.mark.parametrize("dash", ["--dry_run", "--dry-run"])
def test_a_dry_run_writes_the_card_and_sends_nothing(hub, checkpoint, capsys, dash):
    assert main(["push", str(checkpoint), "user/robust-clip", dash]) == 0
    assert set(capsys.readouterr().out.split("\n\n")[0].split()) == PUBLISHED
    assert (checkpoint / "README.md").is_file() and hub.requests == []


# What is refused


def test_no_token(online, checkpoint, monkeypatch, capsys):
    monkeypatch.delenv("HF_TOKEN")
    assert main(["push", str(checkpoint), "user/robust-clip"]) == 1
    error = capsys.readouterr().err
    assert "hf auth login" in error and "HF_TOKEN" in error and online.requests == []


@pytest.mark.few(1)
@pytest.mark.parametrize("token", ["hf_stranger", "hf_nobody"])
def test_a_token_that_may_not_write_there(online, checkpoint, monkeypatch, token):
    push(checkpoint, "user/robust-clip")
    monkeypatch.setenv("HF_TOKEN", token)
    (checkpoint / "training_args.yaml").write_text("epsilon: 0.2\n")
    with pytest.raises(PermissionError, match="does not let this token write to user/robust-clip"):
        push(checkpoint, "user/robust-clip")


def test_weights_as_a_pickle_only(online, checkpoint):
    (checkpoint / "model.safetensors").rename(checkpoint / "pytorch_model.bin")
    with pytest.raises(ValueError, match=r"are a pickle \(.*pytorch_model\.bin.*save_pretrained"):
        push(checkpoint, "user/robust-clip")
    assert not online.repositories


@pytest.mark.parametrize(
    ("files", "what"),
    [
        ({"config.json": b'{"model_type": "bert"}', "pytorch_model.bin": b"x"}, "bert, and was not pushed by hf-mmcoa"),
        ({"app.py": b"print()"}, "no model, and was not pushed by hf-mmcoa; 1 files, among them app.py"),
    ],
)
def test_a_repository_that_holds_something_else(online, checkpoint, files, what):
    online.create("models", "user/robust-clip", False, {"README.md": b"# Mine\n", **files})
    with pytest.raises(ValueError, match=f"user/robust-clip holds something else: {re.escape(what)}.*--overwrite"):
        push(checkpoint, "user/robust-clip")
    assert online.files("user/robust-clip")["README.md"] == b"# Mine\n"
    push(checkpoint, "user/robust-clip", overwrite=True)
    assert set(online.files("user/robust-clip")) >= PUBLISHED
    assert "pytorch_model.bin" not in online.files("user/robust-clip")


def test_a_repository_with_no_more_than_a_readme_is_empty(online, checkpoint):
    online.create(
        "models", "user/robust-clip", False, {"README.md": b"---\nlicense: mit\n---\n", ".gitattributes": b""}
    )
    push(checkpoint, "user/robust-clip")
    assert set(online.files("user/robust-clip")) >= PUBLISHED


def test_a_repository_with_another_architecture(online, checkpoint, tmp_path):
    push(checkpoint, "user/robust-clip")
    wide, processor = build_tiny_clip(["a photo"], image_size=32, patch_size=8, width=64)
    wide.save_pretrained(tmp_path / "wide")
    processor.save_pretrained(tmp_path / "wide")
    with pytest.raises(ValueError, match="of another architecture"):
        push(tmp_path / "wide", "user/robust-clip")


def test_a_card_that_was_written_by_hand(online, checkpoint):
    (checkpoint / "README.md").write_text("# Written by hand\n")
    with pytest.raises(ValueError, match="was not written by hf_mmcoa"):
        push(checkpoint, "user/robust-clip")
    assert (checkpoint / "README.md").read_text() == "# Written by hand\n"
    push(checkpoint, "user/robust-clip", overwrite=True)
    assert b"hf_mmcoa" in online.files("user/robust-clip")["README.md"]


def test_a_card_that_the_hub_refuses(online, checkpoint):
    with pytest.raises(ValueError, match='"license" must be one of'):
        push(checkpoint, "user/robust-clip", license="mine")
    push(checkpoint, "user/robust-clip", license="mit")


# What breaks off


def test_an_upload_that_is_cut_off_changes_nothing_and_is_repeated(online, checkpoint, capsys):
    online.cuts = 10
    command = ["push", str(checkpoint), "user/robust-clip"]
    assert main(command) == 1
    error = capsys.readouterr().err
    assert "broke off" in error and "the same command repeats the push" in error
    assert set(online.files("user/robust-clip")) == {".gitattributes"}
    CLIPModel.from_pretrained(checkpoint)
    assert metadata_load(checkpoint / "README.md")["model-index"]
    online.cuts = 0
    assert main(command) == 0
    assert set(online.files("user/robust-clip")) >= PUBLISHED


def test_a_short_cut_is_bridged(online, checkpoint):
    online.cuts = 2
    push(checkpoint, "user/robust-clip")
    assert set(online.files("user/robust-clip")) >= PUBLISHED


def test_no_network(online, checkpoint, monkeypatch):
    online.stop()
    with pytest.raises(ConnectionError, match="the push to user/robust-clip broke off"):
        push(checkpoint, "user/robust-clip")
    monkeypatch.setattr(online, "stop", lambda: None)


# Adapters


def test_an_adapter_of_a_local_model_is_refused_with_two_ways_out(online, adapter):
    with pytest.raises(ValueError, match=r"--base_model\), or push adapter and base model as one \(--merge"):
        push(adapter, "user/adapter")


def test_an_adapter_goes_as_one_with_its_base_model_s_id(online, adapter):
    assert main(["push", str(adapter), "user/adapter", "--base_model", "user/base"]) == 0
    there = online.files("user/adapter")
    assert json.loads(there["adapter_config.json"])["base_model_name_or_path"] == "user/base"
    assert json.loads((adapter / "adapter_config.json").read_text())["base_model_name_or_path"] != "user/base"
    assert {"adapter_model.safetensors", "tokenizer.json", "robustness.json"} <= set(there)
    data = metadata_load(adapter / "README.md")
    assert (data["library_name"], data["base_model"], data["base_model_relation"]) == ("peft", "user/base", "adapter")
    assert data["model-index"] and metadata_errors(there["README.md"].decode()) == []


def test_a_merged_adapter_is_a_plain_model(online, adapter, tmp_path):
    assert main(["push", str(adapter), "user/merged", "--merge"]) == 0
    there = online.files("user/merged")
    assert not any(name.startswith("adapter") for name in there) and "robustness.json" in there
    assert b"merged into its base model" in there["README.md"] and b"from peft" not in there["README.md"]
    base, merged = (load_file(tmp_path / name / "model.safetensors") for name in ("base", "adapter/merged"))
    moved = [name for name in base if not torch.equal(base[name], merged[name])]
    assert there["model.safetensors"] == (adapter / "merged" / "model.safetensors").read_bytes()
    assert moved and all(re.search(r"[qv]_proj", name) for name in moved)


def test_a_whole_model_has_nothing_to_merge(checkpoint, capsys):
    assert main(["push", str(checkpoint), "user/robust-clip", "--merge", "--dry_run"]) == 1
    assert "not an adapter" in capsys.readouterr().err


def test_an_adapter_does_not_replace_a_model_unasked(online, adapter, checkpoint):
    push(checkpoint, "user/robust-clip")
    with pytest.raises(ValueError, match="where this is an adapter"):
        push(adapter, "user/robust-clip", base_model="user/base")
    push(adapter, "user/robust-clip", base_model="user/base", overwrite=True)
    assert "model.safetensors" not in online.files("user/robust-clip")


def test_another_program_s_draft_in_the_repository_is_not_ours(online, adapter):
    """peft and the Trainer leave such a card in every folder and every repository."""
    card = (adapter / "README.md").read_bytes()
    assert b"More Information Needed" in card
    online.create("models", "user/adapter", False, {"README.md": card, "adapter_config.json": b'{"peft_type": "LORA"}'})
    with pytest.raises(ValueError, match="was not pushed by hf-mmcoa"):
        push(adapter, "user/adapter", base_model="user/base")
