"""Texts encoded together have the embeddings that they have alone, with fewer tokens."""

from __future__ import annotations

import pytest
import torch
from peft import LoraConfig, get_peft_model

from hf_mmcoa.models import encoding
from hf_mmcoa.models.shared_prefix import SharedPrefix
from hf_mmcoa.testbed.tiny_clip import tiny_clip as build_tiny_clip

TEMPLATE = "this is a photo of a {}"
ALIKE = [TEMPLATE.format(word) for word in ("cat", "dog", "red car", "feline", "hound", "scarlet car", "cat")]
UNLIKE = [
    "",
    "cat",
    "dog this is a red car of a photo",
    "a",
    "this",
    "hound",
    "red red",
    "car",
    "photo of",
    "of",
    "is a",
]


@pytest.fixture(params=["eager", "sdpa"])
def model_and_processor(request):
    model, processor = build_tiny_clip([*ALIKE, *UNLIKE], image_size=32, patch_size=8, context_length=32)
    model.set_attn_implementation(request.param)
    return model, processor


def alone(model, processor, texts):
    """Every text in a row of its own, through transformers' model."""
    rows = [processor.tokenizer([text], return_tensors="pt")["input_ids"] for text in texts]
    return torch.cat([model.get_text_features(input_ids=row).pooler_output for row in rows])


def tokens_seen(model, call):
    seen = []
    layer = encoding.token_embedding_layer(model)
    with torch.no_grad():
        handle = layer.register_forward_hook(lambda _, inputs, output: seen.append(inputs[0].numel()))
        result = call()
    handle.remove()
    return result, sum(seen)


@pytest.mark.parametrize("texts", [ALIKE, UNLIKE, ALIKE + UNLIKE, ALIKE[:2], [ALIKE[0]] * 5])
def test_together_as_alone(model_and_processor, texts):
    model, processor = model_and_processor
    ids = encoding.tokenize(model, processor.tokenizer, texts, truncation=False)["input_ids"]
    expected = alone(model, processor, texts)
    assert torch.allclose(
        encoding.text_features(model, ids), expected, atol=1e-5 * float(expected.detach().abs().max())
    )


def test_a_shared_template_is_computed_once_a_row(model_and_processor):
    model, processor = model_and_processor
    tokens = encoding.tokenize(model, processor.tokenizer, ALIKE, truncation=False)
    _, together = tokens_seen(model, lambda: encoding.text_features(model, tokens["input_ids"]))
    _, masked = tokens_seen(model, lambda: encoding.text_features(model, **tokens))
    assert masked == tokens["input_ids"].numel()
    assert together < 0.6 * masked


def test_its_gradient_is_that_of_texts_alone(model_and_processor):
    model, processor = model_and_processor
    ids = encoding.tokenize(model, processor.tokenizer, ALIKE, truncation=False)["input_ids"]
    weight = encoding.token_embedding_layer(model).weight
    direction = torch.rand(len(ALIKE), model.config.projection_dim, generator=torch.Generator().manual_seed(0))
    ours, theirs = (
        torch.autograd.grad((features * direction).sum(), weight)[0]
        for features in (encoding.text_features(model, ids), alone(model, processor, ALIKE))
    )
    assert torch.allclose(ours, theirs, atol=1e-5 * float(theirs.abs().max()))


def test_given_embeddings_and_masks_are_not_shared(model_and_processor):
    """Perturbed token embeddings differ where the texts are alike."""
    model, processor = model_and_processor
    ids = encoding.tokenize(model, processor.tokenizer, ALIKE, truncation=False)["input_ids"]
    embeds = encoding.token_embeddings(model, ids)
    shifted = embeds + torch.rand(embeds.shape, generator=torch.Generator().manual_seed(0))
    moved = encoding.text_features(model, ids, inputs_embeds=shifted)
    assert (moved[0] - moved[-1]).abs().max() > 1e-3 * moved.abs().max()  # the same text twice


def test_adapters_take_part():
    model, processor = build_tiny_clip([*ALIKE], image_size=32, patch_size=8, context_length=32)
    adapted = get_peft_model(model, LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False)).eval()
    ids = encoding.tokenize(adapted, processor.tokenizer, ALIKE, truncation=False)["input_ids"]
    expected = alone(adapted, processor, ALIKE)
    found = encoding.text_features(adapted, ids)
    assert torch.allclose(found, expected, atol=1e-5 * float(expected.detach().abs().max()))
    with adapted.disable_adapter():
        assert not torch.allclose(encoding.text_features(adapted, ids), found, atol=1e-4)


def test_bfloat16_autocast_takes_the_mask(model_and_processor):
    model, processor = model_and_processor
    ids = encoding.tokenize(model, processor.tokenizer, ALIKE, truncation=False)["input_ids"]
    with torch.no_grad():
        exact = encoding.text_embeds(model, ids)
        with torch.autocast("cpu", torch.bfloat16):
            rounded = encoding.text_embeds(model, ids)
    assert rounded.dtype == torch.float32
    assert (exact - rounded).abs().max() < 0.03


def test_nothing_is_shared_where_it_saves_little():
    ids = torch.tensor([[1, 2, 3, 4, 5, 9], [1, 7, 3, 4, 5, 9]])
    assert SharedPrefix.of(ids, torch.tensor([5, 5]), 12) is None
    assert SharedPrefix.of(ids, torch.tensor([5, 5]), 6) is None  # two do not fit into one row
