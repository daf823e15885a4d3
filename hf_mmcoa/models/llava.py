"""Give a LLaVA the robust vision tower of a fine-tuned CLIP; projector and language model stay as they are.

A tower that was fine-tuned to keep the features of the original (FARE, arXiv:2402.12336) can stand in for it in a model
that was trained on the original: the projector expects the features it was trained on, so the tower must have the same
layers and width and be read at the same place.
"""

from __future__ import annotations

from typing import Any, Literal, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..io import differences
from .vision_tower import check_layers, llava_parts, read_by, tower_config, vision_tower

Llava = TypeVar("Llava", bound=nn.Module)
ImageSize = Literal["same", "tower", "llava"]

POSITIONS = "embeddings.position_embedding.weight"

# Settings that both towers must share, beside the image size, for the projector to understand the new one.
SHARED = (
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_channels",
    "patch_size",
    "hidden_act",
    "layer_norm_eps",
)


def swap_vision_tower(llava: Llava, robust_clip: nn.Module, *, image_size: ImageSize = "same") -> Llava:
    """Load the weights of a CLIP's vision tower into a LLaVA, in place.

    Projector, language model, the layers and tokens that the LLaVA reads, data type, device, `requires_grad` and mode
    stay as they are. Nothing is shared with `robust_clip` afterwards. It is done in place because a copy of a language
    model would rarely fit beside it.

    Args:
        llava: transformers' LLaVA-type model whose tower is a CLIP: `LlavaForConditionalGeneration`,
            `LlavaNextForConditionalGeneration`, `VipLlavaForConditionalGeneration` and others with `vision_tower` and
            `multi_modal_projector`.
        robust_clip: a `CLIPModel` or `CLIPVisionModel` that was fine-tuned from the LLaVA's tower.
        image_size: what happens if the two read images of different sizes. "same": it is an error. "tower": the LLaVA
            reads the new tower's size from then on, with another number of image tokens; give its processor the CLIP's
            image processor (`processor.image_processor = clip_processor.image_processor`). "llava": the new tower's
            position embeddings are interpolated (bicubic) to the LLaVA's size, at which it was not trained to be
            robust.

    Returns:
        `llava` itself.

    Raises:
        TypeError: if one of the two has no vision tower of CLIP (a SigLIP, or an adapter that is not merged), or the
            LLaVA's tower is quantised or offloaded.
        ValueError: if the towers differ in architecture or, with "same", in image size; the text names the difference.

    Example:
        >>> swap_vision_tower(llava, robust_clip).generate(**inputs)  # doctest: +SKIP
    """
    if image_size not in ("same", "tower", "llava"):
        raise ValueError(f'`image_size` must be "same", "tower" or "llava", got {image_size!r}.')
    if llava_parts(llava) is None:
        raise TypeError(
            f"`llava` must have a `vision_tower` and a `multi_modal_projector`; {type(llava).__name__} lacks them."
        )
    tower, robust = vision_tower(llava), vision_tower(robust_clip)
    _check_weights(tower)
    _check_architecture(llava, tower, robust)
    weights = {name: weight.detach() for name, weight in robust.state_dict().items()}
    here, there = int(tower_config(tower).image_size), int(tower_config(robust).image_size)
    if here != there:
        if image_size == "same":
            patch = int(tower_config(tower).patch_size)
            raise ValueError(
                f"`llava` reads images of {here} pixels ({(here // patch) ** 2} patches), the tower of `robust_clip` "
                f'{there} ({(there // patch) ** 2}). `image_size="tower"` makes the LLaVA read {there} pixels, '
                f'`image_size="llava"` interpolates the tower\'s positions to {here}.'
            )
        if image_size == "tower":
            _read_size(llava, tower, there)
        else:
            weights[POSITIONS] = interpolated_positions(weights[POSITIONS], here // int(tower_config(tower).patch_size))
    tower.load_state_dict(weights)
    return llava


def interpolated_positions(positions: Tensor, side: int) -> Tensor:
    """Map position embeddings of a class token and a square grid, (1 + n * n, width), to (1 + side * side, width)."""
    old = round((len(positions) - 1) ** 0.5)
    grid = positions[1:].float().reshape(1, old, old, -1).permute(0, 3, 1, 2)  # (1, width, old, old)
    grid = F.interpolate(grid, (side, side), mode="bicubic", align_corners=False)
    return torch.cat([positions[:1], grid.flatten(2).squeeze(0).T.to(positions)])


def _check_weights(tower: nn.Module) -> None:
    """Raise TypeError if the tower's weights cannot be written to."""
    kinds = {f"{weight.device.type} {weight.dtype}" for weight in tower.parameters() if weight.is_meta}
    kinds |= {str(weight.dtype) for weight in tower.parameters() if not weight.is_floating_point()}
    if kinds:
        raise TypeError(
            f"the vision tower of `llava` has weights of type {', '.join(sorted(kinds))}, which are quantised or "
            "offloaded: load it with its tower in floating point and in memory, then swap."
        )


def _check_architecture(llava: nn.Module, tower: nn.Module, robust: nn.Module) -> None:
    """Raise ValueError, naming the differences, unless the LLaVA can read the new tower where it reads the old one."""
    one, other = ({name: getattr(tower_config(each), name) for name in SHARED} for each in (tower, robust))
    layers, _ = read_by(llava.config)
    if found := differences(one, other):
        raise ValueError(
            f"the tower of `robust_clip` cannot stand in for that of `llava`, which reads its hidden state "
            f"{', '.join(map(str, layers))}: {'; '.join(found)}. Take a CLIP fine-tuned from the LLaVA's tower."
        )
    check_layers(layers, one["num_hidden_layers"])


def _read_size(llava: nn.Module, tower: Any, size: int) -> None:
    """Make a LLaVA and its tower read images of another size; the new position embeddings are yet to be loaded.

    Raises:
        ValueError: if the LLaVA divides a picture into tiles of its size.
    """
    config: Any = llava.config
    if hasattr(config, "image_grid_pinpoints"):
        raise ValueError(
            f'`image_size="tower"`: {type(llava).__name__} divides pictures into tiles of '
            f"{tower.config.image_size} pixels (`image_grid_pinpoints`), not of {size}. "
            'Use `image_size="llava"`, which interpolates the tower\'s positions.'
        )
    embeddings = tower.embeddings
    old = embeddings.position_embedding.weight
    patches = (size // int(tower.config.patch_size)) ** 2
    embeddings.image_size, embeddings.num_patches, embeddings.num_positions = size, patches, patches + 1
    embeddings.position_embedding = nn.Embedding(patches + 1, old.shape[1], device=old.device, dtype=old.dtype)
    embeddings.position_embedding.weight.requires_grad_(old.requires_grad)
    embeddings.position_ids = torch.arange(patches + 1, device=old.device).expand(1, -1)
    for each in (tower.config, config.vision_config):
        each.image_size = size
    if hasattr(config, "image_seq_length"):
        config.image_seq_length = patches + read_by(config)[1]
