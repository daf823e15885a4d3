"""SigLIP behind the same interface: its tokenization, pooling, loss and temperature, and everything built on them."""

from __future__ import annotations

import copy
import math
import re
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from test_trainer import SUBSTITUTES, batch_of, changed_parameters, make, picture_rows, snapshot  # noqa: F401
from tokenizers import processors
from transformers import Siglip2Config, Siglip2Model, SiglipModel
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

from hf_mmcoa.attacks.bert_attack import BertAttack
from hf_mmcoa.attacks.text_embedding import TextEmbeddingPGD
from hf_mmcoa.evaluation import ThreatModel, evaluate_robustness
from hf_mmcoa.losses import class_targets, sigmoid_loss
from hf_mmcoa.models import encoding, freezing
from hf_mmcoa.models.architectures import Towers, towers_of
from hf_mmcoa.models.encoder import DualEncoder, load_clip
from hf_mmcoa.models.lora import add_lora, load_adapted, merge
from hf_mmcoa.objectives import Clean, Embeddings, MMCoA
from hf_mmcoa.substitutes.vocabulary import HotFlipCandidates, NeighbourCandidates
from hf_mmcoa.zero_shot import ZeroShotClassifier

TEXTS = ["This is a photo of a cat", "a dog"]
NAMES = ["cat", "dog", "car"]


@pytest.fixture
def encoder(tiny_siglip, tiny_siglip_processor):
    return DualEncoder(tiny_siglip, tiny_siglip_processor)


@pytest.fixture
def train(make, tiny_siglip, tiny_siglip_processor):  # noqa: F811
    """A trainer of `tiny_siglip`; arguments as those of `make`."""

    def build(trainer=None, model=None, **config):
        given = {"processing_class": tiny_siglip_processor, **(trainer or {})}
        return make(trainer=given, model=model if model is not None else tiny_siglip, **config)

    return build


# Images and texts


