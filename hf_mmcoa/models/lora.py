"""LoRA (arXiv:2106.09685) on the image encoder, the text encoder or both, through `peft`, and back to a plain model."""

from __future__ import annotations

import copy
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from peft import LoraConfig, PeftModel
from peft.utils import SAFETENSORS_WEIGHTS_NAME
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import CLIPModel

from .architectures import MODELS, towers_of
from .freezing import TOWERS

Towers = Literal["image", "text", "both"]
Layer = nn.Linear | nn.Conv2d
TARGET_MODULES = ("q_proj", "v_proj")  # the layers that the paper adapts (LoRA, arXiv:2106.09685)
_INSIDE = "base_model.model."  # prefix of the adapted model's names inside a PeftModel


class AdaptedCLIP(PeftModel):
    """A `PeftModel` that also saves the temperature if it trains, because peft saves no bare parameter.

    The folders stay readable by everything that reads an adapter, such as `PeftModel.from_pretrained` and a resuming
    Trainer.
    """

    def save_pretrained(self, save_directory: str, safe_serialization: bool = True, *args: Any, **kwargs: Any) -> None:
        """Save the adapter as peft does, always as safetensors, and add the temperature if it trains."""
        super().save_pretrained(save_directory, True, *args, **kwargs)
        if self.logit_scale.requires_grad and kwargs.get("is_main_process", True):
            file = Path(save_directory) / SAFETENSORS_WEIGHTS_NAME
            scalars = {f"{_INSIDE}{name}": getattr(self, name).detach().cpu() for name in towers_of(self).scalars}
            save_file(load_file(file) | scalars, file, metadata={"format": "pt"})


def add_lora(
    model: CLIPModel,
    towers: Towers = "both",
    rank: int = 8,
    alpha: float = 16,
    dropout: float = 0.0,
    target_modules: Sequence[str] = TARGET_MODULES,
    train_logit_scale: bool = False,
    seed: int = 0,
    modules_to_save: Sequence[str] = (),
) -> AdaptedCLIP:
    """Give layers W of a model a trainable update W + alpha / rank B A, and freeze everything else.

    B starts at 0, so the adapted model computes the same as before. The layers are replaced inside `model`; `merge`
    gives a plain model again.

    Args:
        model: a plain `CLIPModel` or `SiglipModel`.
        towers: the encoders that get adapters; the other one is frozen.
        rank: rank of B A, from 1 to the smaller side of the smallest target. The default is that of the paper's code
            for RoBERTa.
        alpha: numerator of the update's scale, above 0. The default has the same source.
        dropout: dropout rate on the adapters' input in training, in [0, 1).
        target_modules: names of linear layers and convolutions, or their endings, such as "q_proj", "mlp.fc1" and
            "visual_projection". Only layers of the chosen encoders and their projections can match.
        train_logit_scale: also train the temperature, and a SigLIP's bias; they are saved with the adapter.
        seed: seed of A; the global random state is not changed.
        modules_to_save: names of modules, or their endings, that train in full beside the adapters and are saved with
            them (peft's term), such as "patch_embedding" and "layer_norm1": small modules that no adapter reaches.

    Returns:
        The adapted model, around `model`.

    Raises:
        TypeError: if the model already has adapters, or is neither a CLIPModel nor a SiglipModel.
        ValueError: if a number is out of range, a name matches nothing, or an encoder gets no adapter.

    Example:
        >>> from hf_mmcoa.testbed.tiny_clip import tiny_clip
        >>> adapted = add_lora(tiny_clip(["a cat"], image_size=8, patch_size=2)[0], towers="text", rank=4)
        >>> sum(weight.numel() for weight in adapted.parameters() if weight.requires_grad)  # 2 layers x q, v x 4 x 128
        2048
    """
    if not isinstance(model, MODELS):
        hint = " `merge` its adapter first." if isinstance(model, PeftModel) else ""
        raise TypeError(f"`model` must be a plain CLIPModel or SiglipModel, got {type(model).__name__}.{hint}")
    check_lora(towers, rank, alpha, dropout)
    chosen = tuple(TOWERS) if towers == "both" else (towers,)
    layers = _adapted_layers(model, chosen, target_modules)
    limit = min(min(layer.weight.flatten(1).shape) for layer in layers)
    if rank > limit:
        raise ValueError(
            f"`rank` must be at most {limit}, the smaller side of the smallest target, got {rank}: "
            "B A cannot have a higher rank."
        )
    inside = "|".join(part for tower in chosen for part in towers_of(model).modules[tower])
    ends = "|".join(map(re.escape, target_modules))
    config = LoraConfig(
        r=rank,
        lora_alpha=alpha,  # type: ignore[arg-type]  # peft only divides it by the rank, so fractions work too
        lora_dropout=dropout,
        target_modules=rf"(?=({inside})(\.|$)){_unless_fused(model)}(.*\.)?({ends})",  # peft asks for a full match
        base_model_name_or_path=model.name_or_path or None,
        modules_to_save=_modules_in_full(model, chosen, modules_to_save) or None,
    )
    device = model.logit_scale.device
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        adapted = AdaptedCLIP(model, config)
    for name in towers_of(model).scalars:
        getattr(adapted, name).requires_grad_(train_logit_scale)
    return adapted


