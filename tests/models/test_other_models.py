"""Other dual encoders of transformers: MetaCLIP and MetaCLIP 2 run, the others are refused by name."""

from __future__ import annotations

import json

import datasets
import numpy as np
import pytest
import torch
from PIL import Image
from test_trainer import changed_parameters, make, snapshot  # noqa: F401
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    AltCLIPConfig,
    ChineseCLIPConfig,
    CLIPModel,
    CLIPProcessor,
    CLIPSegConfig,
    CLIPSegModel,
    MetaClip2Config,
    MetaClip2Model,
    PreTrainedTokenizerFast,
)

from hf_mmcoa.attacks.text_embedding import TextEmbeddingPGD
from hf_mmcoa.convert.load import load_model
from hf_mmcoa.evaluation import ThreatModel, evaluate_robustness
from hf_mmcoa.models import encoding
from hf_mmcoa.models.architectures import towers_of
from hf_mmcoa.models.encoder import DualEncoder, load_clip
from hf_mmcoa.models.lora import add_lora, merge

TEXTS = ["this is a photo of a cat", "a dog"]
TOWER = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}


@pytest.fixture
def tiny_metaclip_2(tiny_processor):
    """An untrained MetaCLIP 2, and a processor that frames texts as XLM-V does: `<s>` 0, `<pad>` 1, `</s>` 2."""
    words = sorted({word for text in TEXTS for word in text.split()} | {"car", "photo"})
    vocabulary = {token: index for index, token in enumerate(["<s>", "<pad>", "</s>", "<unk>", *words])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", pad_token="<pad>", unk_token="<unk>"
    )
    ids = {"bos_token_id": 0, "pad_token_id": 1, "eos_token_id": 2}
    config = MetaClip2Config(
        text_config={**TOWER, **ids, "vocab_size": len(vocabulary), "max_position_embeddings": 16},
        vision_config={**TOWER, "image_size": 32, "patch_size": 8},
        projection_dim=32,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = MetaClip2Model(config).eval()
        for weight in model.parameters():
            if weight.ndim > 1:
                torch.nn.init.normal_(weight, std=0.2)
    return model, CLIPProcessor(tiny_processor.image_processor, fast)


@pytest.fixture
def picture_set():
    pixels = np.random.default_rng(0).integers(0, 256, (4, 32, 32, 3), dtype=np.uint8)
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["cat", "dog"])})
    rows = {"image": [Image.fromarray(one) for one in pixels], "label": [0, 1] * 2}
    return datasets.Dataset.from_dict(rows, features=features)


# MetaCLIP 2


def test_embeddings_equal_the_models_own(tiny_metaclip_2, images):
    model, processor = tiny_metaclip_2
    encoder = DualEncoder(model, processor)
    tokens = processor.tokenizer(TEXTS, padding=True, return_tensors="pt")
    with torch.no_grad():
        output = model(pixel_values=encoder.pixel_values(images), **tokens)
        assert torch.allclose(encoder.encode_images(images), output.image_embeds, atol=1e-6)
        assert torch.allclose(encoder.encode_texts(TEXTS), output.text_embeds, atol=1e-6)
        assert torch.allclose(encoder.encode_texts(TEXTS, batch_size=1), output.text_embeds, atol=1e-6)
    assert towers_of(model).text_ends(tokens["input_ids"]).tolist() == [8, 3]


def test_the_embedding_attack_moves_words_only_and_works(tiny_metaclip_2):
    model, processor = tiny_metaclip_2
    encoder = DualEncoder(model, processor)
    tokens = encoder.tokenize(TEXTS)
    with torch.no_grad():
        clean = encoder.encode_texts(TEXTS)
        own = encoding.token_embeddings(model, tokens["input_ids"])
    attack = TextEmbeddingPGD(rho=1.0)
    moved = attack(model, **tokens, loss_fn=lambda embeds: -(embeds * clean).sum(-1))
    length = (moved - own).norm(dim=-1)
    words = torch.zeros(2, 9, dtype=torch.bool)
    words[0, 1:8] = words[1, 1:3] = True  # behind `<s>`, before `</s>`
    assert (length[words] > 0).all() and (length[~words] == 0).all()
    with torch.no_grad():
        assert ((encoding.text_embeds(model, **tokens, inputs_embeds=moved) * clean).sum(-1) < 0.99).all()


def test_a_tokenizer_that_ends_texts_elsewhere_is_refused(tiny_metaclip_2, tiny_processor):
    model, processor = tiny_metaclip_2
    processor.tokenizer.eos_token = "<pad>"
    with pytest.raises(ValueError, match=r"ends texts with token 1, `model` pools at token 2"):
        DualEncoder(model, processor)