@pytest.mark.parametrize("resample", [Image.Resampling.BILINEAR, Image.Resampling.BICUBIC], ids=["bilinear", "bicubic"])
@pytest.mark.parametrize(("height", "width"), [(16, 16), (20, 48), (100, 64)])
def test_pixel_values_match_the_processors_pil_path(height, width, resample):
    processor = SiglipImageProcessorPil(size={"height": 32, "width": 32}, resample=resample)
    rng = np.random.default_rng(0)
    smooth = rng.integers(0, 256, (height // 4, width // 4, 3), dtype=np.uint8)
    picture = Image.fromarray(smooth).resize((width, height), Image.Resampling.BILINEAR)
    expected = processor(picture, return_tensors="pt")["pixel_values"]
    images = torch.tensor(np.asarray(picture)).permute(2, 0, 1).unsqueeze(0) / 255
    ours = encoding.pixel_values(images, processor)
    assert ours.shape == expected.shape == (1, 3, 32, 32)
    assert (ours - expected).abs().max() < 2 / 255 / 0.5  # two grey levels, in units of the standard deviation


def test_embeddings_equal_the_models_own(encoder, tiny_siglip_processor, images):
    tokens = tiny_siglip_processor.tokenizer(
        [text.lower() for text in TEXTS], padding="max_length", max_length=16, return_tensors="pt"
    )
    assert "attention_mask" not in tokens  # as SigLIP's own tokenizer
    with torch.no_grad():
        output = encoder.model(pixel_values=encoder.pixel_values(images), **tokens)
        assert torch.equal(encoder.tokenize(TEXTS)["input_ids"], tokens["input_ids"])
        assert torch.allclose(encoder.encode_images(images), output.image_embeds, atol=1e-6)
        assert torch.allclose(encoder.encode_texts(TEXTS), output.text_embeds, atol=1e-6)
        assert torch.allclose(encoder.encode_texts(TEXTS, batch_size=1), output.text_embeds, atol=1e-6)
        assert torch.allclose(
            encoding.text_embeds(encoder.model, **encoder.tokenize(TEXTS)), output.text_embeds, atol=1e-6
        )  # the mask, which every tokenizer gives here, is not the model's business
        joint = encoding.joint_forward(encoder.model, encoder.pixel_values(images), tokens["input_ids"])
        features, _ = encoder.image_features(images)
        logits = encoder.logit_scale * joint.image_embeds @ joint.text_embeds.T + encoder.logit_bias
    assert torch.allclose(joint.image_embeds, output.image_embeds, atol=1e-6)
    assert torch.allclose(joint.text_embeds, output.text_embeds, atol=1e-6)
    assert torch.allclose(joint.image_features, features, atol=1e-5)
    assert torch.allclose(F.normalize(joint.text_features, dim=-1), output.text_embeds, atol=1e-6)
    assert not torch.allclose(joint.image_features, output.image_embeds, atol=0.1)  # un-normalised
    assert torch.allclose(logits, output.logits_per_image, atol=1e-5)
    assert encoder.encode_texts([]).shape == (0, 32) and encoder.embed_dim == output.image_embeds.shape[1]


def test_a_short_text_is_padded_to_the_context_and_case_does_not_matter(encoder):
    tokens = encoder.tokenize(["A DOG"])
    assert tokens["input_ids"].shape == (1, 16) and tokens["attention_mask"].sum() == 3  # two words, end of text
    assert torch.equal(tokens["input_ids"], encoder.tokenize(["a dog"])["input_ids"])


def test_a_text_longer_than_the_context_is_named(encoder):
    with pytest.raises(ValueError, match=r"'cat cat.*has 22 tokens.*context holds 16"):
        encoder.tokenize(["a dog", "cat " * 20])
    cut = encoder.tokenize(["cat " * 20], truncation=True)["input_ids"]
    assert cut.shape == (1, 16) and cut[0, -1] == encoder.tokenizer.eos_token_id


def test_patches_are_what_the_head_makes_of_each_alone(encoder, images):
    vision = encoder.model.vision_model
    with torch.no_grad():
        hidden = vision(pixel_values=encoder.pixel_values(images)).last_hidden_state
        _, patches = encoder.image_features(images, patches=True)
        assert patches.shape == (4, 16, 32)
        assert torch.allclose(patches[2, 5:6], vision.head(hidden[2:3, 5:6]), atol=1e-5)
        same = hidden[:, 5:6].expand(-1, 16, -1)  # where all patches say the same, pooling them says it too
        assert torch.allclose(vision.head(same), patches[:, 5], atol=1e-5)


def test_the_scale_is_not_held_at_100_and_both_scalars_are_scalars(encoder, tiny_clip, tiny_processor):
    encoder.model.logit_scale.data.fill_(math.log(117))  # about that of google/siglip-base-patch16-224
    assert encoder.logit_scale.item() == pytest.approx(117, rel=1e-5)
    assert encoder.logit_scale.shape == encoder.logit_bias.shape == ()
    assert encoder.logit_bias.item() == -10
    assert DualEncoder(tiny_clip, tiny_processor).logit_bias is None


def test_text_ends_at_the_last_position(encoder):
    assert encoding.text_ends(encoder.model, encoder.tokenize(TEXTS)["input_ids"]).tolist() == [15, 15]


# What does not fit


def test_a_tokenizer_with_bos_or_without_eos_is_refused(tiny_siglip, tiny_siglip_processor):
    for template, message in (("</s> $A </s>", r"\['</s>', '▁a', '</s>'\]"), ("$A", r"\['▁a'\]")):
        processor = copy.deepcopy(tiny_siglip_processor)
        processor.tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
            single=template, special_tokens=[("</s>", 1)]
        )
        with pytest.raises(ValueError, match=message):
            DualEncoder(tiny_siglip, processor)


def test_a_tokenizer_without_padding_is_refused(tiny_siglip, tiny_siglip_processor):
    processor = copy.deepcopy(tiny_siglip_processor)
    processor.tokenizer.pad_token = None
    with pytest.raises(ValueError, match="no padding token"):
        DualEncoder(tiny_siglip, processor)


def test_a_resampling_that_is_not_differentiable_here_is_refused(tiny_siglip, tiny_siglip_processor):
    processor = copy.deepcopy(tiny_siglip_processor)
    processor.image_processor.resample = Image.Resampling.NEAREST
    with pytest.raises(ValueError, match=r"resample=.*2 \(bilinear\) and 3 \(bicubic\)"):
        DualEncoder(tiny_siglip, processor)


def test_clips_processor_is_refused(tiny_siglip, tiny_processor):
    with pytest.raises(ValueError, match="tokens, `model` embeds"):
        DualEncoder(tiny_siglip, tiny_processor)


def test_naflex_is_refused_with_what_works_instead(tiny_siglip_processor, tmp_path):
    tower = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
    config = Siglip2Config(text_config={**tower, "vocab_size": 50}, vision_config={**tower, "num_patches": 16})
    config.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"NaFlex.*google/siglip2-base-patch16-224"):
        load_clip(tmp_path)
    with pytest.raises(ValueError, match="NaFlex"):
        DualEncoder(Siglip2Model(config), tiny_siglip_processor)


