"""The hidden states of CLIP's vision tower that a language model reads: a CLIP's, a tower's alone or a LLaVA's."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from peft import PeftModel
from torch import Tensor, nn
from transformers import CLIPVisionConfig

LLAVA_LAYER = -2  # transformers' default of a LLaVA (arXiv:2304.08485): the tokens before the last layer


class TowerReader(nn.Module):
    """Map pixel values to the tokens that a language model reads of a vision tower.

    Args:
        tower: CLIP's vision transformer, as `vision_tower` returns it.
        layers: indices of the hidden states, 0 for the embeddings, negative from the last layer; several are
            concatenated along the width.
        class_token: keep the class token in front of the patch tokens.
        projector: maps the tokens into the language model's input space; None leaves them as they are.
    """

    def __init__(
        self, tower: nn.Module, layers: Sequence[int], class_token: bool = False, projector: nn.Module | None = None
    ) -> None:
        super().__init__()
        self.tower, self.layers, self.class_token, self.projector = tower, tuple(layers), class_token, projector
        check_layers(self.layers, int(tower_config(tower).num_hidden_layers))

    @property
    def image_size(self) -> int:
        """Return the height and width of the images that the tower reads, in pixels."""
        return int(tower_config(self.tower).image_size)

    def forward(self, pixel_values: Tensor) -> Tensor:
        """Map (batch, 3, size, size), normalised, to (batch, tokens, width), float32; differentiable."""
        states = self.tower(pixel_values=pixel_values, output_hidden_states=True).hidden_states
        tokens = torch.cat([states[layer] for layer in self.layers], dim=-1)
        tokens = tokens if self.class_token else tokens[:, 1:]
        return (tokens if self.projector is None else self.projector(tokens)).float()


def tower_reader(model: nn.Module, *, layer: int | None = None, projected: bool = False) -> TowerReader:
    """Return the reader of a model's vision tower; it shares the model's weights.

    Args:
        model: a `CLIPModel`, a `CLIPVisionModel`, or a LLaVA on a CLIP tower, which says itself which layers and
            tokens it reads.
        layer: hidden state that is read; the LLaVA's own when None, the one before the last layer without a LLaVA.
        projected: read the tokens behind the LLaVA's projector.

    Raises:
        TypeError: if the model has no vision tower of CLIP, or `projected` is asked of one without a projector.
        ValueError: if the tower has no such layer.
    """
    whole = llava_parts(model)
    if whole is None:
        if projected:
            raise TypeError(f"`projected` needs a LLaVA: {type(model).__name__} has no projector.")
        return TowerReader(vision_tower(model), (LLAVA_LAYER if layer is None else layer,))
    config: Any = model.config
    layers, class_token = read_by(config)
    projector = whole.multi_modal_projector if projected else None
    chosen = layers if layer is None else (layer,)
    return TowerReader(vision_tower(model), chosen, class_token, projector)  # type: ignore[arg-type]


def vision_tower(model: nn.Module) -> nn.Module:
    """Return CLIP's vision transformer inside a CLIP, a vision model, or a LLaVA.

    Raises:
        TypeError: if there is none; the text names what there is.
    """
    if isinstance(model, PeftModel):
        raise TypeError("`model` holds an adapter: merge it first (hf_mmcoa.models.lora.merge).")
    whole = llava_parts(model)
    tower: Any = model if whole is None else whole.vision_tower
    while hasattr(tower, "vision_model"):  # nested once or twice, depending on the release of transformers
        tower = tower.vision_model
    if not isinstance(getattr(tower, "config", None), CLIPVisionConfig) or not hasattr(tower, "embeddings"):
        raise TypeError(
            f"a vision tower of CLIP is needed; that of {type(model).__name__} is a {type(tower).__name__}, whose "
            "hidden states have another layout."
        )
    return tower


def tower_config(tower: nn.Module) -> Any:
    """Return the configuration of a vision transformer."""
    return tower.config


def llava_parts(model: nn.Module) -> Any:
    """Return the part of a LLaVA-type model that holds `vision_tower` and `multi_modal_projector`; None for others."""
    for part in (model, getattr(model, "model", None)):
        if part is not None and hasattr(part, "vision_tower") and hasattr(part, "multi_modal_projector"):
            return part
    return None


def read_by(config: Any) -> tuple[tuple[int, ...], bool]:
    """Return the hidden states that a LLaVA reads, by its configuration, and whether it reads the class token."""
    layers = config.vision_feature_layer if hasattr(config, "vision_feature_layer") else config.vision_feature_layers
    strategy = getattr(config, "vision_feature_select_strategy", "default")  # VipLLaVA has no choice
    return (layers,) if isinstance(layers, int) else tuple(layers), strategy == "full"


def check_layers(layers: Sequence[int], num_layers: int) -> None:
    """Raise ValueError unless all indices are hidden states of a tower: -L - 1 to L, 0 for its embeddings."""
    if wrong := [layer for layer in layers if not -num_layers - 1 <= layer <= num_layers]:
        raise ValueError(
            f"`layer`: the tower has {num_layers} layers, so hidden states {-num_layers - 1} to {num_layers}; "
            f"there is no {wrong[0]}."
        )
