"""The names of CLIP's weights in OpenAI's layout and in transformers', and the sizes that their shapes determine.

OpenCLIP, TeCoA, PMG-AFT, TGA-ZSR and FARE use OpenAI's names, for the whole model or for the image encoder alone; LEAF
publishes both layouts. So one list of weights has two spellings, and a conversion is one pass over that list.
docs/convert.md has the table of layouts, with the source of each fact.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Iterable, Mapping
from typing import Any, Literal, get_args

import torch
from torch import Tensor
from transformers import CLIPConfig

Activation = Literal["quick_gelu", "gelu"]
ACTIVATIONS: tuple[Activation, ...] = get_args(Activation)

PARTS = ("image tower", "image projection", "text tower", "text projection", "logit scale")

# The weights do not show how a width is divided into heads. CLIP has a width of 64 per head; these are all exceptions
# among OpenCLIP's ViTs (`head_width` in its model_configs: ViT-H, ViT-g, ViT-bigG, ViT-e). Its text encoders have none.
HEAD_WIDTH = 64
VISION_HEAD_WIDTHS = {1280: 80, 1408: 88, 1664: 104, 1792: 112}

# Entries that are no weights: buffers that some releases saved, and the three numbers in OpenAI's archives.
_NOT_WEIGHTS = re.compile(r"(.*\.)?(attn_mask|position_ids)|input_resolution|context_length|vocab_size")
_OPENAI_NUMBERS = frozenset({"input_resolution", "context_length", "vocab_size"})
_LAYER = re.compile(r"(visual\.|vision_model\.)?(?:text_model\.)?(?:transformer\.resblocks|encoder\.layers)\.(\d+)\.")
_WRAPPERS = ("module.", "_orig_mod.", "model.")  # DataParallel and DDP; torch.compile; RobustVLM's ClipVisionModel


@dataclasses.dataclass(frozen=True)
class Weight:
    """One weight with its names in both layouts."""

    part: str
    openai: str
    transformers: tuple[str, ...]  # three for OpenAI's packed query, key and value
    transposed: bool = False  # OpenAI multiplies by its projections from the right, a Linear by the transpose


def weights_of(vision_layers: int, text_layers: int) -> list[Weight]:
    """Return every weight of a ViT CLIP with these numbers of layers."""
    image, text = PARTS[0], PARTS[2]
    vision = "vision_model.embeddings"
    weights = [
        Weight(image, "visual.class_embedding", (f"{vision}.class_embedding",)),
        Weight(image, "visual.positional_embedding", (f"{vision}.position_embedding.weight",)),
        Weight(image, "visual.conv1.weight", (f"{vision}.patch_embedding.weight",)),
        Weight(text, "token_embedding.weight", ("text_model.embeddings.token_embedding.weight",)),
        Weight(text, "positional_embedding", ("text_model.embeddings.position_embedding.weight",)),
        Weight(PARTS[1], "visual.proj", ("visual_projection.weight",), transposed=True),
        Weight(PARTS[3], "text_projection", ("text_projection.weight",), transposed=True),
        Weight(PARTS[4], "logit_scale", ("logit_scale",)),
    ]
    modules = [
        (image, "visual.ln_pre", ("vision_model.pre_layrnorm",)),  # transformers' spelling
        (image, "visual.ln_post", ("vision_model.post_layernorm",)),
        (text, "ln_final", ("text_model.final_layer_norm",)),
    ]
    for part, layers, ours, theirs in (
        (image, vision_layers, "visual.transformer.resblocks", "vision_model.encoder.layers"),
        (text, text_layers, "transformer.resblocks", "text_model.encoder.layers"),
    ):
        for layer in range(layers):
            block, twin = f"{ours}.{layer}", f"{theirs}.{layer}"
            packed = tuple(f"{twin}.self_attn.{name}_proj" for name in "qkv")
            weights += [
                Weight(part, f"{block}.attn.in_proj_{kind}", tuple(f"{name}.{kind}" for name in packed))
                for kind in ("weight", "bias")
            ]
            modules += [
                (part, f"{block}.attn.out_proj", (f"{twin}.self_attn.out_proj",)),
                (part, f"{block}.ln_1", (f"{twin}.layer_norm1",)),
                (part, f"{block}.ln_2", (f"{twin}.layer_norm2",)),
                (part, f"{block}.mlp.c_fc", (f"{twin}.mlp.fc1",)),
                (part, f"{block}.mlp.c_proj", (f"{twin}.mlp.fc2",)),
            ]
    for part, openai, (twin,) in modules:
        weights += [Weight(part, f"{openai}.{kind}", (f"{twin}.{kind}",)) for kind in ("weight", "bias")]
    return weights


def to_transformers(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename and reshape the weights of a whole CLIP from OpenAI's layout to that of `CLIPModel`."""
    found: dict[str, Tensor] = {}
    for weight in weights_of(*_layers(weights)):
        tensor = weights[weight.openai].T if weight.transposed else weights[weight.openai]
        count = len(weight.transformers)
        found |= zip(weight.transformers, tensor.chunk(count) if count > 1 else [tensor], strict=True)
    return found


