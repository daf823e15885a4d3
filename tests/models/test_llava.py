"""A LLaVA gets the vision tower of another CLIP: what is swapped, what stays, and what is refused by name."""

from __future__ import annotations

import copy

import pytest
import torch
from transformers import (
    CLIPConfig,
    CLIPModel,
    CLIPVisionModel,
    LlamaConfig,
    LlavaNextConfig,
    LlavaNextForConditionalGeneration,
    VipLlavaConfig,
    VipLlavaForConditionalGeneration,
)

from hf_mmcoa import swap_vision_tower
from hf_mmcoa.models.llava import interpolated_positions
from hf_mmcoa.models.lora import add_lora
from hf_mmcoa.models.vision_tower import tower_reader, vision_tower
from hf_mmcoa.testbed.tiny_clip import tiny_clip as build_tiny_clip
from hf_mmcoa.testbed.tiny_llava import question, tiny_llava

WORDS = ("a", "cat", "dog")
LARGER = {"image_size": 48, "patch_size": 8, "width": 32}  # 36 patches; the fixture's CLIP has 16


@pytest.fixture
def robust(tiny_clip: CLIPModel) -> CLIPModel:
    """The CLIP after a training that moved every weight of its tower."""
    robust = copy.deepcopy(tiny_clip)
    generator = torch.Generator().manual_seed(1)
    for weight in robust.vision_model.parameters():
        weight.data += 0.1 * torch.randn(weight.shape, generator=generator)
    return robust


def with_config(clip: CLIPModel, **changes: object) -> CLIPModel:
    """An untrained CLIP of the same configuration but for its vision tower's `changes`."""
    config = CLIPConfig(**clip.config.to_dict())
    for name, value in changes.items():
        setattr(config.vision_config, name, value)
    return CLIPModel(config)


@pytest.mark.parametrize("layer", [-2, -1, 1, [-1, 1]], ids=str)
@pytest.mark.parametrize("strategy", ["default", "full"])
def test_the_llava_reads_the_new_tower_where_it_read_the_old_one(tiny_clip, robust, images, layer, strategy):
    llava = tiny_llava(tiny_clip, WORDS, vision_feature_layer=layer, vision_feature_select_strategy=strategy)
    before = {name: weight.clone() for name, weight in llava.state_dict().items()}
    assert swap_vision_tower(llava, robust) is llava
    moved = {name for name, weight in llava.state_dict().items() if not torch.equal(weight, before[name])}
    assert moved == {name for name in before if ".vision_tower." in name}
    states = robust.vision_model(pixel_values=images, output_hidden_states=True).hidden_states
    layers = layer if isinstance(layer, list) else [layer]
    read = torch.cat([states[each] for each in layers], -1)[:, 0 if strategy == "full" else 1 :]
    torch.testing.assert_close(tower_reader(llava)(images), read)
    torch.testing.assert_close(
        torch.stack(llava.model.get_image_features(images).pooler_output), tower_reader(llava, projected=True)(images)
    )
    asked = question(llava, len(images))
    assert llava(input_ids=asked, pixel_values=images).logits.shape[:2] == asked.shape


def test_type_gradients_and_the_given_clip_stay(tiny_clip, robust, images):
    llava = tiny_llava(tiny_clip, WORDS).to(torch.bfloat16)
    llava.model.vision_tower.requires_grad_(False)
    swap_vision_tower(llava, robust)
    weight = vision_tower(llava).embeddings.patch_embedding.weight
    given = robust.vision_model.embeddings.patch_embedding.weight
    assert weight.dtype == torch.bfloat16 and not weight.requires_grad
    torch.testing.assert_close(weight, given.detach().bfloat16())
    weight.data.zero_()
    assert given.abs().sum() > 0 and given.requires_grad


def test_a_tower_alone_is_taken_too(tiny_clip, robust, images):
    tower = CLIPVisionModel(robust.config.vision_config)
    vision_tower(tower).load_state_dict(robust.vision_model.state_dict())
    llava = tiny_llava(tiny_clip, WORDS)
    swap_vision_tower(llava, tower)
    torch.testing.assert_close(tower_reader(llava)(images), tower_reader(robust)(images))


def test_images_of_another_size_are_refused_with_both_ways_out(tiny_clip):
    larger, _ = build_tiny_clip(["a cat"], **LARGER)
    with pytest.raises(ValueError, match=r'32 pixels \(16 patches\).* 48 \(36\).*"tower".*"llava"'):
        swap_vision_tower(tiny_llava(tiny_clip, WORDS), larger)


def test_the_llava_reads_the_towers_size(tiny_clip, tmp_path):
    larger, _ = build_tiny_clip(["a cat"], **LARGER)
    llava = swap_vision_tower(tiny_llava(tiny_clip, WORDS), larger, image_size="tower")
    assert llava.config.image_seq_length == 36
    images = torch.rand(2, 3, 48, 48)
    torch.testing.assert_close(tower_reader(llava)(images), tower_reader(larger)(images))
    llava.save_pretrained(tmp_path)
    loaded = type(llava).from_pretrained(tmp_path).eval()
    asked = question(loaded, 2)
    torch.testing.assert_close(
        loaded(input_ids=asked, pixel_values=images).logits, llava(input_ids=asked, pixel_values=images).logits
    )