# The loss


@pytest.fixture
def pairs():
    generator = torch.Generator().manual_seed(0)
    return [F.normalize(torch.randn(5, 8, generator=generator), dim=-1) for _ in range(2)]


@pytest.mark.parametrize("labels", [None, [0, 1, 0, 2, 1]], ids=["diagonal", "class"])
def test_sigmoid_loss_is_a_double_loop(pairs, labels):
    a, b = pairs
    scale, bias = 7.0, -3.0
    total = 0.0
    for i in range(5):
        for j in range(5):
            sign = 1 if (i == j if labels is None else labels[i] == labels[j]) else -1
            total -= math.log(1 / (1 + math.exp(-sign * (scale * float(a[i] @ b[j]) + bias))))
    targets = None if labels is None else class_targets(torch.tensor(labels))
    loss = sigmoid_loss(a, b, torch.tensor(scale), torch.tensor(bias), targets)
    assert loss.item() == pytest.approx(total / 5, rel=1e-5)


def test_sigmoid_loss_is_transformers_own(encoder, images):
    tokens = encoder.tokenize([*TEXTS, "a red car", "the hound"])["input_ids"]
    encoder.model.logit_bias.data.fill_(-1.5)
    output = encoder.model(pixel_values=encoder.pixel_values(images), input_ids=tokens, return_loss=True)
    ours = sigmoid_loss(output.image_embeds, output.text_embeds, encoder.logit_scale, encoder.logit_bias)
    assert ours.item() == pytest.approx(output.loss.item(), rel=1e-5)


def test_sigmoid_loss_refuses_batches_of_different_size(pairs):
    with pytest.raises(ValueError, match=r"`image_embeds` \(5, 8\) and `text_embeds` \(3, 8\)"):
        sigmoid_loss(pairs[0], pairs[1][:3], torch.tensor(1.0), torch.tensor(0.0))


def test_objectives_take_the_models_own_loss(pairs):
    a, b = pairs
    scale, bias, targets = torch.tensor(7.0), torch.tensor(-3.0), class_targets(torch.tensor([0, 1, 0, 2, 1]))
    embeds = Embeddings(
        logit_scale=scale,
        logit_bias=bias,
        image_embeds=a,
        text_embeds=b,
        adv_image_embeds=a.flip(0),
        adv_text_embeds=b.flip(1),
        targets=targets,
    )
    expected = {
        "loss_image": sigmoid_loss(a.flip(0), b, scale, bias, targets),
        "loss_text": sigmoid_loss(a, b.flip(1), scale, bias, targets),
        "loss_clean": sigmoid_loss(a, b, scale, bias, targets),
    }
    assert MMCoA(lambda_clean=1.0)(embeds)[1] == expected
    assert Clean()(embeds)[1] == {"loss_clean": expected["loss_clean"]}


# Attacks


def away_from(clean):
    return lambda embeds: -(embeds * clean).sum(-1)


