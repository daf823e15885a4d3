"""Checkpoints of each layout, built from small configs with random weights, converted and compared."""

from __future__ import annotations

import copy
import importlib.util
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import CLIPModel, CLIPTextModel, CLIPVisionModelWithProjection

from hf_mmcoa.cli import main
from hf_mmcoa.convert import layouts
from hf_mmcoa.convert.checkpoint import LIMIT, compare, convert
from hf_mmcoa.convert.layouts import identify, measure
from hf_mmcoa.convert.reference import ReferenceCLIP
from hf_mmcoa.models.encoder import DualEncoder, load_clip

VOCABULARY, CONTEXT, EMBED_DIM, IMAGE_SIZE, PATCH = 100, 16, 48, 32, 8
ACTIVATIONS = ["quick_gelu", "gelu"]


def _blocks(prefix: str, width: int, layers: int) -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {}
    for layer in range(layers):
        block = f"{prefix}.resblocks.{layer}"
        shapes |= {f"{block}.{norm}.{kind}": (width,) for norm in ("ln_1", "ln_2") for kind in ("weight", "bias")}
        shapes |= {f"{block}.attn.in_proj_weight": (3 * width, width), f"{block}.attn.in_proj_bias": (3 * width,)}
        shapes |= {f"{block}.attn.out_proj.weight": (width, width), f"{block}.attn.out_proj.bias": (width,)}
        shapes |= {f"{block}.mlp.c_fc.weight": (4 * width, width), f"{block}.mlp.c_fc.bias": (4 * width,)}
        shapes |= {f"{block}.mlp.c_proj.weight": (width, 4 * width), f"{block}.mlp.c_proj.bias": (width,)}
    return shapes


