"""Our differentiable preprocessing against transformers' own, and every convention for the end of a text."""

from __future__ import annotations

import copy
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from transformers import AutoTokenizer, BertConfig, BertModel, CLIPConfig, CLIPModel, CLIPProcessor
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from hf_mmcoa.models import encoding
from hf_mmcoa.models.encoder import DualEncoder, load_clip
from hf_mmcoa.testbed.tiny_clip import tiny_clip as build_tiny_clip

TEXTS = ["This is a photo of a cat", "a dog"]


@pytest.fixture
def encoder(tiny_clip, tiny_processor):
    return DualEncoder(tiny_clip, tiny_processor)


@pytest.mark.parametrize(("height", "width"), [(32, 32), (16, 16), (20, 48), (100, 64), (10, 45)])
def test_pixel_values_match_the_processors_pil_path(tiny_processor, height, width):
    rng = np.random.default_rng(0)
    smooth = rng.integers(0, 256, (height // 4, width // 4, 3), dtype=np.uint8)
    picture = Image.fromarray(smooth).resize((width, height), Image.Resampling.BILINEAR)
    expected = tiny_processor.image_processor(picture, return_tensors="pt")["pixel_values"]
    images = torch.tensor(np.asarray(picture)).permute(2, 0, 1).unsqueeze(0) / 255
    ours = encoding.pixel_values(images, tiny_processor.image_processor)
    assert ours.shape == expected.shape == (1, 3, 32, 32)
    # PIL rounds to 8 bits after each of its two passes: two grey levels, in units of the standard deviation (0.26)
    assert (ours - expected).abs().max() < 2 / 255 / 0.26


def test_pixel_values_are_differentiable_in_native_pixels(encoder):
    images = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0)).requires_grad_()
    encoder.encode_images(images).sum().backward()
    assert images.grad.shape == images.shape and (images.grad != 0).all()


def test_embeddings_equal_the_models_own(encoder, images):
    tokens = encoder.tokenize(TEXTS)
    with torch.no_grad():
        output = encoder.model(pixel_values=encoder.pixel_values(images), **tokens)
        assert torch.allclose(encoder.encode_images(images), output.image_embeds, atol=1e-6)
        assert torch.allclose(encoder.encode_texts(TEXTS), output.text_embeds, atol=1e-6)
        joint = encoding.joint_forward(encoder.model, encoder.pixel_values(images), tokens["input_ids"])
        features, _ = encoder.image_features(images)
    assert torch.allclose(joint.image_embeds, output.image_embeds, atol=1e-6)
    assert torch.allclose(joint.text_embeds, output.text_embeds, atol=1e-6)
    assert torch.allclose(F.normalize(joint.image_features, dim=-1), output.image_embeds, atol=1e-6)
    assert torch.allclose(F.normalize(joint.text_features, dim=-1), output.text_embeds, atol=1e-6)
    assert not torch.allclose(joint.image_features, output.image_embeds, atol=0.1)  # un-normalised
    assert torch.allclose(joint.image_features, features, atol=1e-5)
    assert torch.allclose(joint.text_features, encoder.text_features(TEXTS), atol=1e-5)
    assert joint.patches is None


def test_patches_are_projected_as_the_class_token_is(encoder, images):
    vision = encoder.model.vision_model
    with torch.no_grad():
        hidden = vision(pixel_values=encoder.pixel_values(images)).last_hidden_state
        projected = encoder.model.visual_projection(vision.post_layernorm(hidden))
        features, patches = encoder.image_features(images, patches=True)
    assert torch.allclose(projected[:, 0], features, atol=1e-5)
    assert torch.allclose(projected[:, 1:], patches, atol=1e-5) and patches.shape == (4, 16, 32)


