"""Load whatever is published as a CLIP: a folder or Hub id, an adapter, another layout, a robust CLIP by name.

Checkpoints go through the code of `convert`, in memory, and are compared with `ReferenceCLIP` as a conversion is.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
from torch import nn
from transformers import CLIPModel, CLIPProcessor

from ..io import read_json
from ..models.encoder import load_clip
from ..models.lora import load_adapted
from .build import BuiltCLIP, build_clip
from .checkpoint import LIMIT, parity
from .layouts import Activation
from .robust_build import build_robust
from .robust_clips import ROBUST, is_robust
from .source import MODEL_FILES, OPEN_CLIP_CONFIG, read_source

ADAPTER_CONFIG = "adapter_config.json"


def load_model(
    name: str | Path,
    *,
    base: str | Path | None = None,
    activation: Activation | None = None,
    processor: str | Path | None = None,
) -> tuple[nn.Module, Any]:
    """Load a CLIP or SigLIP of any supported form with its processor, in eval mode on the CPU.

    A model of transformers' own form has all that it needs: `base`, `activation` and `processor` do not concern it.

    Args:
        name: a folder or Hub id of a CLIPModel or SiglipModel; of a peft adapter of one; of an OpenCLIP model; a file
            of weights in one of the layouts of docs/convert.md; or `robust:` and the name of a robust CLIP.
        base: folder or Hub id of the model that an adapter or a checkpoint was trained from; an adapter's own record of
            it when None.
        activation: activation of a checkpoint that does not state it.
        processor: folder or Hub id of tokenizer and image processor, for a checkpoint that has none and no `base`.

    Returns:
        The model and its processor. An adapter stays an adapter, on its base model.

    Raises:
        ValueError: if the form is unknown, something is missing that `base`, `activation` or `processor` would supply,
            or a checkpoint's embeddings differ after its conversion.
        OSError: if there is nothing of that name.
    """
    if is_robust(name):
        return load_robust(str(name), base=base, activation=activation, processor=processor)
    path = _local(str(name))
    if path is not None and path.is_dir() and (path / ADAPTER_CONFIG).is_file():
        return _load_adapter(path, base)
    if path is None or (path.is_dir() and not _is_foreign(path)):
        return load_clip(name)
    source = read_source(path)
    built = build_clip(source, path, base, activation, None, processor)
    if built.tokenizer is None:
        raise ValueError(
            f"{name} has no tokenizer: name with --base the CLIPModel that it was fine-tuned from, or with --processor "
            "a model to take tokenizer and image processor from."
        )
    return _compared(built, str(name))


def load_robust(
    name: str,
    *,
    weights: str | Path | None = None,
    base: str | Path | None = None,
    activation: Activation | None = None,
    processor: str | Path | None = None,
) -> tuple[CLIPModel, CLIPProcessor]:
    """Load a published robust CLIP by name with its processor, in float32 and eval mode on the CPU.

    The rows of `robust_clips` say where it lies, which halves it has and which activation. Weights that differ from
    their row are refused.

    Args:
        name: a name of docs/convert.md, with or without `robust:`.
        weights: its file or folder, if it was downloaded already; None fetches it.
        base: folder or Hub id to use in place of the model that it was trained from: where a copy of it lies.
        activation: activation to use in place of the row's.
        processor: folder or Hub id of tokenizer and image processor, in place of its own.

    Raises:
        ValueError: if there is no such name or it cannot be run here; if a half is missing, the activation is not the
            row's, or `base` is unrelated; or if the embeddings differ after the conversion.
        OSError: if the weights or the base cannot be fetched.

    Example:
        >>> model, processor = load_robust("fare4-vit-b-32")  # doctest: +SKIP
    """
    built = build_robust(name, weights, base, activation, processor=processor)
    built.model.name_or_path = f"{ROBUST}{name.removeprefix(ROBUST)}"  # an adapter records it as its base
    return _compared(built, name)


def load_whole(name: str | Path) -> tuple[nn.Module, Any]:
    """Load a model to train or mix, with its processor, in float32 and eval mode on the CPU.

    Args:
        name: a folder or Hub id of a CLIPModel or SiglipModel, or `robust:` and the name of a robust CLIP.

    Raises:
        ValueError: if the model is neither a CLIP nor a SigLIP, or see `load_robust`.
        OSError: if there is nothing of that name.
    """
    return load_robust(str(name)) if is_robust(name) else load_clip(name)


def _compared(built: BuiltCLIP, name: str) -> tuple[CLIPModel, CLIPProcessor]:
    if not (found := parity(built, built.model)).difference <= LIMIT:  # written so that NaN fails too
        raise ValueError(f"the embeddings of {name} change when it is read as a CLIPModel: {found}.")
    return built.model, built.processor


def _local(name: str) -> Path | None:
    """Return where a model lies on this machine, fetched if need be; None for what `load_clip` should look up."""
    if Path(name).exists() or Path(name).suffix in (".pt", ".pth", ".safetensors", ".bin", ".tar"):
        return Path(name)
    if name.count("/") != 1:
        return None
    try:
        folder = Path(snapshot_download(name, allow_patterns=["*.json"]))
        foreign = (folder / ADAPTER_CONFIG).is_file() or _is_foreign(folder)
        return Path(snapshot_download(name, allow_patterns=list(MODEL_FILES))) if foreign else None
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError):
        return None  # transformers' own message says more


def _is_foreign(folder: Path) -> bool:
    """Return whether a folder is in OpenCLIP's form, or holds one tower alone."""
    config = folder / "config.json"
    if not config.is_file():
        return (folder / OPEN_CLIP_CONFIG).is_file()
    kind = read_json(config)
    return isinstance(kind, dict) and kind.get("model_type") in ("clip_text_model", "clip_vision_model")


def _load_adapter(folder: Path, base: str | Path | None) -> tuple[nn.Module, Any]:
    named = read_json(folder / ADAPTER_CONFIG)
    base = base or (named.get("base_model_name_or_path") if isinstance(named, dict) else None)
    if not base:
        raise ValueError(f"the adapter in {folder} names no base model: name with --base the model it was trained on.")
    try:
        model, processor = load_whole(base)
    except OSError as error:
        raise ValueError(
            f"the adapter in {folder} was trained on {base}, which cannot be loaded: name with --base where it lies "
            f"now. ({str(error).splitlines()[0]})"
        ) from error
    return load_adapted(model, folder), processor  # type: ignore[arg-type]
