"""Reading of the source of a conversion, weights and configuration, without running any code from it.

Published checkpoints are often pickles. They are read by torch's restricted unpickler, which builds tensors and plain
containers and calls nothing else; a file that needs more is refused. So are folders that bring their own code.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor
from transformers import CLIPConfig, CLIPTextConfig, CLIPVisionConfig

from ..io import read_json
from .layouts import Architecture, Tower, architecture_of, architecture_of_open_clip, tower_of

TRANSFORMERS_WEIGHTS = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin")
OPEN_CLIP_CONFIG = "open_clip_config.json"
OPEN_CLIP_WEIGHTS = ("open_clip_model.safetensors", "open_clip_pytorch_model.bin")
MODEL_FILES = ("*.json", "*.safetensors", "*.bin", "*.txt", "*.model")  # of a repository, what reading one needs
# Keys under which training scripts save the weights. TeCoA, PMG-AFT and TGA-ZSR (save_checkpoint of finetuning.py,
# PMG_AFT.py and TGA-ZSR.py) save the image encoder under the first and a visual prompt under `state_dict`; OpenCLIP's
# and LEAF's training save the model under `state_dict`.
_NESTED = ("vision_encoder_state_dict", "state_dict")
_PROMPTS = ("state_dict", "add_prompter")


@dataclasses.dataclass(frozen=True)
class Source:
    """A state dict, with the facts that its folder's configuration states."""

    state_dict: dict[str, Tensor]
    read: str  # the file, and the key in it
    config: CLIPConfig | None = None
    architecture: Architecture | None = None
    vision: Tower | None = None
    text: Tower | None = None
    config_name: str | None = None
    preprocessing: Mapping[str, Any] = dataclasses.field(default_factory=dict)  # OpenCLIP's preprocess_cfg


def read_source(path: str | Path) -> Source:
    """Read a file of weights, or a folder in transformers' or OpenCLIP's form.

    Raises:
        FileNotFoundError: if there is nothing at the path.
        ValueError: if the source cannot be read without running its code, holds no weights, or is no CLIP; the text
            says what to do.
    """
    path = Path(path)
    if path.is_file():
        state_dict, where = _read_file(path)
        return Source(state_dict, where)
    if not path.is_dir():
        raise FileNotFoundError(
            f"there is no file or folder {str(path)!r}. `hf download ID --local-dir FOLDER` fetches one from the Hub."
        )
    refuse_remote_code(path)
    if (path / "config.json").exists() and (weights := _first(path, TRANSFORMERS_WEIGHTS)):
        return _read_transformers(path, weights)
    if (path / OPEN_CLIP_CONFIG).exists() and (weights := _first(path, OPEN_CLIP_WEIGHTS)):
        config = _mapping(path / OPEN_CLIP_CONFIG)
        if not isinstance(config.get("model_cfg"), dict):
            raise ValueError(f"{path / OPEN_CLIP_CONFIG} has no `model_cfg` of names and values.")
        state_dict, where = _read_file(weights)
        architecture = architecture_of_open_clip(config["model_cfg"])
        return Source(
            state_dict,
            where,
            architecture=architecture,
            vision=architecture.vision,
            text=architecture.text,
            config_name=OPEN_CLIP_CONFIG,
            preprocessing=config.get("preprocess_cfg", {}),
        )
    raise ValueError(
        f"{str(path)!r} holds neither config.json with one of {', '.join(TRANSFORMERS_WEIGHTS)} nor {OPEN_CLIP_CONFIG} "
        f"with one of {', '.join(OPEN_CLIP_WEIGHTS)}. Name the file of weights itself."
    )


def refuse_remote_code(folder: Path) -> None:
    """Raise ValueError if a configuration in the folder asks for code that is stored beside it (`auto_map`)."""
    for file in sorted(folder.glob("*config*.json")):
        with contextlib.suppress(ValueError, RecursionError):  # broken JSON is reported when it is read
            config = json.loads(file.read_text(encoding="utf-8"))
            if isinstance(config, dict) and "auto_map" in config:
                asked = str(config["auto_map"])[:200]
                break
    else:
        return
    raise ValueError(
        f"{file} asks for code of its own ({asked}), which is never run here. If its weights have CLIP's layout, name "
        "the file of weights itself."
    )


def _mapping(file: Path) -> dict[str, Any]:
    content = read_json(file)
    if not isinstance(content, dict):
        raise ValueError(f"{file} holds a {type(content).__name__}, not names and values.")
    return content


def _first(folder: Path, names: tuple[str, ...]) -> Path | None:
    return next((folder / name for name in names if (folder / name).exists()), None)