def openai_state_dict(
    width: int = 128, vision_layers: int = 2, text_layers: int = 1, vocabulary: int = VOCABULARY
) -> dict[str, torch.Tensor]:
    """OpenAI's layout, written out here and not taken from the code under test; large weights, so that all matters."""
    shapes = {
        "visual.class_embedding": (width,),
        "visual.positional_embedding": ((IMAGE_SIZE // PATCH) ** 2 + 1, width),
        "visual.conv1.weight": (width, 3, PATCH, PATCH),
        "visual.proj": (width, EMBED_DIM),
        "token_embedding.weight": (vocabulary, width),
        "positional_embedding": (CONTEXT, width),
        "text_projection": (width, EMBED_DIM),
        "logit_scale": (),
        **{
            f"{norm}.{kind}": (width,)
            for norm in ("visual.ln_pre", "visual.ln_post", "ln_final")
            for kind in ("weight", "bias")
        },
        **_blocks("visual.transformer", width, vision_layers),
        **_blocks("transformer", width, text_layers),
    }
    generator = torch.Generator().manual_seed(0)
    return {name: torch.randn(shape, generator=generator) / 4 for name, shape in shapes.items()}


def visual(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The image tower alone, as TeCoA, TGA-ZSR and FARE save it."""
    return {name.removeprefix("visual."): value for name, value in weights.items() if name.startswith("visual.")}


@pytest.fixture
def state_dict():
    return openai_state_dict()


@pytest.fixture(scope="module")
def openai_code():
    """OpenAI's own model code (package clip-anytorch), without its package, whose other modules want torchvision."""
    spec = importlib.util.find_spec("clip")
    if spec is None or spec.origin is None:
        pytest.skip("clip-anytorch is not installed")
    path = Path(spec.origin).with_name("model.py")
    spec = importlib.util.spec_from_file_location("openai_clip_model", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def base(tiny_clip, tiny_processor, tmp_path):
    """A CLIPModel folder with weights large enough for each to matter; returns it and its model."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for weight in tiny_clip.parameters():
            weight.copy_(torch.randn(weight.shape, generator=generator) / 3)
    folder = tmp_path / "base"
    tiny_clip.save_pretrained(folder)
    tiny_processor.save_pretrained(folder)
    return folder, tiny_clip


def fine_tuned(model: CLIPModel) -> dict[str, torch.Tensor]:
    """The base's weights in OpenAI's layout, each a little moved."""
    generator = torch.Generator().manual_seed(2)
    weights = layouts.to_openai(model.state_dict())
    return {name: value + torch.randn(value.shape, generator=generator) / 100 for name, value in weights.items()}


def written(folder: Path) -> bool:
    """Return True if anything but the sources was written, temporary folders included."""
    return any("out" in path.name for path in folder.iterdir())


# The other side


def test_the_reference_is_openais_own_model(openai_code, state_dict):
    model = openai_code.build_model(dict(state_dict)).float()
    with torch.no_grad():  # build_model rounds to half precision, as the archives are
        for name, weight in model.named_parameters():
            weight.copy_(state_dict[name])
    reference = ReferenceCLIP(state_dict, measure(state_dict, None, None))
    images = torch.randn(3, 3, IMAGE_SIZE, IMAGE_SIZE)
    texts = torch.randint(0, VOCABULARY - 1, (4, CONTEXT))
    texts[torch.arange(4), [1, 5, 9, 15]] = VOCABULARY - 1
    with torch.no_grad():
        torch.testing.assert_close(reference.encode_images(images), model.encode_image(images), rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(reference.encode_texts(texts), model.encode_text(texts), rtol=1e-4, atol=1e-4)
    assert reference.logit_scale == model.logit_scale.item()


def test_the_layout_is_openais_own(openai_code, state_dict):
    model = openai_code.build_model(dict(state_dict))
    assert {name: value.shape for name, value in model.state_dict().items()} == {
        name: value.shape for name, value in state_dict.items()
    }


def test_gelu_is_torchs(state_dict):
    """One layer's MLP, by hand: OpenCLIP's default is torch's exact GELU."""
    like = measure(state_dict, None, None).vision
    for activation, function in (("gelu", torch.nn.GELU()), ("quick_gelu", lambda x: x * torch.sigmoid(1.702 * x))):
        weights = dict(state_dict)
        for name in weights:
            if ".attn." in name:
                weights[name] = torch.zeros_like(weights[name])
        tower = layouts.Tower(**(vars(like) | {"activation": activation, "layers": 1}))
        hidden = torch.randn(1, 4, 128)
        block = "visual.transformer.resblocks.0"
        normed = torch.nn.functional.layer_norm(
            hidden, (128,), weights[f"{block}.ln_2.weight"], weights[f"{block}.ln_2.bias"]
        )
        inner = function(normed @ weights[f"{block}.mlp.c_fc.weight"].T + weights[f"{block}.mlp.c_fc.bias"])
        expected = hidden + inner @ weights[f"{block}.mlp.c_proj.weight"].T + weights[f"{block}.mlp.c_proj.bias"]
        reference = ReferenceCLIP(weights, measure(weights, tower, None))
        torch.testing.assert_close(reference._transformer(hidden, "visual.transformer", tower, None), expected)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_open_clip_loads_what_was_written(base, tmp_path, activation):
    """Runs only if open_clip_torch is installed; it needs torchvision, so no extra installs it."""
    open_clip = pytest.importorskip("open_clip")
    folder, _ = base
    set_activation(folder, activation)
    convert(folder, tmp_path / "out", to="open_clip")
    theirs = open_clip.create_model(f"local-dir:{tmp_path / 'out'}").eval()
    ours = CLIPModel.from_pretrained(folder).eval()
    images, texts = torch.randn(2, 3, 32, 32), torch.randint(0, ours.config.text_config.vocab_size - 1, (2, 16))
    texts[:, 7] = ours.config.text_config.vocab_size - 1
    with torch.no_grad():
        output = ours(pixel_values=images, input_ids=texts)
        torch.testing.assert_close(theirs.encode_image(images, normalize=True), output.image_embeds, rtol=0, atol=1e-4)
        torch.testing.assert_close(theirs.encode_text(texts, normalize=True), output.text_embeds, rtol=0, atol=1e-4)


def set_activation(folder: Path, activation: str) -> None:
    config = json.loads((folder / "config.json").read_text())
    for section in ("vision_config", "text_config"):
        config[section]["hidden_act"] = activation
    (folder / "config.json").write_text(json.dumps(config))


# Whole models in OpenAI's names


def _prefixed(prefix):
    return lambda weights: {prefix + name: value for name, value in weights.items()}


def _custom_text(weights):
    image = {name: value for name, value in weights.items() if name.startswith(("visual.", "logit_scale"))}
    return image | {f"text.{name}": value for name, value in weights.items() if name not in image}


WHOLE = {
    "plain": dict,
    "DataParallel": _prefixed("module."),
    "compiled": _prefixed("_orig_mod."),
    "both": _prefixed("_orig_mod.module."),
    "training": lambda weights: {
        "epoch": 3,
        "name": "run",
        "state_dict": _prefixed("module.")(weights),
        "optimizer": {},
    },
    "CustomTextCLIP": _custom_text,
    "old buffers": lambda weights: weights | {"attn_mask": torch.zeros(CONTEXT, CONTEXT)},
}


@pytest.mark.few(4)
@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("layout", WHOLE)
def test_a_whole_model_becomes_a_clip_model(state_dict, tmp_path, layout, activation):
    torch.save(WHOLE[layout](state_dict), tmp_path / "source.pt")
    done = convert(tmp_path / "source.pt", tmp_path / "out", activation=activation)
    assert done.parity.difference < 1e-5 and not done.from_base
    model = CLIPModel.from_pretrained(tmp_path / "out").eval()
    text_config, vision_config = model.config.text_config, model.config.vision_config
    assert text_config.hidden_act == vision_config.hidden_act == activation
    assert (text_config.eos_token_id, text_config.num_attention_heads) == (VOCABULARY - 1, 2)
    assert (vision_config.image_size, vision_config.patch_size, vision_config.num_attention_heads) == (32, 8, 2)
    assert model.config.projection_dim == EMBED_DIM and model.logit_scale.item() == state_dict["logit_scale"].item()
    like = measure(state_dict, None, None)
    tower = layouts.Tower(**(vars(like.vision) | {"activation": activation}))
    pixels = torch.randn(2, 3, 32, 32)
    expected = ReferenceCLIP(state_dict, measure(state_dict, tower, None)).encode_images(pixels)
    with torch.no_grad():
        got = model.visual_projection(model.vision_model(pixel_values=pixels).pooler_output)
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-4)
    assert not list((tmp_path / "out").glob("*.bin"))


def test_safetensors_and_half_precision_are_read(state_dict, tmp_path):
    save_file({name: value.half() for name, value in state_dict.items()}, tmp_path / "source.safetensors")
    convert(tmp_path / "source.safetensors", tmp_path / "out", activation="gelu")
    weights = CLIPModel.from_pretrained(tmp_path / "out").state_dict()
    assert {value.dtype for value in weights.values()} == {torch.float32}
    torch.testing.assert_close(weights["text_projection.weight"], state_dict["text_projection"].half().float().T)


def test_openais_own_weights_are_quick_gelu(state_dict, tmp_path):
    numbers = {"input_resolution": 32, "context_length": CONTEXT, "vocab_size": VOCABULARY}
    torch.save(state_dict | {name: torch.tensor(value) for name, value in numbers.items()}, tmp_path / "source.pt")
    done = convert(tmp_path / "source.pt", tmp_path / "out")
    assert done.layout == "OpenAI's CLIP" and done.activations[0].startswith("quick_gelu (OpenAI")


def test_an_activation_that_nothing_says_is_asked_for(state_dict, tmp_path):
    torch.save(state_dict, tmp_path / "source.pt")
    with pytest.raises(ValueError, match=r"--activation: quick_gelu for OpenAI.*--base"):
        convert(tmp_path / "source.pt", tmp_path / "out")
    assert not written(tmp_path)


def test_an_image_that_patches_do_not_fill(state_dict, tmp_path):
    torch.save(state_dict, tmp_path / "source.pt")
    convert(tmp_path / "source.pt", tmp_path / "out", activation="gelu", image_size=35)
    assert CLIPModel.from_pretrained(tmp_path / "out").config.vision_config.image_size == 35
    with pytest.raises(ValueError, match=r"`image_size` 48 makes 6 patches of 8 pixels a side.*for 4"):
        convert(tmp_path / "source.pt", tmp_path / "out2", activation="gelu", image_size=48)


@pytest.mark.parametrize(("width", "heads"), [(768, 12), (1024, 16), (1280, 16), (1408, 16), (1664, 16), (1792, 16)])
def test_heads_are_openclips(width, heads):
    with torch.device("meta"):
        shapes = {name: torch.empty(value.shape) for name, value in openai_state_dict(64).items()}
        shapes["visual.class_embedding"] = torch.empty(width)
        shapes["token_embedding.weight"] = torch.empty(49408, 1280)
        found = measure(shapes, None, None)
    assert (found.vision.heads, found.text.heads) == (heads, 20)


# One tower


def tecoa(weights):
    """As finetuning.py and TGA-ZSR.py save it: `best_acc1` is a numpy number, the prompts are empty."""
    return {
        "epoch": 1,
        "state_dict": {},
        "add_prompter": {"prompt": torch.empty(1, 0, 768)},
        "vision_encoder_state_dict": visual(weights),
        "best_acc1": np.mean([40.0, 41.0]),
        "optimizer": {"state": {0: {"momentum_buffer": torch.zeros(3)}}, "param_groups": [{"lr": 1e-5}]},
    }


TOWERS = {
    "FARE": visual,
    "TeCoA": tecoa,
    "wrapped": lambda weights: _prefixed("module.model.")(visual(weights)),
    "with prefix": lambda weights: {name: value for name, value in weights.items() if name.startswith("visual.")},
}


@pytest.mark.few(3)
@pytest.mark.parametrize("layout", TOWERS)
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_an_image_tower_gets_the_rest_of_its_base(base, tmp_path, layout, activation):
    folder, model = base
    set_activation(folder, activation)
    weights = fine_tuned(model)
    torch.save(TOWERS[layout](weights), tmp_path / "source.pth.tar")
    done = convert(tmp_path / "source.pth.tar", tmp_path / "out", base=folder)
    assert done.from_base == ("text tower", "text projection", "logit scale") and not done.notes
    assert done.activations == (f"{activation} (--base)",) * 2
    converted, processor = load_clip(tmp_path / "out")
    expected = layouts.to_transformers(weights)
    for name, value in converted.state_dict().items():
        theirs = expected if name.startswith("vis") else model.state_dict()
        assert torch.equal(value, theirs[name]), name
    assert DualEncoder(converted, processor).encode_texts(["a cat", "a dog"]).shape == (2, 32)


def test_the_activation_given_is_the_sources_and_not_the_bases(base, tmp_path):
    folder, model = base
    torch.save(visual(fine_tuned(model)), tmp_path / "source.pt")
    convert(tmp_path / "source.pt", tmp_path / "out", base=folder, activation="gelu")
    config = CLIPModel.from_pretrained(tmp_path / "out").config
    assert (config.vision_config.hidden_act, config.text_config.hidden_act) == ("gelu", "quick_gelu")


def test_a_tower_alone_needs_its_base(state_dict, tmp_path):
    torch.save(visual(state_dict), tmp_path / "source.pt")
    with pytest.raises(ValueError, match=r"and no text tower, text projection, logit scale. Name with --base"):
        convert(tmp_path / "source.pt", tmp_path / "out")


def test_a_base_of_other_sizes_is_refused(base, state_dict, tmp_path):
    torch.save(visual(state_dict), tmp_path / "source.pt")
    with pytest.raises(ValueError, match=r"not of the model.*vision width is 32 there and 128"):
        convert(tmp_path / "source.pt", tmp_path / "out", base=base[0])


def test_a_base_that_it_was_not_fine_tuned_from_is_noted(base, tmp_path):
    folder, model = base
    torch.manual_seed(0)
    weights = {name: torch.randn_like(value) for name, value in visual(fine_tuned(model)).items()}
    torch.save(weights, tmp_path / "source.pt")
    done = convert(tmp_path / "source.pt", tmp_path / "out", base=folder)
    assert "is the source really fine-tuned from it?" in done.notes[0]


def test_a_higher_resolution_than_the_bases_is_no_contradiction(base, tmp_path):
    folder, model = base
    weights = visual(fine_tuned(model))
    weights["positional_embedding"] = torch.randn(6**2 + 1, 32)
    torch.save(weights, tmp_path / "source.pt")
    convert(tmp_path / "source.pt", tmp_path / "out", base=folder)
    converted, processor = load_clip(tmp_path / "out")
    assert converted.config.vision_config.image_size == 48 == processor.image_processor.crop_size["height"]


@pytest.mark.parametrize("place", ["state_dict", "add_prompter"])
def test_a_visual_prompt_is_not_dropped_in_silence(base, tmp_path, place):
    torch.save(tecoa(fine_tuned(base[1])) | {place: {"prompt": torch.ones(1, 3, 768)}}, tmp_path / "source.pt")
    with pytest.raises(ValueError, match=rf"visual prompt.*{place}.prompt"):
        convert(tmp_path / "source.pt", tmp_path / "out", base=base[0])


@pytest.mark.parametrize(
    ("model_class", "parts"),
    [(CLIPTextModel, ("text tower",)), (CLIPVisionModelWithProjection, ("image tower", "image projection"))],
)
def test_a_tower_in_transformers_layout(base, tmp_path, model_class, parts):
    """LEAF's text encoders are used that way."""
    folder, model = base
    tower = model_class.from_pretrained(folder)
    with torch.no_grad():
        for weight in tower.parameters():
            weight.mul_(1.01)
    tower.save_pretrained(tmp_path / "source")
    done = convert(tmp_path / "source", tmp_path / "out", base=folder)
    assert done.parts == parts and len(done.from_base) == 5 - len(parts)
    converted = CLIPModel.from_pretrained(tmp_path / "out").state_dict()
    moved = {name for name, value in model.state_dict().items() if not torch.equal(value, converted[name])}
    assert moved and all(name.startswith("text_model" if "text tower" in parts else "vis") for name in moved)


# Folders


def test_a_clip_model_folder_gets_its_processor_and_its_pooling(base, tmp_path):
    """LEAF's folders have weights and config alone; CLIP's first configs have an end of text of 2."""
    folder, model = base
    model.config.text_config.eos_token_id = 2
    model.save_pretrained(tmp_path / "leaf")
    done = convert(tmp_path / "leaf", tmp_path / "out", processor=folder)
    assert done.activations == ("quick_gelu (config.json)",) * 2 and not done.notes
    converted, processor = load_clip(tmp_path / "out")
    assert converted.config.text_config.eos_token_id == processor.tokenizer.eos_token_id
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in converted.state_dict().items())


def test_a_tokenizer_that_ends_texts_elsewhere_is_refused(base, state_dict, tmp_path):
    """The source pools at the highest id of a text, and a token added behind the end would be higher."""
    folder, model = base
    _, processor = load_clip(folder)
    processor.tokenizer.add_tokens(["<new>"])
    processor.save_pretrained(tmp_path / "processor")
    torch.save(fine_tuned(model), tmp_path / "source.pt")
    arguments = {"base": folder, "processor": tmp_path / "processor"}
    with pytest.raises(ValueError, match="highest id of a text"):
        convert(tmp_path / "source.pt", tmp_path / "out", **arguments)
    with pytest.raises(ValueError, match="they do not belong together"):
        convert(folder, tmp_path / "out", processor=tmp_path / "processor")


@pytest.mark.parametrize("role", ["base", "processor"])
def test_a_folder_without_its_tokenizer_is_refused(base, tmp_path, role):
    """transformers would build a tokenizer of two tokens, and texts would be pooled at the second."""
    folder, model = base
    for file in folder.glob("*token*"):
        file.unlink()
    torch.save(fine_tuned(model), tmp_path / "source.pt")
    with pytest.raises(ValueError, match=r"base' has no tokenizer. Name a folder with --processor"):
        convert(tmp_path / "source.pt", tmp_path / "out", activation="gelu", **{role: folder})
    assert not written(tmp_path)


def test_a_clip_models_own_end_of_text_stays(base, tmp_path):
    folder, model = base
    model.config.text_config.eos_token_id = model.text_model.eos_token_id = 50
    model.save_pretrained(tmp_path / "source")
    with pytest.raises(ValueError, match="model` pools at token 50"):
        convert(tmp_path / "source", tmp_path / "out", processor=folder)
    convert(tmp_path / "source", tmp_path / "out")
    assert CLIPModel.from_pretrained(tmp_path / "out").config.text_config.eos_token_id == 50


def test_without_a_tokenizer_it_says_so(base, tmp_path):
    base[1].save_pretrained(tmp_path / "leaf")
    done = convert(tmp_path / "leaf", tmp_path / "out")
    assert "no tokenizer was written" in done.notes[0] and (tmp_path / "out" / "preprocessor_config.json").exists()


def test_a_folder_keeps_its_own_processor(base, tmp_path):
    folder, _ = base
    done = convert(folder, tmp_path / "out")
    assert (
        not done.notes
        and load_clip(tmp_path / "out")[1].tokenizer.get_vocab() == load_clip(folder)[1].tokenizer.get_vocab()
    )


def test_a_processor_of_another_model_is_refused(base, state_dict, tmp_path):
    torch.save(state_dict, tmp_path / "source.pt")
    with pytest.raises(ValueError, match="they do not belong together"):
        convert(tmp_path / "source.pt", tmp_path / "out", activation="gelu", processor=base[0])
    assert not written(tmp_path)


def test_sharded_weights_are_read(base, tmp_path):
    _, model = base
    model.save_pretrained(tmp_path / "sharded", max_shard_size="100KB")
    assert len(list((tmp_path / "sharded").glob("*.safetensors"))) > 1
    convert(tmp_path / "sharded", tmp_path / "out")
    weights = CLIPModel.from_pretrained(tmp_path / "out").state_dict()
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in weights.items())


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_to_open_clip_and_back_is_the_same_model(base, tmp_path, activation):
    folder, model = base
    set_activation(folder, activation)
    done = convert(folder, tmp_path / "open_clip", to="open_clip")
    assert done.parity.difference < 1e-5
    config = json.loads((tmp_path / "open_clip" / "open_clip_config.json").read_text())
    assert config["model_cfg"]["quick_gelu"] == (activation == "quick_gelu")
    assert (config["model_cfg"]["vision_cfg"]["head_width"], config["model_cfg"]["text_cfg"]["heads"]) == (8, 4)
    weights = load_file(tmp_path / "open_clip" / "open_clip_model.safetensors")
    assert weights["visual.proj"].shape == (32, 32) and weights["text_projection"].is_contiguous()
    assert torch.equal(weights["visual.proj"], model.visual_projection.weight.T)

    convert(tmp_path / "open_clip", tmp_path / "back", processor=folder)
    back = CLIPModel.from_pretrained(tmp_path / "back")
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in back.state_dict().items())
    sizes = layouts.architecture_of(CLIPModel.from_pretrained(folder).config)
    assert layouts.architecture_of(back.config) == sizes and sizes.vision.activation == activation