def merge(model: PeftModel) -> CLIPModel:
    """Return a plain model that computes what an adapted one does: a copy in eval mode with every weight trainable.

    Raises:
        TypeError: if the model has no adapter.
        ValueError: if the adapter holds NaN.
    """
    if not isinstance(model, PeftModel):
        raise TypeError(f"`model` must be a PeftModel, got {type(model).__name__}: it has no adapter to merge.")
    plain = copy.deepcopy(model).merge_and_unload(safe_merge=True)  # type: ignore[operator]
    vars(plain).pop("peft_config", None)  # peft 0.18 and 0.19 leave it behind
    return plain.requires_grad_(True).eval()


def load_adapted(model: CLIPModel, folder: str | Path) -> PeftModel:
    """Return a frozen copy of `model` with the adapter from a folder that a LoRA run or peft wrote.

    Args:
        model: the base model, plain.
        folder: has adapter_config.json and the adapter's weights as safetensors.

    Raises:
        ValueError: if the folder has no such adapter, or the adapter belongs to a model of another architecture.
    """
    folder = Path(folder)
    missing = [name for name in ("adapter_config.json", SAFETENSORS_WEIGHTS_NAME) if not (folder / name).is_file()]
    if missing:
        raise ValueError(f"{folder} holds no adapter: there is no {' and no '.join(missing)} in it.")
    try:
        return PeftModel.from_pretrained(copy.deepcopy(model), str(folder)).eval()
    except (RuntimeError, ValueError) as error:
        raise ValueError(f"the adapter in {folder} does not fit the model: {error}") from error


def check_adapters(args: Any) -> None:
    """Raise ValueError if the settings of adapters and of what else trains, of an `MMCoAConfig`, contradict each other.

    Args:
        args: with `lora`, `last_blocks`, the fields that begin with `lora_`, and `train_image_encoder` and
            `train_text_encoder`.
    """
    if args.last_blocks is not None and args.last_blocks < 0:
        raise ValueError(f"`last_blocks` must not be negative, got {args.last_blocks}.")
    if args.lora == "none":
        names = ("lora_rank", "lora_alpha", "lora_dropout", "lora_target_modules", "lora_modules_to_save")
        if idle := [name for name in names if getattr(args, name) != getattr(type(args), name)]:
            raise ValueError(f'`{idle[0]}` has no effect with `lora="none"`: set `lora` to image, text or both.')
        return
    check_lora(args.lora, args.lora_rank, args.lora_alpha, args.lora_dropout, prefix="lora_")
    if args.last_blocks is not None:
        raise ValueError(f'`lora="{args.lora}"` trains adapters and `last_blocks` trains blocks: choose one.')
    for tower, trains in (("image", args.train_image_encoder), ("text", args.train_text_encoder)):
        if args.lora in (tower, "both") and not trains:
            raise ValueError(
                f'`lora="{args.lora}"` puts adapters on the {tower} tower and `train_{tower}_encoder` is off: '
                "choose one."
            )