def test_the_embedding_attack_moves_words_only_and_works(encoder):
    tokens = encoder.tokenize(TEXTS)
    with torch.no_grad():
        clean = encoder.encode_texts(TEXTS)
        own = encoding.token_embeddings(encoder.model, tokens["input_ids"])
    moved = TextEmbeddingPGD(rho=1.0)(encoder.model, **tokens, loss_fn=away_from(clean))
    length = (moved - own).norm(dim=-1)
    words = torch.zeros(2, 16, dtype=torch.bool)
    words[0, :7] = words[1, :2] = True  # from the first position on: there is no BOS; then end of text and padding
    assert (length[words] > 0).all() and (length[~words] == 0).all()
    with torch.no_grad():
        similarity = (encoding.text_embeds(encoder.model, **tokens, inputs_embeds=moved) * clean).sum(-1)
    assert (similarity < 0.99).all()


def test_words_cannot_be_told_from_padding_without_a_mask(encoder):
    tokens = encoder.tokenize(TEXTS)
    with pytest.raises(ValueError, match="`attention_mask` is needed"):
        encoding.word_positions(encoder.model, tokens["input_ids"], None)


@pytest.mark.parametrize("source", [NeighbourCandidates, HotFlipCandidates])
def test_the_words_attack_runs_on_candidates_of_the_models_own_vocabulary(encoder, source):
    attack = BertAttack(candidates=source(encoder.model, encoder.tokenizer), num_candidates=5)
    attacked = attack(TEXTS, encoder.encode_texts)
    for before, after in zip(TEXTS, attacked, strict=True):
        assert sum(a != b for a, b in zip(before.split(), after.split(), strict=True)) == 1


def test_hotflip_reads_the_gradient_of_the_padded_text(encoder):
    """Its first choice, by brute force: the linear gain of every word of the vocabulary on the padded ids."""
    source = HotFlipCandidates(encoder.model, encoder.tokenizer)
    (ranked,) = source(["a dog"], [[1]], 100)
    table = encoding.token_table(encoder.model)
    tokens = encoder.tokenize(["a dog"])
    embeds = encoding.token_embeddings(encoder.model, tokens["input_ids"]).detach()
    embeds[0, 1] = table.mean(0)
    embeds.requires_grad_()
    p, q = (
        x.double().log_softmax(-1)
        for x in (
            encoder.encode_texts(["a dog"]).detach(),
            encoding.text_embeds(encoder.model, **tokens, inputs_embeds=embeds),
        )
    )
    (grad,) = torch.autograd.grad((p.exp() * (p - q)).sum(), embeds)
    gains = (table - table.mean(0)) @ grad[0, 1]
    by_gain = [encoder.tokenizer.convert_ids_to_tokens(index) for index in gains.argsort(descending=True).tolist()]
    assert ranked[1] == [token[1:] for token in by_gain if token[1:] in ranked[1] and token.startswith("▁")]


# Training


@pytest.mark.parametrize("text_attack", ["words", "embedding"])
def test_two_steps_train_both_towers_scale_and_bias(train, tiny_siglip, text_attack):
    before = snapshot(tiny_siglip)
    trainer = train(text_attack=text_attack)
    trainer.train()
    moved = changed_parameters(before, tiny_siglip)
    assert {"logit_scale", "logit_bias", "vision_model.head.probe", "text_model.head.weight"} <= moved
    logged = [entry for entry in trainer.state.log_history if "loss_image" in entry]
    assert len(logged) == 2
    for entry in logged:
        assert entry["loss"] == pytest.approx(0.5 * entry["loss_image"] + 0.5 * entry["loss_text"], rel=1e-5)


def test_the_loss_of_the_clean_objective_is_the_models_own(train):
    trainer = train(objective="clean", targets="diagonal")
    inputs = batch_of(trainer)
    encoder = DualEncoder(trainer.model, trainer.processing_class)
    tokens = encoder.tokenize([trainer.prompts[label] for label in inputs["labels"]])["input_ids"]
    output = trainer.model(pixel_values=encoder.pixel_values(inputs["images"]), input_ids=tokens, return_loss=True)
    assert trainer.compute_loss(trainer.model, inputs).item() == pytest.approx(output.loss.item(), rel=1e-5)