def test_epsilon_and_mlp_width_survive_openclips_config():
    tower = {"width": 704, "layers": 1, "heads": 11, "mlp_width": 1568, "activation": "gelu", "layer_norm_eps": 1e-6}
    assert int(704 * (1568 / 704)) != 1568  # the plain ratio would lose one
    sizes = layouts.Architecture(
        vision=layouts.Tower(**tower),
        text=layouts.Tower(**(tower | {"layer_norm_eps": 1e-5})),
        image_size=32,
        patch_size=8,
        vocab_size=9,
        context_length=7,
        embed_dim=5,
    )
    assert layouts.architecture_of_open_clip(layouts.open_clip_config(sizes)) == sizes


@pytest.fixture
def open_clip_folder(base, tmp_path):
    """A folder as OpenCLIP writes it, and a function that changes its configuration."""
    convert(base[0], tmp_path / "source", to="open_clip")

    def change(*keys, value):
        file = tmp_path / "source" / "open_clip_config.json"
        config = section = json.loads(file.read_text())
        for key in keys[:-1]:
            section = section[key]
        section[keys[-1]] = value
        file.write_text(json.dumps(config))
        return tmp_path / "source"

    return change


def test_openclips_statistics_reach_the_image_processor(open_clip_folder, base, tmp_path):
    folder = open_clip_folder("preprocess_cfg", "mean", value=[0.5, 0.5, 0.5])
    convert(folder, tmp_path / "out", base=base[0])
    assert list(load_clip(tmp_path / "out")[1].image_processor.image_mean) == [0.5, 0.5, 0.5]