def check_lora(towers: str, rank: int, alpha: float, dropout: float, prefix: str = "") -> None:
    """Raise ValueError if a setting is out of range for every model; the message puts `prefix` before the names."""
    if towers not in (*TOWERS, "both"):
        raise ValueError(f"`{prefix}towers` must be one of {', '.join(TOWERS)}, both, got {towers!r}.")
    if rank < 1:
        raise ValueError(f"`{prefix}rank` must be at least 1, got {rank}.")
    if not alpha > 0:  # written so that NaN fails too
        raise ValueError(f"`{prefix}alpha` must be above 0, got {alpha}.")
    if not 0 <= dropout < 1:
        raise ValueError(f"`{prefix}dropout` must be in [0, 1), got {dropout}.")


def _adapted_layers(model: CLIPModel, towers: Iterable[str], target_modules: Sequence[str]) -> list[Layer]:
    """Return the layers of the encoders whose names end in a target."""
    if isinstance(target_modules, str) or not target_modules:
        raise ValueError(f"`target_modules` must be a list of names of layers, got {target_modules!r}.")
    layers = {tower: _adaptable(model, towers_of(model).modules[tower]) for tower in towers}
    everywhere = [name for names in layers.values() for name in names]
    for target in target_modules:
        if not any(_ends_in(name, [target]) for name in everywhere):
            raise ValueError(f"`target_modules`: {target!r} matches nothing. {_what_there_is(layers)}")
    for tower, names in layers.items():
        if not any(_ends_in(name, target_modules) for name in names):
            raise ValueError(
                f"`target_modules` {list(target_modules)} match nothing in the {tower} tower. {_what_there_is(layers)}"
            )
    return [layer for names in layers.values() for name, layer in names.items() if _ends_in(name, target_modules)]


def _modules_in_full(model: CLIPModel, towers: Sequence[str], ends: Sequence[str]) -> list[str]:
    """Return the full names of the encoders' modules whose names have one of the endings."""
    parts = [part for tower in towers for part in towers_of(model).modules[tower]]
    there = [name for name, part in model.named_modules() if name.partition(".")[0] in parts and [*part.parameters()]]
    for end in ends:
        if not any(_ends_in(name, [end]) for name in there):
            known = ", ".join(dict.fromkeys(name.rpartition(".")[2] for name in there if not name[-1].isdigit()))
            tower = " and ".join(towers)
            raise ValueError(f"`modules_to_save`: {end!r} matches nothing in the {tower} tower: choose from {known}.")
    return [name for name in there if _ends_in(name, ends)]


def _adaptable(model: nn.Module, parts: Iterable[str]) -> dict[str, Layer]:
    return {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, (nn.Linear, nn.Conv2d))
        and name.partition(".")[0] in parts
        and re.match(_unless_fused(model), name)
    }


def _unless_fused(model: nn.Module) -> str:
    """Return a pattern that rejects the layers of a `nn.MultiheadAttention`.

    That module reads the weights of its layers directly, so an adapter's update would be skipped.
    """
    fused = (re.escape(name) for name, module in model.named_modules() if isinstance(module, nn.MultiheadAttention))
    return "".join(rf"(?!{name}\.)" for name in fused)


def _ends_in(name: str, targets: Iterable[str]) -> bool:
    return any(f".{name}".endswith(f".{target}") for target in targets)


def _what_there_is(layers: dict[str, dict[str, Layer]]) -> str:
    ends = {tower: dict.fromkeys(name.rpartition(".")[2] for name in names) for tower, names in layers.items()}
    return " ".join(f"The {tower} tower has {', '.join(names)}." for tower, names in ends.items())
