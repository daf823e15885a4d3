"""Fetch a robust CLIP that is known by name and build it; what would make its numbers worse in silence is an error.

A row says which halves were published and which activation they have. No weight shows either: with QuickGELU in place
of GELU, or with another CLIP's text encoder, a model runs and is merely less accurate.
"""

from __future__ import annotations

from fnmatch import fnmatch
from pathlib import Path

import torch
from huggingface_hub import constants, snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

from . import layouts
from .build import BuiltCLIP, build_clip
from .layouts import PARTS, Activation
from .robust_clips import ROBUST, RobustClip, find_robust_clip
from .source import MODEL_FILES, read_source


def build_robust(
    name: str | Path,
    weights: str | Path | None = None,
    base: str | Path | None = None,
    activation: Activation | None = None,
    image_size: int | None = None,
    processor: str | Path | None = None,
) -> BuiltCLIP:
    """Build a robust CLIP by name, on the CPU.

    Args:
        name: a name of docs/convert.md, with or without `robust:`.
        weights: its file or folder, if it was downloaded already; None fetches it.
        base: folder or Hub id to use in place of the row's base: where a copy of it lies.
        activation: activation to use in place of the row's.
        image_size: see `convert`.
        processor: folder or Hub id of tokenizer and image processor; None takes those that belong to the row.

    Raises:
        ValueError: if there is no such name or it cannot be run here; if the weights lack a half that they were
            published with, or have another activation than the row says; or if `base` looks unrelated to them.
        OSError: if the weights or the base cannot be fetched.
    """
    row = find_robust_clip(str(name))
    label = f"{ROBUST}{row.name}"
    if row.refused:
        raise ValueError(f"{label} ({row.address}) cannot be run here: {row.refused}.")
    path = Path(weights) if weights is not None else _fetch(row)
    source = read_source(path)
    parts = layouts.identify(source.state_dict).parts
    published = PARTS[:2] if row.layout == "image tower" else PARTS
    if absent := [part for part in published if part not in parts]:
        raise ValueError(
            f"{label} was published with its own {', '.join(absent)}, and {source.read} has only {', '.join(parts)}. "
            "The halves belong together, so nothing is taken from another CLIP in their place."
        )
    base = base or row.base
    supplied = row.layout == "image tower"  # by the base: the rest of the model
    tokenizer = processor or base
    if row.layout == "CLIPModel folder":  # published without image processor
        processor = processor or base
    try:
        built = build_clip(
            source, path, base if supplied else None, activation, image_size, processor, tokenizer_folder=tokenizer
        )
    except OSError as error:
        raise OSError(
            f"{label} needs {base}, which cannot be loaded: name with --base where a copy of it lies. "
            f"({str(error).splitlines()[0]})"
        ) from error
    towers = (built.architecture.vision, built.architecture.text)
    if activation is None and {tower.activation for tower in towers} != {row.activation}:
        raise ValueError(
            f"{label} was trained with {row.activation}, and what was read says: image encoder {built.activations[0]}, "
            f"text encoder {built.activations[1]}. A wrong activation lowers the accuracy without an error. Name the "
            "right one with --activation, or the right base with --base."
        )
    if built.notes:
        raise ValueError(f"{label}: {' '.join(built.notes)} Its base is {row.base}.")
    return built


def _fetch(row: RobustClip) -> Path:
    """Return where the file or folder of a row lies on this machine, downloaded if need be."""
    if row.hub_id is None:
        return _download(row)
    patterns = [row.file] if row.file else list(MODEL_FILES)
    try:
        folder = Path(snapshot_download(row.hub_id, revision=row.revision, allow_patterns=patterns))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError) as error:
        reason = str(error).strip().splitlines()[0]
        raise OSError(f"{ROBUST}{row.name} is {row.hub_id} on the Hub, which cannot be read. ({reason})") from error
    if row.file is None:
        return folder
    names = sorted(file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file())
    found = [name for name in names if fnmatch(name, row.file)]
    if len(found) != 1:
        raise ValueError(
            f"{ROBUST}{row.name} is the file {row.file} of {row.hub_id}, and {len(found)} files match: "
            f"{', '.join(found) or 'none'}. Download the right one and name it: --model FILE --base {row.base}."
        )
    return folder / found[0]


def _download(row: RobustClip) -> Path:
    """Return the file of a row that lies outside the Hub, in torch's folder of checkpoints."""
    file = Path(torch.hub.get_dir(), "checkpoints", f"{row.name}.pt")
    if file.exists():
        return file
    by_hand = f"Download it from {row.url} and save it as {file}."
    if row.by_hand:
        raise OSError(f"{ROBUST}{row.name} lies on a page that only a person can download from. {by_hand}")
    if constants.HF_HUB_OFFLINE:
        raise OSError(f"{ROBUST}{row.name} is not on this machine, and HF_HUB_OFFLINE is set. {by_hand}")
    file.parent.mkdir(parents=True, exist_ok=True)
    try:
        torch.hub.download_url_to_file(str(row.url), str(file), progress=False)
    except OSError as error:
        raise OSError(f"{ROBUST}{row.name} cannot be downloaded ({error}). {by_hand}") from error
    return file