@pytest.mark.parametrize(
    ("keys", "value", "text"),
    [
        (("model_cfg", "text_cfg", "pool_type"), "last", "`pool_type` is not 'argmax'"),
        (("model_cfg", "vision_cfg", "pool_type"), "avg", "`pool_type` is not 'tok'"),
        (("model_cfg", "text_cfg", "no_causal_mask"), True, "no_causal_mask = True"),
        (("model_cfg", "vision_cfg", "ls_init_value"), 0.1, "ls_init_value"),
        (("model_cfg", "multimodal_cfg"), {"width": 4}, "multimodal_cfg"),
        (("model_cfg", "vision_cfg", "layers"), 3, "vision layers is 3 there and 2 in the weights"),
        (("preprocess_cfg", "resize_mode"), "squash", "--processor"),
    ],
)
def test_what_a_clip_model_cannot_do_is_refused(open_clip_folder, tmp_path, keys, value, text):
    with pytest.raises(ValueError, match=text):
        convert(open_clip_folder(*keys, value=value), tmp_path / "out")
    assert not written(tmp_path)


def test_options_without_effect_are_accepted(open_clip_folder, tmp_path):
    for key, value in {"patch_dropout": 0.5, "attentional_pool": False, "pos_embed_type": "learnable"}.items():
        folder = open_clip_folder("model_cfg", "vision_cfg", key, value=value)
    assert convert(folder, tmp_path / "out").parity.difference < 1e-5