@pytest.mark.parametrize("legacy", [False, True], ids=["real eos id", "eos id 2 of old configs"])
def test_padding_to_the_longest_equals_padding_to_the_context(tiny_clip, tiny_processor, legacy):
    tokenizer = tiny_processor.tokenizer
    ids = torch.arange(len(tokenizer))
    eos = tokenizer.eos_token_id
    assert eos == ids[-1]  # as in CLIP's vocabulary, where pooling at the highest id finds it
    if not legacy:  # the real id works wherever it stands: move the end-of-text token to id 5
        ids[eos], ids[5] = 5, eos
    model = copy.deepcopy(tiny_clip)
    table = model.text_model.embeddings.token_embedding.weight
    table.data = table.data[ids]
    model.text_model.eos_token_id = 2 if legacy else 5
    short = ids[tokenizer(TEXTS, padding=True, padding_side="right", return_tensors="pt")["input_ids"]]
    long = torch.nn.functional.pad(short, (0, 16 - short.shape[1]), value=int(ids[eos]))
    mask = torch.arange(16) <= encoding.text_ends(model, long).unsqueeze(1)
    with torch.no_grad():
        embeds = encoding.text_embeds(model, short)
        assert torch.allclose(embeds, encoding.text_embeds(model, long, mask.long()), atol=1e-5)
        reference = DualEncoder(tiny_clip, tiny_processor).encode_texts(TEXTS)
    assert torch.allclose(embeds, reference, atol=1e-5)  # the same weights, whatever their ids
    assert (embeds[0] - embeds[1]).norm() > 0.01


def test_text_ends_where_the_model_pools(encoder):
    tokens = encoder.tokenize(TEXTS)
    assert (
        encoding.text_ends(encoder.model, tokens["input_ids"]).tolist()
        == (tokens["attention_mask"].sum(1) - 1).tolist()
    )


def test_both_encodings_of_an_accent_are_the_same_tokens(tiny_siglip, tiny_siglip_processor):
    """CLIP's own tokenizer composes texts; SigLIP's would read "e" and an accent."""
    encoder = DualEncoder(tiny_siglip, tiny_siglip_processor)
    composed, decomposed = (encoder.tokenize([text])["input_ids"].tolist() for text in ("caf\u00e9", "cafe\u0301"))
    assert composed == decomposed


def test_given_token_embeddings_replace_the_tables(encoder):
    tokens = encoder.tokenize(TEXTS)
    with torch.no_grad():
        own = encoding.token_embeddings(encoder.model, tokens["input_ids"])
        assert torch.equal(
            encoding.text_embeds(encoder.model, tokens["input_ids"], None, own), encoder.encode_texts(TEXTS)
        )
        swapped = encoding.text_embeds(encoder.model, tokens["input_ids"], None, own.flip(0))
    assert not torch.allclose(swapped, encoder.encode_texts(TEXTS), atol=1e-3)
    assert not encoding.token_embedding_layer(encoder.model)._forward_hooks


def test_the_hook_is_gone_after_an_error(encoder):
    with pytest.raises(RuntimeError), encoding.edited_token_embeddings(encoder.model, lambda output: output):
        raise RuntimeError
    assert not encoding.token_embedding_layer(encoder.model)._forward_hooks


def test_a_shift_leaves_gradient_to_the_table(encoder, images):
    tokens = encoder.tokenize(TEXTS)
    shift = torch.zeros(2, tokens["input_ids"].shape[1], 32)
    shift[1] = torch.randn(
        shift[1].shape, generator=torch.Generator().manual_seed(0)
    )  # a constant one would be normalised away
    pixels = encoder.pixel_values(images)
    plain = encoding.joint_forward(encoder.model, pixels, tokens["input_ids"]).text_embeds
    shifted = encoding.joint_forward(encoder.model, pixels, tokens["input_ids"], shift).text_embeds
    assert torch.equal(plain[0], shifted[0]) and not torch.allclose(plain[1], shifted[1], atol=1e-3)
    shifted[1].sum().backward()
    assert encoding.token_embedding_layer(encoder.model).weight.grad.abs().sum() > 0


def test_encode_texts_in_batches_keeps_the_order(encoder):
    texts = ["a cat", "This is a photo of a red car", "a dog", "This is a photo of a cat", "a"]
    with torch.no_grad():
        assert torch.allclose(encoder.encode_texts(texts, batch_size=2), encoder.encode_texts(texts), atol=1e-6)


def test_a_text_longer_than_the_context_is_named(encoder):
    with pytest.raises(ValueError, match=r"cat cat.*tokens.*context holds 16"):
        encoder.tokenize(["a dog", "cat " * 20])
    assert encoder.tokenize(["cat " * 20], truncation=True)["input_ids"].shape == (1, 16)