@pytest.mark.slow
def test_two_steps_train_and_the_folder_loads(make, tiny_metaclip_2, tmp_path, images):  # noqa: F811
    model, processor = tiny_metaclip_2
    before = snapshot(model)
    trainer = make(trainer={"processing_class": processor}, model=model, text_attack="embedding")
    trainer.train()
    moved = changed_parameters(before, model)
    assert {"logit_scale", "visual_projection.weight", "text_projection.weight"} <= moved
    trainer.save_model(tmp_path)
    loaded, its_processor = load_clip(tmp_path)
    plain = MetaClip2Model.from_pretrained(tmp_path)
    assert all(torch.equal(weight, model.state_dict()[name]) for name, weight in plain.state_dict().items())
    with torch.no_grad():
        ours, theirs = DualEncoder(model.eval(), processor), DualEncoder(loaded, its_processor)
        assert torch.allclose(ours.encode_images(images), theirs.encode_images(images), atol=1e-6)
        assert torch.allclose(ours.encode_texts(TEXTS), theirs.encode_texts(TEXTS), atol=1e-6)


def test_every_part_is_named(tiny_metaclip_2):
    model, _ = tiny_metaclip_2
    kind = towers_of(model)
    named = [name for part in kind.modules.values() for name in part]
    assert {name.split(".")[0] for name, _ in model.named_parameters()} == {*named, *kind.scalars}
    for name in (*kind.blocks.values(), *(part for parts in kind.after_blocks.values() for part in parts)):
        assert list(model.get_submodule(name).parameters())


def test_adapters_merge_to_a_plain_model(tiny_metaclip_2, images):
    model, processor = tiny_metaclip_2
    adapted = add_lora(model, rank=2)
    for name, weight in adapted.named_parameters():
        if "lora_B" in name:
            weight.data.fill_(0.01)
    merged = merge(adapted)
    assert type(merged) is MetaClip2Model
    with torch.no_grad():
        one, other = (DualEncoder(each, processor).encode_images(images) for each in (adapted.eval(), merged))
    assert torch.allclose(one, other, atol=1e-5)


@pytest.mark.slow
def test_it_is_measured_end_to_end(tiny_metaclip_2, picture_set):
    model, processor = tiny_metaclip_2
    spec = ThreatModel.preset("quick", num_steps=1)
    result = evaluate_robustness(model, processor, picture_set, threat_model=spec, sanity=False, progress=False)
    assert 0 <= result["image_accuracy"] <= result["clean_accuracy"] <= 1


# MetaCLIP is a CLIPModel


@pytest.mark.parametrize("activation", ["quick_gelu", "gelu"])
def test_the_activation_of_metaclip_is_that_of_its_configuration(tiny_clip, tiny_processor, tmp_path, activation):
    config = type(tiny_clip.config).from_dict(tiny_clip.config.to_dict())
    config.vision_config.hidden_act = config.text_config.hidden_act = activation
    CLIPModel(config).save_pretrained(tmp_path)
    tiny_processor.save_pretrained(tmp_path)
    model, _ = load_clip(tmp_path)
    assert type(model) is CLIPModel and model.config.vision_config.hidden_act == activation


# What does not run


@pytest.mark.parametrize(
    ("config", "text"),
    [
        (ChineseCLIPConfig, r"'chinese_clip' model reads a whole text at once.*works is MetaCLIP 2"),
        (AltCLIPConfig, r"'altclip' model reads a whole text at once.*works is MetaCLIP 2"),
        (CLIPSegConfig, r"'clipseg' model segments images; .*openai/clip-vit-base-patch16"),
    ],
)
def test_what_does_not_run_is_refused_by_name(config, text, tmp_path):
    config().save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=text):
        load_model(tmp_path)


def test_a_model_that_was_built_is_refused_too(tiny_processor):
    sizes = {**TOWER, "image_size": 32, "patch_size": 8}
    model = CLIPSegModel(CLIPSegConfig(text_config={**TOWER, "vocab_size": 50}, vision_config=sizes))
    with pytest.raises(ValueError, match="'clipseg' model segments images"):
        DualEncoder(model, tiny_processor)


def test_eva_clip_is_refused_by_its_option(tmp_path):
    """OpenCLIP's EVA02-B-16 names a tower of timm, which has rotary positions and no norm before its blocks."""
    vision = {"image_size": 224, "timm_model_name": "eva02_base_patch16_clip_224", "timm_proj": None}
    config = {"model_cfg": {"embed_dim": 512, "vision_cfg": vision, "text_cfg": {"width": 512}}}
    (tmp_path / "open_clip_config.json").write_text(json.dumps(config))
    torch.save({"logit_scale": torch.tensor(1.0)}, tmp_path / "open_clip_pytorch_model.bin")
    with pytest.raises(ValueError, match=r"CLIPModel cannot do: timm_model_name = 'eva02_base_patch16_clip_224'"):
        load_model(tmp_path)