def test_the_activation_given_overrules_openclips_config(open_clip_folder, tmp_path):
    """Weights fine-tuned from OpenAI's were published without `quick_gelu` (open_clip, issue 771)."""
    folder = open_clip_folder("model_cfg", "quick_gelu", value=False)
    assert convert(folder, tmp_path / "out").activations[0] == "gelu (open_clip_config.json)"
    assert convert(folder, tmp_path / "out2", activation="quick_gelu").activations[0] == "quick_gelu (--activation)"


@pytest.mark.parametrize(
    ("section", "key", "value", "text"),
    [
        ("text_config", "hidden_act", "gelu", "one activation for both"),
        ("text_config", "eos_token_id", 5, "highest id"),
        ("vision_config", "hidden_act", "relu", "`hidden_act` is 'relu'"),
    ],
)
def test_what_openclip_cannot_do_is_refused(base, tmp_path, section, key, value, text):
    file = base[0] / "config.json"
    config = json.loads(file.read_text())
    config[section][key] = value
    file.write_text(json.dumps(config))
    with pytest.raises(ValueError, match=text):
        convert(base[0], tmp_path / "out", to="open_clip")
    assert not written(tmp_path)


def test_only_a_clip_model_becomes_openclips(state_dict, base, tmp_path):
    torch.save(state_dict, tmp_path / "source.pt")
    with pytest.raises(ValueError, match="converts a CLIPModel folder"):
        convert(tmp_path / "source.pt", tmp_path / "out", to="open_clip")
    with pytest.raises(ValueError, match="`activation` belongs to `to='clip'`"):
        convert(base[0], tmp_path / "out", to="open_clip", activation="gelu")


