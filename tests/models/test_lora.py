"""Adapters and last blocks: the weights that train and are saved, and a merged model that equals the adapted one."""

from __future__ import annotations

import copy
import json
from dataclasses import fields

import pytest
import torch
from peft import PeftModel
from test_trainer import batch_of, make, picture_rows, snapshot  # noqa: F401  # `make` is a fixture
from transformers import CLIPModel, CLIPProcessor, HfArgumentParser

from hf_mmcoa.cli import main
from hf_mmcoa.config import MMCoAConfig
from hf_mmcoa.evaluation import ThreatModel, evaluate_robustness
from hf_mmcoa.models import freezing
from hf_mmcoa.models.encoder import DualEncoder
from hf_mmcoa.models.lora import add_lora, load_adapted, merge
from hf_mmcoa.training.trainer import MMCoATrainer

BOTH = {"lora": "both", "lora_rank": 4}


def trainable(model):
    return {name for name, weight in model.named_parameters() if weight.requires_grad}


def shake(model, seed=0):
    """Give every trainable weight a value of its own: B of a new adapter is 0."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.requires_grad:
                weight.add_(0.1 * torch.randn(weight.shape, generator=generator))
    return model


def logits(model, processor, images):
    tokens = processor.tokenizer(["This is a photo of a cat", "a large hound"], padding=True, return_tensors="pt")
    with torch.no_grad():
        return model.eval()(pixel_values=images, input_ids=tokens.input_ids).logits_per_image


# LoRA on a model


@pytest.mark.parametrize(("towers", "parts"), [("image", {"vision_model"}), ("text", {"text_model"}), ("both", None)])
def test_the_adapters_of_the_named_towers_train_and_nothing_else(tiny_clip, towers, parts):
    names = trainable(add_lora(tiny_clip, towers))
    assert {name.split(".")[2] for name in names} == (parts or {"vision_model", "text_model"})
    assert all(".q_proj.lora_" in name or ".v_proj.lora_" in name for name in names)
    assert len(names) == 2 * 2 * 2 * (1 if parts else 2)  # A and B of q and v of two layers, a tower


def test_a_target_is_the_end_of_a_name_inside_its_tower(tiny_clip):
    names = trainable(add_lora(tiny_clip, "image", target_modules=["mlp.fc1", "visual_projection"], rank=2))
    assert {name.partition(".lora_")[0].removeprefix("base_model.model.") for name in names} == {
        "vision_model.encoder.layers.0.mlp.fc1",
        "vision_model.encoder.layers.1.mlp.fc1",
        "visual_projection",
    }


def test_the_patch_embedding_is_adapted_too(tiny_clip, tiny_processor, images):
    plain = logits(tiny_clip, tiny_processor, images)
    adapted = shake(add_lora(tiny_clip, "image", target_modules=["patch_embedding"]))
    found = logits(adapted, tiny_processor, images)
    assert not torch.allclose(found, plain, atol=1e-2)
    assert torch.allclose(logits(merge(adapted), tiny_processor, images), found, atol=1e-5)


IN_FULL = ["patch_embedding", "position_embedding", "layer_norm1"]


def test_small_modules_train_in_full_and_merge_and_travel_with_the_adapter(tiny_clip, tiny_processor, images, tmp_path):
    base = copy.deepcopy(tiny_clip)
    adapted = add_lora(tiny_clip, "image", modules_to_save=IN_FULL)
    in_full = {name for name in trainable(adapted) if ".lora_" not in name}
    assert {name.partition("modules_to_save")[0].rstrip(".").rpartition(".")[2] for name in in_full} == set(IN_FULL)
    assert all(".vision_model." in name for name in in_full)
    expected = logits(shake(adapted), tiny_processor, images)
    assert (expected - logits(base, tiny_processor, images)).abs().max() > 0.1
    adapted.save_pretrained(tmp_path)
    for again in (merge(adapted), load_adapted(base, tmp_path)):
        assert torch.allclose(logits(again, tiny_processor, images), expected, atol=1e-3)
    with pytest.raises(ValueError, match=r"'nowhere' matches nothing in the image tower: .*patch_embedding"):
        add_lora(base, "image", modules_to_save=["nowhere"])
    with pytest.raises(ValueError, match="'text_projection' matches nothing in the image tower"):
        add_lora(base, "image", modules_to_save=["text_projection"])


def test_a_new_adapter_changes_nothing_and_leaves_the_random_state(tiny_clip, tiny_processor, images):
    before, state = logits(tiny_clip, tiny_processor, images), torch.get_rng_state()
    adapted = add_lora(copy.deepcopy(tiny_clip))
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(logits(adapted, tiny_processor, images), before)
    again, other = add_lora(copy.deepcopy(tiny_clip)), add_lora(copy.deepcopy(tiny_clip), seed=1)
    weights = [dict(model.named_parameters()) for model in (adapted, again, other)]
    name = next(name for name in weights[0] if "lora_A" in name)
    assert torch.equal(weights[0][name], weights[1][name]) and not torch.equal(weights[0][name], weights[2][name])


@pytest.mark.parametrize("towers", ["image", "both"])
def test_merged_and_adapted_agree_and_the_adapted_one_is_left_alone(tiny_clip, tiny_processor, images, towers):
    plain = logits(tiny_clip, tiny_processor, images)
    adapted = shake(add_lora(tiny_clip, towers, rank=4, alpha=4, train_logit_scale=True))
    with_adapter = logits(adapted, tiny_processor, images)
    merged = merge(adapted)
    assert type(merged) is CLIPModel and not hasattr(merged, "peft_config") and not merged.training
    assert all(weight.requires_grad for weight in merged.parameters())
    assert torch.allclose(logits(merged, tiny_processor, images), with_adapter, atol=1e-5)
    assert not torch.allclose(plain, with_adapter, atol=1e-2)
    assert torch.equal(logits(adapted, tiny_processor, images), with_adapter)


def test_alpha_over_rank_scales_the_update(tiny_clip):
    deltas = []
    for alpha in (4, 8):
        adapted = shake(add_lora(copy.deepcopy(tiny_clip), rank=4, alpha=alpha))
        layer = "vision_model.encoder.layers.0.self_attn.q_proj"
        deltas.append(merge(adapted).get_submodule(layer).weight - tiny_clip.get_submodule(layer).weight)
        weights = adapted.get_submodule(f"base_model.model.{layer}")
        update = weights.lora_B["default"].weight @ weights.lora_A["default"].weight
        assert torch.allclose(deltas[-1], alpha / 4 * update, atol=1e-6)
    assert torch.allclose(deltas[1], 2 * deltas[0], atol=1e-6)


@pytest.mark.parametrize("temperature", [True, False])
def test_a_folder_holds_the_adapter_and_a_trained_temperature(tiny_clip, tiny_processor, images, tmp_path, temperature):
    base = copy.deepcopy(tiny_clip)
    adapted = shake(add_lora(tiny_clip, rank=2, train_logit_scale=temperature))
    adapted.save_pretrained(tmp_path)
    assert not list(tmp_path.glob("*.bin"))
    by_us, by_peft = load_adapted(base, tmp_path), PeftModel.from_pretrained(copy.deepcopy(base), tmp_path)
    for read in (by_us, by_peft):
        assert torch.equal(logits(read, tiny_processor, images), logits(adapted, tiny_processor, images))
    assert (base.logit_scale.item() != by_us.logit_scale.item()) is temperature
    assert type(base) is CLIPModel and not any("lora" in name for name, _ in base.named_parameters())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"target_modules": ["q_proj", "querry"]},
            "'querry' matches nothing. The image tower has patch_embed.*fc2",
        ),
        ({"target_modules": ["visual_projection"], "towers": "text"}, r"'visual_projection' matches nothing. The text"),
        ({"target_modules": ["visual_projection"]}, r"match nothing in the text tower"),
        ({"target_modules": "q_proj"}, "must be a list"),
        ({"target_modules": []}, "must be a list"),
        ({"towers": "audio"}, "`towers` must be one of image, text, both, got 'audio'"),
        ({"rank": 0}, "`rank` must be at least 1, got 0"),
        ({"rank": 33}, "`rank` must be at most 32, .* got 33"),
        ({"alpha": 0}, "`alpha` must be above 0"),
        ({"dropout": 1.0}, r"`dropout` must be in \[0, 1\)"),
    ],
)
def test_what_cannot_be_adapted_is_refused(tiny_clip, options, message):
    with pytest.raises(ValueError, match=message):
        add_lora(tiny_clip, **options)
    assert not any("lora" in name for name, _ in tiny_clip.named_parameters())


def test_adapted_and_plain_models_are_told_apart(tiny_clip):
    with pytest.raises(TypeError, match="no adapter to merge"):
        merge(tiny_clip)
    with pytest.raises(TypeError, match="`merge` its adapter first"):
        add_lora(add_lora(tiny_clip))


def test_a_folder_without_a_fitting_adapter_is_refused(tiny_clip, tmp_path):
    with pytest.raises(ValueError, match=r"no adapter_config\.json and no adapter_model\.safetensors"):
        load_adapted(tiny_clip, tmp_path)
    from hf_mmcoa.testbed.tiny_clip import tiny_clip as build

    add_lora(build(["a cat"], image_size=32, patch_size=8, width=64)[0]).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"(?s)does not fit the model: .*size mismatch"):
        load_adapted(tiny_clip, tmp_path)


def test_an_adapted_model_is_encoded_and_evaluated_like_any_other(tiny_clip, tiny_processor, images):
    adapted = shake(add_lora(tiny_clip))
    merged = merge(adapted)
    one, two = (DualEncoder(model, tiny_processor) for model in (adapted.eval(), merged))
    assert torch.allclose(one.encode_images(images), two.encode_images(images), atol=1e-5)
    assert torch.allclose(one.encode_texts(["a cat"]), two.encode_texts(["a cat"]), atol=1e-5)
    spec = ThreatModel.preset("quick", num_steps=2, epsilon="8/255")
    before = trainable(adapted)
    results = [
        evaluate_robustness(model, tiny_processor, picture_rows(), threat_model=spec, progress=False, sanity=False)
        for model in (adapted, merged)
    ]
    assert results[0]["outcomes"] == results[1]["outcomes"] and trainable(adapted) == before


# In the trainer


def test_a_lora_run_moves_the_adapters_and_the_temperature_alone(make, tiny_clip):  # noqa: F811
    trainer = make(**BOTH)
    before = snapshot(trainer.model)
    trainer.train()
    moved = {name for name, weight in trainer.model.named_parameters() if not torch.equal(weight, before[name])}
    assert moved == trainable(trainer.model)
    assert "base_model.model.logit_scale" in moved and all("lora_" in name for name in moved if "logit" not in name)
    metrics = trainer.evaluate()
    assert 0 <= metrics["eval_multimodal_accuracy"] <= metrics["eval_clean_accuracy"] <= 1


@pytest.mark.parametrize(
    ("config", "read"),
    [
        ({"lora_rank": 2}, lambda lora: lora.r),
        ({"lora_alpha": 4.0}, lambda lora: lora.lora_alpha),
        ({"lora_dropout": 0.5}, lambda lora: lora.lora_dropout),
    ],
)
def test_every_setting_of_an_adapter_reaches_it(make, tiny_clip, config, read):  # noqa: F811
    lora = make(model=copy.deepcopy(tiny_clip), lora="text", **config).model.peft_config["default"]
    default = make(model=copy.deepcopy(tiny_clip), lora="text").model.peft_config["default"]
    assert read(lora) == next(iter(config.values())) != read(default)


def test_towers_targets_temperature_and_seed_of_the_settings(make, tiny_clip):  # noqa: F811
    def build(**config):
        return make(model=copy.deepcopy(tiny_clip), **config).model

    names = trainable(build(lora="image", lora_target_modules=["fc2"], train_logit_scale=False))
    assert names and all("vision_model" in name and ".fc2." in name for name in names)
    a, b, c = (dict(build(lora="text", seed=seed).named_parameters()) for seed in (0, 0, 1))
    name = next(name for name in a if "lora_A" in name)
    assert torch.equal(a[name], b[name]) and not torch.equal(a[name], c[name])


def test_a_model_made_anew_is_adapted_too(make, tiny_clip, tiny_processor):  # noqa: F811
    trainer = MMCoATrainer(
        None,
        make(model=copy.deepcopy(tiny_clip), **BOTH).args,
        train_dataset=picture_rows(),
        processing_class=tiny_processor,
        text_attack=lambda texts, encode: list(texts),
        model_init=lambda: copy.deepcopy(tiny_clip),
    )
    trainer.train()
    assert trainer.state.global_step == 2 and all(
        "lora_" in name or "logit" in name for name in trainable(trainer.model)
    )


@pytest.mark.few(1)
@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_a_resumed_lora_run_ends_bit_for_bit_where_an_uninterrupted_one_does(make, tiny_clip, tmp_path, dropout):  # noqa: F811
    settings = {"max_steps": 4, "save_strategy": "steps", "save_steps": 2, "lora_dropout": dropout, **BOTH}
    whole = make(model=copy.deepcopy(tiny_clip), output_dir=str(tmp_path / "run"), **settings)
    whole.train()
    checkpoint = tmp_path / "run" / "checkpoint-2"
    assert (checkpoint / "adapter_model.safetensors").is_file() and not (checkpoint / "model.safetensors").exists()
    resumed = make(model=copy.deepcopy(tiny_clip), output_dir=str(tmp_path / "run"), **settings)
    resumed.train(resume_from_checkpoint=str(checkpoint))
    start = dict(tiny_clip.named_parameters())["logit_scale"]
    assert not torch.equal(start, whole.model.logit_scale)
    for (name, a), b in zip(whole.model.named_parameters(), resumed.model.parameters(), strict=True):
        assert torch.equal(a, b), name
    assert trainable(whole.model) == trainable(resumed.model)


def test_the_best_adapter_is_brought_back_with_its_temperature(make, tmp_path):  # noqa: F811
    schedule = {"eval_strategy": "steps", "eval_steps": 1, "save_strategy": "steps", "save_steps": 1}
    trainer = make(max_steps=3, load_best_model_at_end=True, metric_for_best_model="eval_loss", **schedule, **BOTH)
    trainer.train()
    best = load_adapted(merge(add_lora(copy.deepcopy(trainer.model.unload()))), trainer.state.best_model_checkpoint)
    found = {name: weight for name, weight in trainer.model.named_parameters() if "lora_" in name or "logit" in name}
    assert found["base_model.model.logit_scale"].item() == best.logit_scale.item()


def test_a_saved_lora_run_is_an_adapter_that_peft_reads(make, tiny_clip, tiny_processor, images, tmp_path):  # noqa: F811
    base = copy.deepcopy(tiny_clip)
    trainer = make(**BOTH)
    trainer.train()
    trainer.save_model(str(tmp_path / "adapter"))
    names = {file.name for file in (tmp_path / "adapter").iterdir()}
    assert {"adapter_config.json", "adapter_model.safetensors", "training_args.yaml"} <= names
    assert not any(name.endswith((".bin", ".pt", ".pkl")) for name in names)
    read = PeftModel.from_pretrained(base, tmp_path / "adapter")
    assert torch.equal(logits(read, tiny_processor, images), logits(trainer.model, tiny_processor, images))
    CLIPProcessor.from_pretrained(tmp_path / "adapter")


@pytest.mark.parametrize("config", [BOTH, {}], ids=["lora", "full"])
def test_gradient_checkpointing_changes_no_gradient(make, tiny_clip, config):  # noqa: F811
    gradients, recomputed = [], []
    for checkpointing in (False, True):
        trainer = make(model=copy.deepcopy(tiny_clip), **config)
        if checkpointing:
            trainer.model.gradient_checkpointing_enable()
            layer = trainer.model.vision_model.encoder.layers[0].self_attn  # what is recomputed stops before the mlp
            layer.register_forward_hook(lambda *_: recomputed.append(torch.is_grad_enabled()))
        trainer.model.train()
        trainer.compute_loss(trainer.model, batch_of(trainer)).backward()
        gradients.append({n: w.grad.clone() for n, w in trainer.model.named_parameters() if w.requires_grad})
    assert gradients[0].keys() == gradients[1].keys() and any(grad.abs().sum() > 0 for grad in gradients[0].values())
    for name, gradient in gradients[0].items():
        assert torch.allclose(gradient, gradients[1][name], atol=1e-6), name
    assert len(recomputed) == 2 * 3  # two attack steps and the loss, forward and again in backward


def test_a_run_with_gradient_checkpointing_ends_where_one_without_does(make, tiny_clip):  # noqa: F811
    models = []
    renamed = "activation_checkpointing" in {each.name for each in fields(MMCoAConfig)}  # transformers 5.24 on
    name = "activation_checkpointing" if renamed else "gradient_checkpointing"
    for checkpointing in (False, True):
        trainer = make(model=copy.deepcopy(tiny_clip), **{name: checkpointing}, **BOTH)
        trainer.train()
        models.append(dict(trainer.model.named_parameters()))
    assert all(torch.allclose(models[0][name], models[1][name], atol=1e-5) for name in models[0])


# Last blocks


def test_the_last_blocks_norm_and_projection_of_a_trained_tower_train(tiny_clip):
    freezing.train_last_blocks(freezing.set_trainable(tiny_clip, image=True, text=False, logit_scale=True), 1)
    names = {".".join(name.split(".")[:4]) for name in trainable(tiny_clip)}
    assert names == {
        "logit_scale",
        "visual_projection.weight",
        "vision_model.post_layernorm.weight",
        "vision_model.post_layernorm.bias",
        "vision_model.encoder.layers.1",
    }


@pytest.mark.parametrize(("blocks", "layers"), [(0, set()), (1, {"1"}), (2, {"0", "1"})])
def test_so_many_blocks_of_both_towers_move(make, tiny_clip, blocks, layers):  # noqa: F811
    before = snapshot(tiny_clip)
    make(last_blocks=blocks).train()
    moved = {name for name, weight in tiny_clip.named_parameters() if not torch.equal(weight, before[name])}
    for tower, norm in (("vision_model", "post_layernorm"), ("text_model", "final_layer_norm")):
        own = [name.removeprefix(f"{tower}.") for name in moved if name.startswith(tower)]
        assert {name.split(".")[2] for name in own if name.startswith("encoder")} == layers
        assert any(name.startswith(norm) for name in own) and not any("embeddings" in name for name in own)
    assert {"visual_projection.weight", "text_projection.weight"} <= moved


def test_more_blocks_than_there_are_is_an_error_with_their_number(make):  # noqa: F811
    with pytest.raises(ValueError, match="`last_blocks` must be from 0 to 2, the number of layers of the image"):
        make(last_blocks=3)
    with pytest.raises(ValueError, match="layers of the text tower, got 3"):
        make(last_blocks=3, train_image_encoder=False)


# Settings


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"lora": "vision"}, "`lora` must be one of none, image, text, both"),
        ({"lora": "both", "lora_rank": 0}, "`lora_rank` must be at least 1"),
        ({"lora": "both", "lora_alpha": -1.0}, "`lora_alpha` must be above 0"),
        ({"lora": "both", "lora_dropout": 1.5}, r"`lora_dropout` must be in \[0, 1\)"),
        ({"lora": "both", "last_blocks": 1}, "choose one"),
        ({"lora": "both", "train_text_encoder": False}, "text tower and `train_text_encoder` is off"),
        ({"lora": "image", "train_image_encoder": False}, "image tower and `train_image_encoder` is off"),
        ({"lora_rank": 4}, "`lora_rank` has no effect"),
        ({"lora_target_modules": ["fc1"]}, "`lora_target_modules` has no effect"),
        ({"last_blocks": -1}, "`last_blocks` must not be negative"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        MMCoAConfig(output_dir="out", **settings)


def test_the_settings_are_options_and_survive_yaml(tmp_path):
    line = ["--output_dir", "out", "--lora", "text", "--lora_target_modules", "fc1", "fc2", "--lora_alpha", "4"]
    (config,) = HfArgumentParser(MMCoAConfig).parse_args_into_dataclasses(line)
    assert (config.lora, config.lora_target_modules, config.lora_alpha) == ("text", ["fc1", "fc2"], 4.0)
    (tmp_path / "c.yaml").write_text(config.to_yaml())
    (again,) = HfArgumentParser(MMCoAConfig).parse_yaml_file(str(tmp_path / "c.yaml"))
    assert (again.lora, again.lora_target_modules, again.lora_alpha) == ("text", ["fc1", "fc2"], 4.0)


# The program


@pytest.mark.slow
def test_a_lora_run_of_the_program_writes_a_plain_clip_and_its_adapter(tmp_path, tiny_processor):
    small = ["--pretrain_epochs", "1", "--max_steps", "2", "--preset", "quick", "--max_test_samples", "20", "--use_cpu"]
    assert main(["train", "--lora", "both", "--output_dir", str(tmp_path), *small]) == 0
    robust, base = CLIPModel.from_pretrained(tmp_path), CLIPModel.from_pretrained(tmp_path / "pretrained")
    adapted = load_adapted(base, tmp_path / "adapter")
    processor = CLIPProcessor.from_pretrained(tmp_path)
    pixels = torch.rand(2, 3, 8, 8)
    tokens = processor.tokenizer(["This is a photo of a one"], return_tensors="pt").input_ids
    outputs = [model(pixel_values=pixels, input_ids=tokens).logits_per_image for model in (robust, adapted, base)]
    assert torch.allclose(outputs[0], outputs[1], atol=1e-5) and not torch.allclose(outputs[0], outputs[2], atol=1e-4)
    assert not (tmp_path / "adapter_config.json").exists() and not (tmp_path / "adapter" / "model.safetensors").exists()
    assert "lora: both" in (tmp_path / "training_args.yaml").read_text()
    assert json.loads((tmp_path / "robustness.json").read_text())["after"]["num_samples"] == 20
    size, whole = (
        (tmp_path / name).stat().st_size for name in ("adapter/adapter_model.safetensors", "model.safetensors")
    )
    assert size < 0.05 * whole