def test_the_loss_of_evaluation_is_that_of_training(train):
    trainer = train(objective="clean")
    inputs = batch_of(trainer)
    loss, _, _ = trainer.prediction_step(trainer.model, inputs, prediction_loss_only=False)
    assert loss.item() == pytest.approx(trainer.compute_loss(trainer.model, inputs).item(), rel=1e-5)


@pytest.mark.parametrize(
    ("field", "frozen"),
    [
        ("train_image_encoder", ("vision_model.",)),
        ("train_text_encoder", ("text_model.",)),
        ("train_logit_scale", ("logit_scale", "logit_bias")),
    ],
)
def test_a_frozen_part_does_not_move(train, tiny_siglip, field, frozen):
    before = snapshot(tiny_siglip)
    train(**{field: False}).train()
    moved = changed_parameters(before, tiny_siglip)
    assert moved and not any(name.startswith(frozen) for name in moved)


def test_the_last_blocks_train_with_what_pools(tiny_siglip):
    freezing.train_last_blocks(tiny_siglip, 1)
    trained = {name for name, weight in tiny_siglip.named_parameters() if weight.requires_grad}
    first_parts = {".".join(name.split(".")[: 4 if "layers" in name else 2]) for name in trained}
    assert first_parts == {
        *("vision_model.encoder.layers.1", "vision_model.post_layernorm", "vision_model.head"),
        *("text_model.encoder.layers.1", "text_model.final_layer_norm", "text_model.head"),
        *("logit_scale", "logit_bias"),
    }


def test_training_leaves_a_scale_above_100_alone_but_clips(train, tiny_siglip, tiny_clip, make):  # noqa: F811
    for model, build, kept in ((tiny_siglip, train, True), (tiny_clip, make, False)):
        model.logit_scale.data.fill_(5.0)
        build(model=model, learning_rate=1e-6).train()
        assert (model.logit_scale.item() > 4.9) == kept


@pytest.mark.few(3)
@pytest.mark.parametrize(
    "objective",
    [
        *("tecoa", "fare", "pmg-aft", "tga-zsr", "leaf", "fare+leaf"),
        *("mat", "mat+", "advflyp", "saft", "sim-clip", "qt-aft", "agft"),
    ],
)
def test_every_other_defence_trains_too(train, tiny_siglip, objective):
    before = snapshot(tiny_siglip)
    train(trainer={"text_attack": None}, objective=objective).train()
    assert changed_parameters(before, tiny_siglip)


def test_a_saved_model_loads_with_transformers_and_here(train, tiny_siglip, tmp_path, images):
    trainer = train()
    trainer.train()
    trainer.save_model(tmp_path)
    model, processor = load_clip(tmp_path)
    plain = SiglipModel.from_pretrained(tmp_path)
    assert all(torch.equal(weight, tiny_siglip.state_dict()[name]) for name, weight in plain.state_dict().items())
    ours, theirs = DualEncoder(trainer.model.eval(), trainer.processing_class), DualEncoder(model, processor)
    with torch.no_grad():
        assert torch.allclose(ours.encode_texts(TEXTS), theirs.encode_texts(TEXTS), atol=1e-6)
        assert torch.allclose(ours.encode_images(images), theirs.encode_images(images), atol=1e-6)


# Evaluation


def test_zero_shot_classifies_by_cosines_and_notices_training(tiny_siglip, tiny_siglip_processor, images):
    classifier = ZeroShotClassifier(tiny_siglip, tiny_siglip_processor, NAMES)
    with torch.no_grad():
        first = classifier(images)
        output = tiny_siglip(
            pixel_values=classifier.encoder.pixel_values(images),
            input_ids=classifier.encoder.tokenize(classifier.prompts)["input_ids"],
        )
    # softmax of both is one: the bias is the same for all classes
    assert torch.allclose(first.softmax(-1), output.logits_per_image.softmax(-1), atol=1e-6)
    with torch.no_grad():
        tiny_siglip.text_model.head.weight.neg_()
        tiny_siglip.text_model.head.bias.neg_()
        assert torch.allclose(classifier(images), -first, atol=1e-5)