# The comparison refuses


def _swapped(weights):
    weights = dict(weights)
    for name in list(weights):
        if "q_proj" in name:
            twin = name.replace("q_proj", "k_proj")
            weights[name], weights[twin] = weights[twin], weights[name]
    return weights


def _changed(name, change):
    return lambda weights: weights | {name: change(weights[name])}


MISTAKES = {
    "query and key swapped": _swapped,
    "a projection not transposed": _changed("visual_projection.weight", lambda w: w.T),
    "the other projection": _changed("text_projection.weight", lambda w: w.T),
    "the temperature": _changed("logit_scale", lambda w: w + 0.001),
    "one position": _changed("text_model.embeddings.position_embedding.weight", lambda w: w.flip(0)),
    "not a number": _changed("logit_scale", lambda w: w * math.nan),
}


@pytest.mark.few(3)
@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_in_the_weights_is_not_written(base, tmp_path, monkeypatch, mistake):
    folder, model = base
    torch.save(fine_tuned(model), tmp_path / "source.pt")
    right = layouts.to_transformers
    monkeypatch.setattr(layouts, "to_transformers", lambda weights: MISTAKES[mistake](right(weights)))
    with pytest.raises(ValueError, match=r"embeddings differ.*Nothing was written"):
        convert(tmp_path / "source.pt", tmp_path / "out", base=folder)
    assert not written(tmp_path)


@pytest.mark.few(3)
@pytest.mark.parametrize("field", ["activation", "heads", "layer_norm_eps"])
@pytest.mark.parametrize("tower", ["vision", "text"])
def test_a_mistake_in_the_config_is_not_written(base, tmp_path, monkeypatch, tower, field):
    folder, model = base
    torch.save(fine_tuned(model), tmp_path / "source.pt")
    wrong = {"activation": "gelu", "heads": 2, "layer_norm_eps": 0.1}
    right = layouts.clip_config

    def mistaken(architecture, token_ids):
        changed = copy.copy(getattr(architecture, tower))
        object.__setattr__(changed, field, wrong[field])
        architecture = copy.copy(architecture)
        object.__setattr__(architecture, tower, changed)
        return right(architecture, token_ids)

    monkeypatch.setattr(layouts, "clip_config", mistaken)
    with pytest.raises(ValueError, match="embeddings differ"):
        convert(tmp_path / "source.pt", tmp_path / "out", base=folder)


def test_pooling_at_another_token_is_not_written(state_dict, tmp_path, monkeypatch):
    torch.save(state_dict, tmp_path / "source.pt")
    right = layouts.clip_config
    monkeypatch.setattr(layouts, "clip_config", lambda sizes, ids: right(sizes, ids | {"eos_token_id": 7}))
    with pytest.raises(ValueError, match="embeddings differ"):
        convert(tmp_path / "source.pt", tmp_path / "out", activation="gelu")


@pytest.mark.parametrize("mistake", ["quick_gelu", "head_width"])
def test_a_mistake_in_openclips_config_is_not_written(base, tmp_path, monkeypatch, mistake):
    right = layouts.open_clip_config

    def mistaken(architecture):
        config = right(architecture)
        if mistake == "quick_gelu":
            return config | {"quick_gelu": False}
        return config | {"vision_cfg": config["vision_cfg"] | {"head_width": 16}}

    monkeypatch.setattr(layouts, "open_clip_config", mistaken)
    with pytest.raises(ValueError, match="embeddings differ"):
        convert(base[0], tmp_path / "out", to="open_clip")
    assert not written(tmp_path)


def test_the_limit_is_that_of_the_largest_difference(state_dict):
    """One coordinate of one text tower's projection moved until the difference is near the limit."""
    sizes = measure(state_dict, None, None)
    ours = ReferenceCLIP(state_dict, sizes)
    assert compare(ours, ours, sizes, VOCABULARY - 1).difference == 0
    moved = ReferenceCLIP(state_dict | {"logit_scale": state_dict["logit_scale"] + 2 * LIMIT}, sizes)
    parity = compare(ours, moved, sizes, VOCABULARY - 1)
    assert parity.difference == parity.logit_scale == pytest.approx(2 * LIMIT, rel=1e-2)
    longer = ReferenceCLIP(state_dict | {"visual.proj": state_dict["visual.proj"] * 1.01}, sizes)
    assert compare(ours, longer, sizes, VOCABULARY - 1).images == pytest.approx(0.01, rel=1e-3)  # same unit vectors