def _read_transformers(folder: Path, weights: Path) -> Source:
    config = _mapping(folder / "config.json")
    kind = config.get("model_type")
    state_dict: dict[str, Tensor] = {}
    if weights.suffix == ".json":
        shards = _mapping(weights).get("weight_map")
        if not isinstance(shards, dict) or not all(isinstance(shard, str) for shard in shards.values()):
            raise ValueError(f"{weights}: `weight_map` does not name a file for each weight.")
        for shard in sorted(set(shards.values())):
            if Path(shard).name != shard or shard == "..":
                raise ValueError(f"{weights} names {shard!r}, which is no file of its own folder.")
            state_dict |= _read_file(folder / shard)[0]
        where = str(weights)
    else:
        state_dict, where = _read_file(weights)
    if kind == "clip":
        full = CLIPConfig.from_pretrained(folder)
        architecture = architecture_of(full)
        return Source(
            state_dict, where, full, architecture, architecture.vision, architecture.text, config_name="config.json"
        )
    if kind == "clip_text_model":
        return Source(
            state_dict, where, text=tower_of(CLIPTextConfig.from_pretrained(folder)), config_name="config.json"
        )
    if kind == "clip_vision_model":
        return Source(
            state_dict, where, vision=tower_of(CLIPVisionConfig.from_pretrained(folder)), config_name="config.json"
        )
    raise ValueError(f"{folder / 'config.json'} describes a {kind!r} model; a CLIP is needed ('clip').")


def _read_file(file: Path) -> tuple[dict[str, Tensor], str]:
    if file.suffix == ".safetensors":
        try:
            return load_file(file), str(file)
        except SafetensorError as error:
            raise ValueError(f"{file} is no safetensors file, or is cut off: {error}") from error
    return _weights_in(_unpickle(file), file)


def _weights_in(loaded: Any, file: Path) -> tuple[dict[str, Tensor], str]:
    """Return the state dict in an object that a training script saved, and its place in the file."""
    if not isinstance(loaded, Mapping):
        raise ValueError(f"{file} holds a {type(loaded).__name__}, not a state dict. Save `model.state_dict()`.")
    key = next((key for key in _NESTED if isinstance(loaded.get(key), Mapping)), None)
    if key == "vision_encoder_state_dict":
        prompts = {
            f"{place}.{name}": tuple(tensor.shape)
            for place in _PROMPTS
            for name, tensor in (loaded.get(place) or {}).items()
            if isinstance(tensor, Tensor) and tensor.numel()
        }
        if prompts:
            raise ValueError(
                f"{file} holds a visual prompt beside the image tower ({prompts}). `CLIPModel` cannot hold one, and "
                "without it the image tower computes other embeddings. Use a checkpoint without a visual prompt."
            )
    found, where = (loaded, str(file)) if key is None else (loaded[key], f"{file}, {key!r}")
    other = [str(name) for name, value in found.items() if not isinstance(value, (Tensor, int, float))]
    if other or not found:
        raise ValueError(
            f"{where} is no state dict: {f'no tensors under {other[:8]}' if other else 'it is empty'}. Weights must be "
            f"under {', '.join(map(repr, _NESTED))} or at the top level."
        )
    return {str(name): torch.as_tensor(value) for name, value in found.items()}, where


class _Ignored:
    """Stand in for numpy's scalars: training scripts save accuracies as such, and no conversion needs them."""

    def __init__(self, *arguments: Any) -> None: ...

    def __setstate__(self, state: Any) -> None: ...


_NUMPY_SCALARS = ("numpy.dtype", "numpy.core.multiarray.scalar", "numpy._core.multiarray.scalar")


def _unpickle(file: Path) -> Any:
    if zipfile.is_zipfile(file) and any("/code/" in name for name in zipfile.ZipFile(file).namelist()):
        raise ValueError(
            f"{file} is a TorchScript archive (as OpenAI published CLIP): a program, which is not run here. The "
            "weights are on the Hub as a CLIPModel (openai/clip-vit-base-patch32 and others); or, if you trust the "
            "file, save `torch.jit.load(FILE).state_dict()` with torch.save."
        )
    ignored: list[Any] = [(_Ignored, name) for name in _NUMPY_SCALARS]
    try:
        with torch.serialization.safe_globals(ignored):
            return torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # a hostile or broken file may raise anything; the message is the same for all
        lines = [line.strip() for line in str(error).splitlines() if line.strip()] or ["no reason given"]
        reason = next((line for line in lines if "GLOBAL" in line or "Unsupported" in line), lines[0])
        reason = reason.partition(". Please use")[0]  # without torch's advice to allow the code
        raise ValueError(
            f"torch.load(weights_only=True) cannot read {file}, so it is broken or may run code "
            f"({type(error).__name__}: {reason}). Where you trust it, load it yourself and write its weights with "
            "safetensors.torch.save_file."
        ) from error