@pytest.mark.slow
def test_evaluate_robustness_end_to_end(train, tiny_siglip, tiny_siglip_processor):
    """A SigLIP that has learnt three grey levels is right about them, and each kind of attack brings it down."""
    settings = {"max_steps": 60, "learning_rate": 3e-3, "lr_scheduler_type": "constant"}
    train(objective="clean", **settings).train()
    spec = {"epsilon": "120/255", "num_steps": 5, "restarts": 1, "num_text_steps": 10}
    for preset in ("quick", "standard"):
        result = evaluate_robustness(
            tiny_siglip,
            tiny_siglip_processor,
            picture_rows(),
            threat_model=ThreatModel.preset(preset, **spec),
            candidates=SUBSTITUTES,
            batch_size=6,
            progress=False,
            sanity=False,
        )
        assert result["clean_accuracy"] == 1.0, preset
        assert result["image_accuracy"] < 0.5, preset
        assert result["multimodal_accuracy"] <= min(result["image_accuracy"], result["text_accuracy"]), preset
    assert result["attacks/text/embedding/blind"] < 1.0


# The seam


def test_every_architecture_says_all_that_is_asked(tiny_clip, tiny_siglip):
    for model in (tiny_clip, tiny_siglip):
        kind = towers_of(model)
        named = [name for part in kind.modules.values() for name in part]
        assert {name.split(".")[0] for name, _ in model.named_parameters()} == {*named, *kind.scalars}
        for name in (*kind.blocks.values(), *(part for parts in kind.after_blocks.values() for part in parts)):
            assert any(name.startswith(tower) for tower in named) and len(list(model.get_submodule(name).parameters()))


# LoRA


def test_a_lora_run_trains_adapters_scale_and_bias_and_merges_to_a_plain_siglip(train, tiny_siglip, tmp_path, images):
    plain = copy.deepcopy(tiny_siglip)
    trainer = train(lora="both", lora_rank=2, learning_rate=1e-2)
    before = snapshot(trainer.model)
    trainer.train()
    moved = changed_parameters(before, trainer.model)
    assert moved and all("lora_" in name or name.endswith(("logit_scale", "logit_bias")) for name in moved)
    trainer.save_model(tmp_path)
    merged, loaded = merge(trainer.model), load_adapted(plain, tmp_path)
    assert type(merged) is SiglipModel and merged.logit_bias.item() == loaded.logit_bias.item() != -10
    encoders = [DualEncoder(model, trainer.processing_class) for model in (trainer.model.eval(), merged, loaded)]
    with torch.no_grad():
        seen = [(encoder.encode_images(images), encoder.encode_texts(TEXTS)) for encoder in encoders]
    for image_embeds, text_embeds in seen[1:]:
        assert torch.allclose(image_embeds, seen[0][0], atol=1e-5) and torch.allclose(
            text_embeds, seen[0][1], atol=1e-5
        )
    assert not torch.allclose(DualEncoder(plain, trainer.processing_class).encode_texts(TEXTS), seen[0][1], atol=1e-3)


def test_the_fused_attention_of_the_pooling_head_gets_no_adapter(tiny_siglip):
    adapted = add_lora(tiny_siglip, rank=2, target_modules=("out_proj",))
    where = {name.partition(".lora_")[0] for name, _ in adapted.named_parameters() if ".lora_" in name}
    assert len(where) == 4 and not any("head" in name for name in where)


def test_the_page_lists_all_that_an_architecture_says():
    page = (Path(__file__).parents[2] / "docs" / "models.md").read_text(encoding="utf-8")
    table = page.split("| attribute | meaning |", 1)[1].split("\n\n", 1)[0]
    named = {name for line in table.splitlines()[2:] for name in re.findall(r"`(\w+)`", line.split("|")[1])}
    assert named == {name for name in Towers.__annotations__ | vars(Towers) if not name.startswith("_")}