def test_a_short_feature_that_points_elsewhere_counts(state_dict):
    """Relative to the largest feature the difference is 1e-5; the unit vectors are orthogonal."""

    class Encoder:
        logit_scale = 0.0

        def __init__(self, short):
            self.short = short

        def encode_images(self, pixel_values):
            return torch.tensor([[100.0, 0.0], self.short])

        def encode_texts(self, input_ids):
            return torch.ones(1, 2)

    parity = compare(Encoder([0.001, 0.0]), Encoder([0.0, 0.001]), measure(state_dict, None, None), VOCABULARY - 1)
    assert (parity.images, parity.texts, parity.difference) == (1, 0, 1)


# What is refused


def test_an_unknown_layout_lists_what_is_missing_and_left_over(tmp_path):
    torch.save({"stem.weight": torch.ones(2), "head.bias": torch.ones(2)}, tmp_path / "source.pt")
    with pytest.raises(ValueError) as error:
        convert(tmp_path / "source.pt", tmp_path / "out")
    text = str(error.value)
    assert "missing: visual.class_embedding" in text and "more" in text
    assert "left over: stem.weight, head.bias" in text


@pytest.mark.parametrize("name", ["visual.transformer.resblocks.0.attn.in_proj_bias", "ln_final.weight", "visual.proj"])
def test_a_weight_that_is_missing_is_named(state_dict, name):
    del state_dict[name]
    if name == "visual.proj":  # a part of its own, so another model can give it
        assert "image projection" not in identify(state_dict).parts
        return
    with pytest.raises(ValueError, match=rf"missing: {name}\nleft over: nothing"):
        identify(state_dict)


def test_a_layer_that_is_missing_is_named(state_dict):
    for name in [name for name in state_dict if name.startswith("visual.transformer.resblocks.0.")]:
        del state_dict[name]
    with pytest.raises(ValueError, match=r"missing: visual.transformer.resblocks.0.*and 4 more"):
        identify(state_dict)


def test_a_tower_without_layers_is_no_tower(state_dict):
    for name in [name for name in state_dict if name.startswith("transformer.")]:
        del state_dict[name]
    with pytest.raises(ValueError, match=r"missing: transformer.resblocks.0"):
        identify(state_dict)


@pytest.mark.parametrize(
    "name", ["visual.transformer.resblocks.0.ls_1.gamma", "logit_bias", "visual.prompt_pos_embedding"]
)
def test_a_weight_without_a_place_is_named(state_dict, name):
    with pytest.raises(ValueError, match=rf"missing: nothing\nleft over: {name}"):
        identify(state_dict | {name: torch.ones(1)})


def test_a_resnet_is_called_one():
    with pytest.raises(ValueError, match="ResNet CLIP"):
        identify({"visual.attnpool.c_proj.weight": torch.ones(1), "visual.layer1.0.conv1.weight": torch.ones(1)})


def test_positions_that_are_no_square_are_named(state_dict, tmp_path):
    state_dict["visual.positional_embedding"] = torch.ones(19, 128)
    torch.save(state_dict, tmp_path / "source.pt")
    with pytest.raises(ValueError, match=r"position_embedding.weight is \(19, 128\), the others need \(17, 128\)"):
        convert(tmp_path / "source.pt", tmp_path / "out", activation="gelu")


def test_shapes_that_contradict_each_other_are_named(state_dict, tmp_path):
    state_dict["text_projection"] = torch.ones(128, 40)
    torch.save(state_dict, tmp_path / "source.pt")
    with pytest.raises(ValueError, match=r"visual_projection.weight is \(48, 128\), the others need \(40, 128\)"):
        convert(tmp_path / "source.pt", tmp_path / "out", activation="gelu")