def test_positions_are_interpolated_to_the_llavas_size(tiny_clip, images):
    larger, _ = build_tiny_clip(["a cat"], **LARGER)
    llava = swap_vision_tower(tiny_llava(tiny_clip, WORDS), larger, image_size="llava")
    assert llava.config.image_seq_length == 16
    # transformers interpolates the positions of the larger tower likewise when it is shown a smaller picture.
    shown = larger.vision_model(pixel_values=images, output_hidden_states=True, interpolate_pos_encoding=True)
    torch.testing.assert_close(tower_reader(llava)(images), shown.hidden_states[-2][:, 1:])


def test_interpolated_positions_keep_the_class_token_and_the_corners_apart():
    positions = torch.tensor([[9.0], [0.0], [1.0], [0.0], [1.0]])  # class token, then a grid of 2 x 2
    grid = interpolated_positions(positions, 4)
    assert grid.shape == (17, 1) and grid[0] == 9
    rows = grid[1:, 0].view(4, 4)
    assert (rows == rows[0]).all() and (rows[0].diff() > 0).all()
    assert torch.equal(interpolated_positions(positions, 2), positions)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"num_hidden_layers": 3}, "hidden state -2: num_hidden_layers: 2 and 3"),
        ({"hidden_size": 64}, "hidden_size: 32 and 64"),
        ({"patch_size": 16}, "patch_size: 8 and 16"),
        ({"hidden_act": "gelu"}, "hidden_act: 'quick_gelu' and 'gelu'"),
        ({"intermediate_size": 96}, "intermediate_size: 128 and 96"),
    ],
)
def test_another_architecture_is_refused_by_its_differences(tiny_clip, changes, named):
    with pytest.raises(ValueError, match=named):
        swap_vision_tower(tiny_llava(tiny_clip, WORDS), with_config(tiny_clip, **changes))


def test_what_has_no_tower_of_clip_is_refused_by_name(tiny_clip, tiny_siglip):
    llava = tiny_llava(tiny_clip, WORDS)
    with pytest.raises(TypeError, match="SiglipModel is a Siglip"):
        swap_vision_tower(llava, tiny_siglip)
    with pytest.raises(TypeError, match="CLIPModel lacks them"):
        swap_vision_tower(tiny_clip, tiny_clip)
    with pytest.raises(TypeError, match="merge it first"):
        swap_vision_tower(llava, add_lora(tiny_clip, "image"))
    with pytest.raises(ValueError, match='"tower" or "llava", got \'mine\''):
        swap_vision_tower(llava, tiny_clip, image_size="mine")
    with pytest.raises(TypeError, match=r"meta.* quantised or offloaded"):
        swap_vision_tower(copy.deepcopy(llava).to("meta"), tiny_clip)


def test_a_hidden_layer_that_does_not_exist_is_refused(tiny_clip):
    with pytest.raises(ValueError, match="hidden states -3 to 2; there is no -4"):
        tiny_llava(tiny_clip, WORDS, vision_feature_layer=-4)


def text_config() -> LlamaConfig:
    return LlamaConfig(
        vocab_size=10, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=2,
    )  # fmt: skip


def test_llava_next_keeps_its_tiles(tiny_clip, robust, images):
    vision = tiny_clip.config.vision_config
    config = LlavaNextConfig(
        vision_config=vision.to_dict(),
        text_config=text_config().to_dict(),
        image_grid_pinpoints=[[32, 64], [64, 32]],
        image_token_index=3,
    )
    llava = LlavaNextForConditionalGeneration(config).eval()
    swap_vision_tower(llava, robust)
    torch.testing.assert_close(tower_reader(llava)(images), tower_reader(robust)(images))
    larger, _ = build_tiny_clip(["a cat"], **LARGER)
    with pytest.raises(ValueError, match=r"tiles of 32 pixels.*not of 48"):
        swap_vision_tower(llava, larger, image_size="tower")


def test_vip_llava_reads_several_layers(tiny_clip, robust, images):
    config = VipLlavaConfig(
        vision_config=tiny_clip.config.vision_config.to_dict(),
        text_config=text_config().to_dict(),
        vision_feature_layers=[-2, 1],
        image_token_index=3,
    )
    llava = swap_vision_tower(VipLlavaForConditionalGeneration(config).eval(), robust)
    assert tower_reader(llava)(images).shape == (4, 16, 64)
    features = llava.model.get_image_features(images)
    features = getattr(features, "pooler_output", features)
    features = torch.stack(list(features))
    torch.testing.assert_close(tower_reader(llava, projected=True)(images), features)
