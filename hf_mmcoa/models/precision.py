"""Weights in 16 bits: training and attacks need 32.

transformers loads a checkpoint in the type that it was stored in. An optimizer step of a few 1e-6 is smaller than the
spacing of bfloat16 around most weights and is lost, and so is a perturbation of 1/255 around most pixels.
"""

from __future__ import annotations

import copy
import logging

import torch
from torch import nn

from .sharding import is_sharded

HALF = (torch.bfloat16, torch.float16)

logger = logging.getLogger(__name__)


def half_type(model: nn.Module) -> str | None:
    """Return "bfloat16" or "float16" if the model has weights of that type, else None.

    Weights that a wrapper has spread over processes count as none, for it keeps its own copy in 32 bits, and so do
    those of a quantised model, which cannot be converted.
    """
    if is_sharded(model) or getattr(model, "is_quantized", False):
        return None
    return next((str(each.dtype).removeprefix("torch.") for each in model.parameters() if each.dtype in HALF), None)


def train_in_full_precision(model: nn.Module) -> nn.Module:
    """Turn a model with 16-bit weights, in place, into one with float32 weights, and say so in the log.

    Frozen weights too: attacks and teachers differentiate through them. No value changes.

    Returns:
        The same model.
    """
    if (found := half_type(model)) is not None:
        logger.warning(
            "the model's weights are %s, in which most steps of an optimizer are lost in rounding: they are trained, "
            "attacked and saved as float32. Mixed precision is `bf16=True` or `fp16=True`. Load the model with "
            "`from_pretrained(..., dtype=torch.float32)` to silence this.",
            found,
        )
        model.float()
    return model


def measured_in_full_precision(model: nn.Module) -> nn.Module:
    """Return the model to attack: the given one, or a float32 copy of one with 16-bit weights, with a warning."""
    if (found := half_type(model)) is None:
        return model
    logger.warning(
        "the model's weights are %s, in which a perturbation of 1/255 is lost in rounding: a float32 copy of it is "
        "attacked and measured, with the same weights. Load the model with `from_pretrained(..., dtype=torch.float32)` "
        "to silence this.",
        found,
    )
    training = model.training
    return copy.deepcopy(model).float().train(training)