class _Malicious:
    """A pickle of it runs a command when it is read by an ordinary unpickler."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return exec, (f"open({str(self.path)!r}, 'w').close()",)


@pytest.mark.parametrize("zipped", [True, False])
def test_a_pickle_that_would_run_code_is_refused_and_does_not_run(state_dict, tmp_path, zipped):
    touched = tmp_path / "touched"
    torch.save(
        state_dict | {"logit_scale": _Malicious(touched)}, tmp_path / "source.pt", _use_new_zipfile_serialization=zipped
    )
    with pytest.raises(
        ValueError, match=r"weights_only=True.*GLOBAL exec was not an allowed.*by default\)\. Where.*save_file"
    ):
        convert(tmp_path / "source.pt", tmp_path / "out", activation="gelu")
    assert not touched.exists() and not written(tmp_path)
    torch.load(tmp_path / "source.pt", weights_only=False)
    assert touched.exists()  # it would have


def test_what_stands_in_for_numpy_does_not_stay_allowed(base, tmp_path):
    torch.save(tecoa(fine_tuned(base[1])), tmp_path / "source.pt")
    before = set(torch.serialization.get_safe_globals())
    convert(tmp_path / "source.pt", tmp_path / "out", base=base[0])
    assert set(torch.serialization.get_safe_globals()) == before


def test_a_torchscript_archive_is_refused(tmp_path):
    torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), tmp_path / "ViT-B-32.pt")
    with pytest.raises(ValueError, match=r"TorchScript archive.*openai/clip-vit-base-patch32"):
        convert(tmp_path / "ViT-B-32.pt", tmp_path / "out")


@pytest.mark.parametrize("content", [b"", b"hello, world", b"PK\x03\x04"])
@pytest.mark.parametrize("name", ["source.pt", "source.safetensors"])
def test_a_broken_file_is_refused(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=name):
        convert(tmp_path / name, tmp_path / "out")


@pytest.mark.parametrize("content", [[1, 2], {"epoch": 1, "args": "x"}, {}, {"state_dict": {"a": None}}])
def test_what_is_no_state_dict_is_refused(tmp_path, content):
    torch.save(content, tmp_path / "source.pt")
    with pytest.raises(ValueError, match="state dict"):
        convert(tmp_path / "source.pt", tmp_path / "out")


@pytest.mark.parametrize("role", ["source", "base", "processor"])
@pytest.mark.parametrize("file", ["config.json", "tokenizer_config.json"])
def test_a_folder_that_brings_code_is_refused(base, state_dict, tmp_path, role, file):
    folder, _ = base
    config = json.loads((folder / file).read_text())
    (folder / file).write_text(json.dumps(config | {"auto_map": {"AutoModel": "modeling.Evil"}}))
    torch.save(state_dict, tmp_path / "source.pt")
    arguments = {"source": tmp_path / "source.pt", "activation": "gelu", role: folder}
    with pytest.raises(ValueError, match=r"asks for code of its own.*modeling.Evil"):
        convert(output=tmp_path / "out", **arguments)
    assert not written(tmp_path)


def test_another_kind_of_model_is_refused(base, tmp_path):
    config = json.loads((base[0] / "config.json").read_text())
    (base[0] / "config.json").write_text(json.dumps(config | {"model_type": "siglip"}))
    with pytest.raises(ValueError, match="a 'siglip' model"):
        convert(base[0], tmp_path / "out")


def test_a_source_that_is_not_there(tmp_path):
    with pytest.raises(FileNotFoundError, match="hf download"):
        convert(tmp_path / "nowhere", tmp_path / "out")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"open_clip_config.json"):
        convert(tmp_path / "empty", tmp_path / "out")


def test_an_output_that_exists_is_left_alone(state_dict, tmp_path):
    torch.save(state_dict, tmp_path / "source.pt")
    (tmp_path / "out").mkdir()
    convert(tmp_path / "source.pt", tmp_path / "out", activation="gelu")  # an empty folder is as good as none
    before = sorted((path.name, path.stat().st_mtime_ns) for path in (tmp_path / "out").iterdir())
    with pytest.raises(FileExistsError, match="`output`"):
        convert(tmp_path / "source.pt", tmp_path / "out", activation="gelu")
    assert before == sorted((path.name, path.stat().st_mtime_ns) for path in (tmp_path / "out").iterdir())


def test_arguments_are_checked(tmp_path):
    with pytest.raises(ValueError, match="`to` must be one of clip, open_clip, got 'onnx'"):
        convert(tmp_path, tmp_path / "out", to="onnx")
    with pytest.raises(ValueError, match="`activation` must be one of quick_gelu, gelu, got 'relu'"):
        convert(tmp_path, tmp_path / "out", activation="relu")


# The command


def test_the_command_prints_what_was_decided(base, tmp_path, capsys):
    folder, model = base
    torch.save(tecoa(fine_tuned(model)), tmp_path / "source.pt")
    assert main(["convert", str(tmp_path / "source.pt"), str(tmp_path / "out"), "--base", str(folder)]) == 0
    printed = capsys.readouterr().out
    for text in ("'vision_encoder_state_dict'", "quick_gelu (--base)", "text projection, logit scale", "limit 0.0001"):
        assert text in printed
    assert printed.splitlines()[-1] == str(tmp_path / "out")
    assert main(["convert", str(tmp_path / "out"), str(tmp_path / "open_clip"), "--to", "open_clip"]) == 0
    assert (tmp_path / "open_clip" / "open_clip_model.safetensors").exists()


def test_the_command_fails_in_one_line_and_writes_nothing(state_dict, tmp_path, capsys):
    torch.save(state_dict, tmp_path / "source.pt")
    assert main(["convert", str(tmp_path / "source.pt"), str(tmp_path / "out")]) == 1
    assert capsys.readouterr().err.startswith("hf-mmcoa convert: a state dict does not state its activation")
    assert not written(tmp_path)


def test_the_commands_options_reach_the_conversion(base, state_dict, tmp_path):
    torch.save(state_dict, tmp_path / "source.pt")
    arguments = ["--activation", "gelu", "--image-size", "35"]
    assert main(["convert", str(tmp_path / "source.pt"), str(tmp_path / "out"), *arguments]) == 0
    config = CLIPModel.from_pretrained(tmp_path / "out").config.vision_config
    assert (config.hidden_act, config.image_size) == ("gelu", 35)
    folder, model = base
    model.save_pretrained(tmp_path / "leaf")
    arguments = [str(tmp_path / "leaf"), str(tmp_path / "with-tokenizer"), "--processor", str(folder)]
    assert main(["convert", *arguments]) == 0
    assert (tmp_path / "with-tokenizer" / "tokenizer_config.json").exists()
