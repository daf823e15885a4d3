"""Interpolation between the weights of a pretrained and of a robust model (WiSE-FT, arXiv:2109.01903)."""

from __future__ import annotations

import copy
import math
from typing import Any

import torch
from torch import nn

from ..io import differences

# Settings that two models must share, beside the shapes of their weights, for a mixture to be meaningful.
_ARCHITECTURE = (
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "hidden_act",
    "layer_norm_eps",
    "projection_dim",
    "image_size",
    "patch_size",
    "vocab_size",
    "max_position_embeddings",
    "eos_token_id",
)


def interpolate(pretrained: nn.Module, robust: nn.Module, alpha: float) -> nn.Module:
    """Return the model with the weights (1 - alpha) pretrained + alpha robust; the temperature is mixed as a logarithm.

    Args:
        pretrained: a plain `CLIPModel` or `SiglipModel`.
        robust: a model of the same architecture; of an adapted model, pass the result of `merge`.
        alpha: 0 gives exactly `pretrained`, 1 exactly `robust`; values outside [0, 1] extrapolate.

    Returns:
        A copy of `pretrained` in its precision, in eval mode.

    Raises:
        ValueError: if alpha is not finite, or the models differ in architecture; the text says in what.

    Example:
        >>> from hf_mmcoa.testbed.tiny_clip import tiny_clip
        >>> one, two = (tiny_clip(["a cat"], image_size=8, patch_size=2, seed=seed)[0] for seed in (0, 1))
        >>> torch.equal(interpolate(one, two, 1.0).text_projection.weight, two.text_projection.weight)
        True
    """
    if not math.isfinite(alpha):
        raise ValueError(f"`alpha` must be a finite number, got {alpha}.")
    check_mixable(pretrained, robust)
    mixture = copy.deepcopy(pretrained).eval()
    target = robust.state_dict()
    with torch.no_grad():
        for name, weight in mixture.state_dict().items():
            if weight.is_floating_point():
                weight.lerp_(target[name].to(weight), alpha)  # exact at 0 and 1
    return mixture


def check_mixable(one: nn.Module, other: nn.Module) -> None:
    """Raise ValueError, naming the differences, unless the weights of two models may be averaged."""
    found = differences(_architecture(one), _architecture(other))
    if not found:
        shapes = [{name: tuple(weight.shape) for name, weight in model.state_dict().items()} for model in (one, other)]
        found = differences(*shapes)
    if found:
        shown = "; ".join(found[:5]) + ("; ..." if len(found) > 5 else "")
        raise ValueError(f"models of different architecture cannot be interpolated: {shown}.")


def _architecture(model: nn.Module) -> dict[str, Any]:
    config: Any = model.config
    parts = {"": config, "vision_config.": config.vision_config, "text_config.": config.text_config}
    return {
        f"{prefix}{name}": getattr(part, name)
        for prefix, part in parts.items()
        for name in _ARCHITECTURE
        if hasattr(part, name)
    }
