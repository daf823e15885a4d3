"""Selection of the weights that train (encoders, last blocks, temperature), and frozen copies of a model."""

from __future__ import annotations

import copy

from peft import PeftModel
from torch import nn

from .architectures import towers_of

TOWERS = ("image", "text")


def set_trainable(model: nn.Module, image: bool, text: bool, logit_scale: bool) -> nn.Module:
    """Freeze, in place, each of the parts that is not to train.

    Args:
        model: an unwrapped `CLIPModel` or `SiglipModel`.
        image: False freezes the image encoder with its projection.
        text: False freezes the text encoder with its projection.
        logit_scale: False freezes the temperature, with SigLIP's bias.

    Returns:
        The same model. Weights that were frozen before stay frozen.
    """
    kind = towers_of(model)
    parts = dict.fromkeys(kind.modules["image"], image) | dict.fromkeys(kind.modules["text"], text)
    for name, trainable in (parts | dict.fromkeys(kind.scalars, logit_scale)).items():
        if not trainable:
            getattr(model, name).requires_grad_(False)
    return model


def train_last_blocks(model: nn.Module, last_blocks: int) -> nn.Module:
    """Freeze all of an encoder but its last transformer blocks, its final layer norm and its projection, in place.

    An encoder without trainable weights stays frozen, and the temperature keeps its state, so call this after
    `set_trainable`.

    Args:
        model: a `CLIPModel` or `SiglipModel`; SigLIP's pooling heads count as its projections.
        last_blocks: number of blocks that train; with 0 only the final layer norm and the projection do.

    Returns:
        The same model.

    Raises:
        ValueError: if an encoder has fewer blocks; the text says how many.
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
    """Return the weights of the encoder "image" or "text", its projection included."""
    kind = towers_of(model)
    return [weight for part in kind.modules[name] for weight in kind.model.get_submodule(part).parameters()]


def trains_text(model: nn.Module) -> bool:
    """Return True if any weight of the text encoder of an unwrapped dual encoder is trainable."""
    return any(weight.requires_grad for weight in tower_parameters(model, "text"))


def frozen_copy(model: nn.Module, share: bool = True) -> nn.Module:
    """Return a copy of the model as it is now, in eval mode and without gradient: the teacher.

    Copied before training, it gives the pretrained encoders f0 and g0 of docs/methods.md, section 1.

    Args:
        model: an unwrapped dual encoder; of a PEFT model, the model without its adapters is copied.
        share: share the weights that do not train with the copy instead of copying them. Switch it off if a wrapper
            moves weights in memory (FSDP, DeepSpeed).
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
                "leave `teacher` out to use a copy of `model`."
            )
