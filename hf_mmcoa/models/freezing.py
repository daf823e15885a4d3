"""Which weights train: towers, last blocks and temperature, and frozen copies of a model."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

from peft import PeftModel
from torch import nn

from .architectures import towers_of

if TYPE_CHECKING:
    pass

TOWERS = ("image", "text")


def set_trainable(model: nn.Module, image: bool, text: bool, logit_scale: bool) -> nn.Module:
    """Freeze the towers (each with its projection) and the temperature (with SigLIP's bias) that are not to train, in
    place."""
    kind = towers_of(model)
    parts = dict.fromkeys(kind.modules["image"], image) | dict.fromkeys(kind.modules["text"], text)
    for name, trainable in (parts | dict.fromkeys(kind.scalars, logit_scale)).items():
        if not trainable:
            getattr(model, name).requires_grad_(False)
    return model


def train_last_blocks(model: nn.Module, last_blocks: int) -> nn.Module:
    """Freeze all of a tower but its last transformer blocks, its final layer norm and its projection, in place.

    A tower of which nothing trains stays frozen, and the temperature as it is: call it after `set_trainable`.

    Args:
        model: a `CLIPModel` or `SiglipModel`; what pools SigLIP's towers is its projection.
        last_blocks: number of blocks that train; with 0 the final layer norm and the projection alone do.

    Raises:
        ValueError: if a tower has fewer blocks; the text says how many.
    """
    kind = towers_of(model)
    trained = [name for name in TOWERS if any(weight.requires_grad for weight in tower_parameters(model, name))]
    blocks = {name: list(kind.model.get_submodule(kind.blocks[name])) for name in trained}
    for name in trained:
        if not 0 <= last_blocks <= len(blocks[name]):
            raise ValueError(
                f"`last_blocks` must be from 0 to {len(blocks[name])}, the number of layers of the {name} "
                f"tower, got {last_blocks}."
            )
    for name in trained:
        for weight in tower_parameters(model, name):
            weight.requires_grad_(False)
        after = [kind.model.get_submodule(part) for part in kind.after_blocks[name]]
        for part in (*blocks[name][len(blocks[name]) - last_blocks :], *after):
            part.requires_grad_(True)
    return model


def tower_parameters(model: nn.Module, name: str) -> list[nn.Parameter]:
    """The weights of the encoder "image" or "text", its projection included."""
    kind = towers_of(model)
    return [weight for part in kind.modules[name] for weight in kind.model.get_submodule(part).parameters()]


def trains_text(model: nn.Module) -> bool:
    """Whether any weight of the text encoder of an unwrapped dual encoder is trained."""
    return any(weight.requires_grad for weight in tower_parameters(model, "text"))


def frozen_copy(model: nn.Module, share: bool = True) -> nn.Module:
    """The model as it is now, in eval mode and without gradient: the pretrained f0 and g0 of METHODS.

    Args:
        model: an unwrapped dual encoder; of a PEFT model, the model without its adapters is copied.
        share: weights that do not train are shared with the copy and not copied. Off where a wrapper moves weights
            about in memory (FSDP, DeepSpeed).
    """
    kept = {id(weight): weight for weight in model.parameters() if share and not weight.requires_grad}
    copied = copy.deepcopy(model, kept)
    copied = copied.unload() if isinstance(copied, PeftModel) else copied  # type: ignore[operator]
    return copied.requires_grad_(False).eval()


def check_same_architecture(teacher: nn.Module, model: nn.Module) -> None:
    """Raise ValueError, naming a weight, unless all weights of the two models have the same names and shapes."""
    theirs, ours = ({n: tuple(w.shape) for n, w in one.state_dict().items()} for one in (teacher, model))
    for name in sorted(theirs.keys() | ours.keys()):
        if theirs.get(name) != ours.get(name):
            raise ValueError(
                f"`teacher` is of another architecture than `model`: {name} is {theirs.get(name, 'missing')} in the "
                f"teacher and {ours.get(name, 'missing')} in the model. Pass the model that training starts from, or "
                "leave `teacher` out: then a copy of it is taken."
            )