def to_openai(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename and reshape weights of `CLIPModel`, all or some, to OpenAI's layout; absent parts stay absent."""
    found: dict[str, Tensor] = {}
    for weight in weights_of(*_layers(weights)):
        if weight.transformers[0] in weights:
            tensors = [weights[name] for name in weight.transformers]
            tensor = torch.cat(tensors) if len(tensors) > 1 else tensors[0]
            found[weight.openai] = tensor.T if weight.transposed else tensor
    return found


def _layers(names: Iterable[str]) -> tuple[int, int]:
    """Return the numbers of layers of the image and of the text encoder, in either spelling."""
    found = [match for match in map(_LAYER.match, names) if match]
    counts = [{int(match[2]) for match in found if bool(match[1]) == vision} for vision in (True, False)]
    return max(counts[0], default=-1) + 1, max(counts[1], default=-1) + 1


@dataclasses.dataclass(frozen=True)
class Layout:
    """The layout that a state dict was found to have, with its weights."""

    name: str
    weights: dict[str, Tensor]  # in OpenAI's names, float32
    parts: tuple[str, ...]  # those of PARTS that are present
    by_openai: bool  # True if it has the three numbers that only OpenAI's archives have


def identify(state_dict: Mapping[str, Any]) -> Layout:
    """Recognise the layout by the names of the weights, and bring the weights into OpenAI's layout.

    Args:
        state_dict: names to tensors, of a whole model or of one encoder; the names may carry the prefixes of
            DataParallel (`module.`), torch.compile (`_orig_mod.`) or OpenCLIP's CustomTextCLIP (`text.`).

    Raises:
        ValueError: if it is no ViT CLIP, or only nearly one; the text lists missing and unexpected names.
    """
    wrapped = _wrapping(state_dict)
    original = {name.removeprefix(wrapped): name for name in state_dict}
    by_openai = original.keys() >= _OPENAI_NUMBERS
    original = {name: given for name, given in original.items() if not _NOT_WEIGHTS.fullmatch(name)}
    spelling: Literal["openai", "transformers"] = "openai"
    name = "OpenAI's CLIP" if by_openai else "OpenAI's and OpenCLIP's names"
    alone = {
        "embeddings.token_embedding.weight": "text_model.",
        "embeddings.patch_embedding.weight": "vision_model.",
        "conv1.weight": "visual.",
    }
    for marker, prefix in alone.items():
        if marker in original:
            original = {prefix + key: given for key, given in original.items()}
    if any(key.startswith(("text_model.", "vision_model.")) for key in original):
        spelling, name = "transformers", "transformers' names"
    elif "text.token_embedding.weight" in original:
        original = {key.removeprefix("text."): given for key, given in original.items()}
        name = "OpenCLIP's CustomTextCLIP"
    # At least one layer per encoder, so that the error names the first one if all are missing.
    expected = weights_of(*(max(1, count) for count in _layers(original)))
    spelt = {weight: (weight.openai,) if spelling == "openai" else weight.transformers for weight in expected}
    parts = tuple(part for part in PARTS if any(w.part == part and set(spelt[w]) & original.keys() for w in expected))
    wanted = [weight for weight in expected if weight.part in (parts or PARTS)]
    missing = [key for weight in wanted for key in spelt[weight] if key not in original]
    known = {key for keys in spelt.values() for key in keys}
    left_over = [given for key, given in original.items() if key not in known]
    if missing or left_over:
        resnet = any("attnpool." in key for key in left_over)
        raise ValueError(
            f"the state dict has no layout that is known here. Closest: {name}"
            f"{' (' + ', '.join(parts) + ')' if parts else ''}.\n"
            f"missing: {_listed(missing)}\nleft over: {_listed(left_over)}\n"
            + ("It is a ResNet CLIP, and `CLIPModel` is a ViT." if resnet else "docs/convert.md lists the layouts.")
        )
    tensors = {key: torch.as_tensor(state_dict[given]).float() for key, given in original.items()}
    return Layout(name, to_openai(tensors) if spelling == "transformers" else tensors, parts, by_openai)


def _wrapping(names: Iterable[str]) -> str:
    names, prefix = list(names), ""
    while more := next((one for one in _WRAPPERS if names and all(n.startswith(prefix + one) for n in names)), ""):
        prefix += more
    return prefix


def _listed(names: list[str], shown: int = 8) -> str:
    if not names:
        return "nothing"
    more = f" and {len(names) - shown} more" if len(names) > shown else ""
    return ", ".join(map(str, names[:shown])) + more


# Sizes


@dataclasses.dataclass(frozen=True, kw_only=True)
class Tower:
    """The sizes of one transformer. No weight determines heads, activation and epsilon."""

    width: int
    layers: int
    heads: int
    mlp_width: int
    activation: Activation
    layer_norm_eps: float = 1e-5


@dataclasses.dataclass(frozen=True, kw_only=True)
class Architecture:
    """The sizes of a ViT CLIP: everything about it but its weights."""

    vision: Tower
    text: Tower
    image_size: int
    patch_size: int
    vocab_size: int
    context_length: int
    embed_dim: int


def measure(
    weights: Mapping[str, Tensor], vision: Tower | None, text: Tower | None, image_size: int | None = None
) -> Architecture:
    """Return the architecture that the shapes of a whole CLIP's weights determine.

    Args:
        weights: in OpenAI's names.
        vision: supplies heads, activation and epsilon of the image encoder. `None` takes OpenCLIP's heads, and the
            caller must set the activation with `dataclasses.replace`.
        text: the same for the text encoder.
        image_size: height and width of the images, in pixels; needed only if the patches do not fill the image (384
            pixels in patches of 14, say).

    Raises:
        ValueError: if `image_size` does not give as many patches as there are positions.
    """
    vision_layers, text_layers = _layers(weights)
    patch_size = weights["visual.conv1.weight"].shape[-1]
    grid = math.isqrt(len(weights["visual.positional_embedding"]) - 1)  # and one position for the class token
    image_size = image_size or patch_size * grid
    if image_size // patch_size != grid:
        raise ValueError(
            f"`image_size` {image_size} makes {image_size // patch_size} patches of {patch_size} pixels a side, the "
            f"weights have positions for {grid}. Leave it out for {patch_size * grid}."
        )
    vision_width = len(weights["visual.class_embedding"])
    text_width = weights["token_embedding.weight"].shape[1]
    head_width = VISION_HEAD_WIDTHS.get(vision_width, HEAD_WIDTH)
    return Architecture(
        vision=_tower(weights, "visual.transformer", vision_width, vision_layers, vision, head_width),
        text=_tower(weights, "transformer", text_width, text_layers, text, HEAD_WIDTH),
        image_size=image_size,
        patch_size=patch_size,
        vocab_size=len(weights["token_embedding.weight"]),
        context_length=len(weights["positional_embedding"]),
        embed_dim=weights["text_projection"].shape[1],
    )


def _tower(
    weights: Mapping[str, Tensor], prefix: str, width: int, layers: int, like: Tower | None, head_width: int
) -> Tower:
    return Tower(
        width=width,
        layers=layers,
        heads=like.heads if like else max(1, width // head_width),
        mlp_width=len(weights[f"{prefix}.resblocks.0.mlp.c_fc.weight"]),
        activation=like.activation if like else "quick_gelu",
        layer_norm_eps=like.layer_norm_eps if like else 1e-5,
    )


# transformers' config


def tower_of(config: Any) -> Tower:
    """Return the tower that a CLIPTextConfig or CLIPVisionConfig describes.

    Raises:
        ValueError: if its activation is neither QuickGELU nor GELU.
    """
    if config.hidden_act not in ACTIVATIONS:
        raise ValueError(f"`hidden_act` is {config.hidden_act!r}; CLIP's are {' and '.join(ACTIVATIONS)}.")
    return Tower(
        width=config.hidden_size,
        layers=config.num_hidden_layers,
        heads=config.num_attention_heads,
        mlp_width=config.intermediate_size,
        activation=config.hidden_act,
        layer_norm_eps=config.layer_norm_eps,
    )


def architecture_of(config: CLIPConfig) -> Architecture:
    """Return the architecture that a CLIPConfig describes."""
    vision: Any = config.vision_config
    text: Any = config.text_config
    return Architecture(
        vision=tower_of(vision),
        text=tower_of(text),
        image_size=vision.image_size,
        patch_size=vision.patch_size,
        vocab_size=text.vocab_size,
        context_length=text.max_position_embeddings,
        embed_dim=int(config.projection_dim or 0),
    )


def clip_config(architecture: Architecture, token_ids: Mapping[str, int]) -> CLIPConfig:
    """Return the CLIPConfig of an architecture.

    Args:
        architecture: sizes of the model.
        token_ids: `bos_token_id`, `eos_token_id` and, if known, `pad_token_id`.
    """

    def section(tower: Tower) -> dict[str, Any]:
        return {
            "hidden_size": tower.width,
            "num_hidden_layers": tower.layers,
            "num_attention_heads": tower.heads,
            "intermediate_size": tower.mlp_width,
            "hidden_act": tower.activation,
            "layer_norm_eps": tower.layer_norm_eps,
            "projection_dim": architecture.embed_dim,
        }

    return CLIPConfig(
        vision_config=section(architecture.vision)
        | {"image_size": architecture.image_size, "patch_size": architecture.patch_size},
        text_config=section(architecture.text)
        | {"vocab_size": architecture.vocab_size, "max_position_embeddings": architecture.context_length}
        | dict(token_ids),
        projection_dim=architecture.embed_dim,
    )


# OpenCLIP's config

# Options of OpenCLIP's CLIPVisionCfg, CLIPTextCfg and model that do not change the embeddings at the value given here,
# or at any value (...): they act only in training or only with another option, or they choose a tokenizer.
_INERT: dict[str, Any] = {
    **dict.fromkeys(("patch_dropout", "custom_text", "init_logit_scale", "output_dict", "cast_dtype"), ...),
    **dict.fromkeys(("attn_pooler_queries", "attn_pooler_heads", "pad_id", "eos_id", "hf_tokenizer_name"), ...),
    **dict.fromkeys(("tokenizer_kwargs", "tokenizer_mode"), ...),
    "pos_embed_type": "learnable",
    "proj_type": "linear",
    "block_type": "default",
}


def architecture_of_open_clip(config: Mapping[str, Any]) -> Architecture:
    """Return the architecture that the `model_cfg` of an open_clip_config.json describes.

    Raises:
        ValueError: if it has an option that `CLIPModel` cannot express; the text names the option.
    """
    config = dict(config)
    vision, text = dict(config.pop("vision_cfg", {})), dict(config.pop("text_cfg", {}))
    quick, embed_dim = config.pop("quick_gelu", False), config.pop("embed_dim", 0)

    def tower(section: dict[str, Any], width: int, pooling: str) -> dict[str, Any]:
        width = section.pop("width", width)
        eps = (section.pop("norm_kwargs", None) or {}).get("eps", 1e-5)
        if section.pop("pool_type", pooling) != pooling:
            raise ValueError(f"open_clip_config.json: `pool_type` is not {pooling!r}, and CLIPModel has no other.")
        return {
            "width": width,
            "layers": section.pop("layers", 12),
            "mlp_width": int(width * section.pop("mlp_ratio", 4.0)),
            "activation": "quick_gelu" if quick else "gelu",
            "layer_norm_eps": eps,
        }

    towers = tower(vision, 768, "tok"), tower(text, 512, "argmax")
    architecture = Architecture(
        vision=Tower(heads=towers[0]["width"] // vision.pop("head_width", HEAD_WIDTH), **towers[0]),
        text=Tower(heads=text.pop("heads", 8), **towers[1]),
        image_size=vision.pop("image_size", 224),
        patch_size=vision.pop("patch_size", 16),
        vocab_size=text.pop("vocab_size", 49408),
        context_length=text.pop("context_length", 77),
        embed_dim=embed_dim,
    )
    other = [
        f"{name} = {value!r}"
        for section in (config, vision, text)
        for name, value in section.items()
        if value and _INERT.get(name) not in (..., value)
    ]
    if other:
        raise ValueError(f"open_clip_config.json asks for what CLIPModel cannot do: {', '.join(other)}.")
    return architecture


def open_clip_config(architecture: Architecture) -> dict[str, Any]:
    """Return the `model_cfg` of open_clip_config.json for an architecture.

    Raises:
        ValueError: if the encoders' activations differ: OpenCLIP has one switch for both.
    """
    vision, text = architecture.vision, architecture.text
    if vision.activation != text.activation:
        raise ValueError(
            f"OpenCLIP has one activation for both towers; this model's image tower has {vision.activation}, its text "
            f"tower {text.activation}."
        )

    def section(tower: Tower) -> dict[str, Any]:
        ratio = tower.mlp_width / tower.width
        if int(tower.width * ratio) != tower.mlp_width:  # OpenCLIP rounds down, and floats may fall short
            ratio = (tower.mlp_width + 0.5) / tower.width
        norm = {} if tower.layer_norm_eps == 1e-5 else {"norm_kwargs": {"eps": tower.layer_norm_eps}}
        return {"width": tower.width, "layers": tower.layers, "mlp_ratio": ratio} | norm

    return {
        "embed_dim": architecture.embed_dim,
        "quick_gelu": vision.activation == "quick_gelu",
        "vision_cfg": section(vision)
        | {
            "head_width": vision.width // vision.heads,
            "image_size": architecture.image_size,
            "patch_size": architecture.patch_size,
        },
        "text_cfg": section(text)
        | {
            "heads": text.heads,
            "vocab_size": architecture.vocab_size,
            "context_length": architecture.context_length,
        },
    }
