"""The kind of model that a folder is recognised as, and the files of it that are published."""

from __future__ import annotations

import json

import pytest
from safetensors.torch import load_file, save_file

from hf_mmcoa.hub.model_folder import hub_id, read_checkpoint


def test_files_are_those_on_the_list(checkpoint):
    for name in ("merges.txt", "LICENSE", "notes.txt", "holiday.png", "non_finite_step_3_process_0.json"):
        (checkpoint / name).write_text("{}")
    names = {file.name for file in read_checkpoint(checkpoint).files()}
    assert names == {
        "LICENSE",
        "config.json",
        "merges.txt",
        "model.safetensors",
        "processor_config.json",
        "tokenizer.json",
        "tokenizer_config.json",
        "training_args.yaml",
    }


def test_a_pickle_under_another_name_is_found_out(checkpoint):
    (checkpoint / "extra.safetensors").write_bytes(b"\x80\x04\x95\x00pickle")
    with pytest.raises(ValueError, match=r"extra\.safetensors is no safetensors file"):
        read_checkpoint(checkpoint).files()


def test_weights_that_are_missing_are_not_drawn_at_random(checkpoint):
    weights = load_file(checkpoint / "model.safetensors")
    del weights["logit_scale"]
    save_file(weights, checkpoint / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match="lacks 1 weights of its CLIPModel, such as logit_scale"):
        read_checkpoint(checkpoint).model()


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"model_type": "clip", "auto_map": {"AutoModel": "run.MyModel"}}, "needs code of its own"),
        ({"model_type": "bert"}, "describes a 'bert' model; one of clip, metaclip_2, siglip is needed"),
        ([], "holds a list"),
    ],
)
def test_a_configuration_that_is_no_plain_model_s(checkpoint, config, message):
    (checkpoint / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=message):
        read_checkpoint(checkpoint)


def test_folders_that_hold_nothing(tmp_path, checkpoint):
    with pytest.raises(FileNotFoundError, match="there is no folder"):
        read_checkpoint(tmp_path / "nowhere")
    with pytest.raises(ValueError, match=r"neither config\.json nor adapter_config\.json"):
        read_checkpoint(tmp_path)
    for name in ("model.safetensors", "training_args.bin", "optimizer.pt", "notes.pkl"):
        (checkpoint / name).unlink()
    with pytest.raises(ValueError, match="holds no weights"):
        read_checkpoint(checkpoint)


def test_an_adapter_s_results_may_be_of_the_adapted_or_the_merged_model(adapter):
    checkpoint = read_checkpoint(adapter)
    assert checkpoint.is_adapter and len(checkpoint.fingerprints()) == 2
    assert checkpoint.fingerprints() == checkpoint.fingerprints(checkpoint.model())


def test_what_can_be_a_repository(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "out" / "clip").mkdir(parents=True)
    assert hub_id("openai/clip-vit-base-patch32") == "openai/clip-vit-base-patch32"
    assert [hub_id(name) for name in ("out/clip", "/srv/models/clip", "tiny CLIP", "a/b c", "", None)] == [None] * 6