def test_logit_scale_never_exceeds_100(encoder):
    encoder.model.logit_scale.data.fill_(10.0)
    assert encoder.logit_scale.item() == pytest.approx(100)
    encoder.model.logit_scale.data.fill_(math.log(20))
    assert encoder.logit_scale.item() == pytest.approx(20)


@pytest.mark.parametrize(
    ("pixels", "message"),
    [
        (torch.full((1, 3, 4, 4), 255.0), r"\[0, 1\], got values from 255 to 255"),
        (torch.full((1, 3, 4, 4), float("nan")), r"\[0, 1\]"),
        (torch.zeros(1, 3, 4, 4, dtype=torch.uint8), "float tensor"),
        (torch.zeros(3, 4, 4), "float tensor"),
    ],
)
def test_pixels_out_of_range_or_shape_are_refused(pixels, message):
    with pytest.raises(ValueError, match=message):
        encoding.check_images(pixels)


def test_a_model_that_is_no_dual_encoder_is_refused(tiny_processor):
    bert = BertModel(
        BertConfig(vocab_size=10, hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8)
    )
    with pytest.raises(TypeError, match="dual encoder such as CLIPModel; BertModel has no get_image_features"):
        DualEncoder(bert, tiny_processor)


def test_a_bare_tokenizer_is_no_processor(tiny_clip, tiny_processor):
    with pytest.raises(TypeError, match="CLIPProcessor"):
        DualEncoder(tiny_clip, tiny_processor.tokenizer)


def test_a_processor_of_another_image_size_is_refused(tiny_clip, tiny_processor):
    other = CLIPProcessor(CLIPImageProcessorPil(), tiny_processor.tokenizer)
    with pytest.raises(ValueError, match="images of 224 pixels, `model` reads 32"):
        DualEncoder(tiny_clip, other)


def test_a_processor_of_a_larger_vocabulary_is_refused(tiny_clip, tiny_processor):
    _, other = build_tiny_clip(
        ["entirely different words about quantum chromodynamics"] * 2, image_size=32, patch_size=8
    )
    other.tokenizer.add_tokens([f"word{n}" for n in range(500)])
    with pytest.raises(ValueError, match="tokens, `model` embeds"):
        DualEncoder(tiny_clip, other)


def test_a_model_that_pools_elsewhere_is_refused(tiny_clip, tiny_processor):
    tiny_clip.text_model.eos_token_id = 7
    with pytest.raises(ValueError, match="eos_token_id = 7"):
        DualEncoder(tiny_clip, tiny_processor)


def test_pooling_at_the_highest_id_is_refused_where_that_is_a_word(tiny_clip, tiny_processor):
    processor = copy.deepcopy(tiny_processor)
    processor.tokenizer.add_tokens(["extra"])
    tiny_clip.text_model.resize_token_embeddings(len(processor.tokenizer))
    tiny_clip.text_model.eos_token_id = 2
    with pytest.raises(ValueError, match="eos_token_id = 2"):
        DualEncoder(tiny_clip, processor)


def test_load_refuses_what_is_no_clip(tmp_path):
    BertConfig().save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="'bert' model"):
        load_clip(tmp_path)


def test_a_saved_folder_loads_with_transformers_alone(tiny_clip, tiny_processor, tmp_path):
    tiny_clip.save_pretrained(tmp_path)
    tiny_processor.save_pretrained(tmp_path)
    model, processor = load_clip(tmp_path)
    assert isinstance(CLIPModel.from_pretrained(tmp_path).config, CLIPConfig)
    assert AutoTokenizer.from_pretrained(tmp_path)("a cat") == processor.tokenizer("a cat")
    with torch.no_grad():
        ours = DualEncoder(tiny_clip, tiny_processor).encode_texts(TEXTS)
        assert torch.allclose(DualEncoder(model, processor).encode_texts(TEXTS), ours, atol=1e-5)


def test_a_rounding_error_beyond_the_range_is_allowed():
    encoding.check_images(torch.tensor([-1e-7, 1.0000001]).expand(1, 3, 4, 2))
    with pytest.raises(ValueError, match=r"\[0, 1\], got values"):
        encoding.check_images(torch.full((1, 3, 4, 4), 1.001))
