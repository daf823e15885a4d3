"""A checkpoint folder, and the files of it that are published: safetensors and text, never a pickle, never code.

The files to publish are listed, rather than the files to leave out: what a training, a user or a later release adds to
the folder (`training_args.bin`, `optimizer.pt`, `checkpoint-500/`) stays there unless it is known to be harmless.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.utils import HFValidationError, validate_repo_id
from peft import PeftModel
from safetensors import SafetensorError, safe_open
from torch import nn

from ..evaluation.provenance import model_fingerprint
from ..file_names import ARGUMENTS_FILE, FILE_LIST, STATE_FILE
from ..io import read_json, read_yaml
from ..models.architectures import ARCHITECTURES
from ..models.lora import load_adapted, merge

MERGED_FOLDER = "merged"
TOKENIZERS = ("merges.txt", "vocab.txt", "spiece.model", "tokenizer.model")
PUBLISHED = ("*.safetensors", "*.json", *TOKENIZERS, ARGUMENTS_FILE, "LICENSE*", "NOTICE*")
# Files of a running or failed training, and galleries, which `measurements` publishes with their result files.
KEPT_BACK = (STATE_FILE, FILE_LIST, "non_finite_step_*.json", "*.gallery.json")
WEIGHTS = {False: "model*.safetensors", True: "adapter_model.safetensors"}  # key: is it an adapter?
PICKLES = ("*.bin", "*.pt", "*.pth", "*.pkl", "*.pickle", "*.ckpt", "*.joblib")


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A folder that `from_pretrained` of `CLIPModel`, `SiglipModel` or, for an adapter, `PeftModel` can read.

    Args:
        folder: its path.
        config: content of `config.json`, or of `adapter_config.json` for an adapter.
        is_adapter: True if the weights are an adapter's.
        arguments: content of `training_args.yaml`; empty if there is none.
    """

    folder: Path
    config: dict[str, Any]
    is_adapter: bool
    arguments: dict[str, Any]

    @property
    def architecture(self) -> type[Any]:
        """Return the class of `Towers` of the model; for an adapter, of its base model."""
        name = (self.config.get("auto_mapping") or {}).get("base_model_class") or self.config.get("model_type")
        known = {each.config_class.model_type: each for each in ARCHITECTURES}
        known |= {each.model_class.__name__: each for each in ARCHITECTURES}
        return known.get(name, ARCHITECTURES[0])

    @property
    def base_model(self) -> str | None:
        """Return the folder or Hub id of the model that training started from; None if the files do not state it."""
        name = self.config.get("base_model_name_or_path") if self.is_adapter else None
        return str(found) if (found := name or self.arguments.get("model_name_or_path")) else None

    def model(self) -> nn.Module:
        """Load the model in float32, as it is measured, and in eval mode; an adapter is loaded on its base model.

        Raises:
            ValueError: if weights are missing, which transformers would draw at random, or an adapter names no base
                model.
        """
        kind = self.architecture.model_class
        if not self.is_adapter:
            model, found = kind.from_pretrained(
                self.folder, use_safetensors=True, output_loading_info=True, dtype=torch.float32
            )
            if missing := sorted(found["missing_keys"]):
                raise ValueError(
                    f"{self.folder} lacks {len(missing)} weights of its {kind.__name__}, such as {missing[0]}."
                )
            return model.eval()
        if self.base_model is None:
            raise ValueError(
                f"the adapter in {self.folder} names no base model. Set `base_model_name_or_path` in "
                "adapter_config.json to the folder or the Hub id that it was trained on."
            )
        base = kind.from_pretrained(self.base_model, use_safetensors=True, dtype=torch.float32)
        return load_adapted(base, self.folder)

    def fingerprints(self, model: nn.Module | None = None) -> set[str]:
        """Return the fingerprints that results of these weights may carry.

        These are the model's and, for an adapter, also the merged model's.

        Args:
            model: the weights, if they are in memory already.
        """
        model = model if model is not None else self.model()
        merged = {model_fingerprint(merge(model))} if isinstance(model, PeftModel) else set()
        return {model_fingerprint(model)} | merged

    def files(self) -> list[Path]:
        """Return the files of the folder that are published, sorted; result files are chosen by `measurements`.

        Raises:
            ValueError: if a file named `.safetensors` is none.
        """
        found = [file for file in self._top_level() if any(fnmatch(file.name, pattern) for pattern in PUBLISHED)]
        found = [file for file in found if not any(fnmatch(file.name, pattern) for pattern in KEPT_BACK)]
        for file in found:
            if file.suffix == ".safetensors":
                _check_safetensors(file)
        return [file for file in found if '"attack_spec"' not in _head(file)]

    def _top_level(self) -> Iterator[Path]:
        return (file for file in sorted(self.folder.iterdir()) if file.is_file() and not file.name.startswith("."))


def read_checkpoint(folder: str | Path) -> Checkpoint:
    """Read what a checkpoint folder contains.

    Raises:
        FileNotFoundError: if there is no such folder.
        ValueError: if it holds no model that can be published: no model at all, weights only as a pickle, or a model
            that needs code of its own; the text says what to do.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"there is no folder {folder}. Name the folder of a saved model.")
    is_adapter = (folder / "adapter_config.json").is_file()
    file = folder / ("adapter_config.json" if is_adapter else "config.json")
    if not file.is_file():
        raise ValueError(f"{folder} holds neither config.json nor adapter_config.json: it is no saved model.")
    config = _mapping(file, read_json)
    if "auto_map" in config:
        raise ValueError(
            f"{file} describes a model that needs code of its own (`auto_map`); only plain CLIP and SigLIP models are "
            "published."
        )
    known = [each.config_class.model_type for each in ARCHITECTURES]
    if not is_adapter and config.get("model_type") not in known:
        raise ValueError(f"{file} describes a {config.get('model_type')!r} model; one of {', '.join(known)} is needed.")
    if not list(folder.glob(WEIGHTS[is_adapter])):
        pickles = [path.name for path in sorted(folder.iterdir()) if any(fnmatch(path.name, one) for one in PICKLES)]
        if pickles:
            raise ValueError(
                f"the weights in {folder} are a pickle ({', '.join(pickles)}), which can run code when it is loaded. "
                "Save them again: `AutoModel.from_pretrained(folder).save_pretrained(folder)` writes safetensors."
            )
        raise ValueError(f"{folder} holds no weights: there is no {WEIGHTS[is_adapter]}.")
    arguments = folder / ARGUMENTS_FILE
    return Checkpoint(
        folder=folder,
        config=config,
        is_adapter=is_adapter,
        arguments=_mapping(arguments, read_yaml) if arguments.is_file() else {},
    )


def hub_id(name: str | None) -> str | None:
    """Return `name` if it can be a repository on the Hub ("owner/name" and no local folder), else None."""
    if name is None or name.count("/") != 1 or Path(name).exists():
        return None
    try:
        validate_repo_id(name)
    except HFValidationError:
        return None
    return name


def _mapping(file: Path, read: Callable[[Path], Any]) -> dict[str, Any]:
    content = read(file)
    if not isinstance(content, dict):
        raise ValueError(f"{file} holds a {type(content).__name__}, not names and values.")
    return content


def _check_safetensors(file: Path) -> None:
    try:
        with safe_open(file, framework="pt"):
            pass
    except (SafetensorError, OSError) as error:
        raise ValueError(
            f"{file} is no safetensors file ({error}): it is truncated, or another kind of file. Save it again."
        ) from error


def _head(file: Path) -> str:
    """Return the text of a JSON file, to tell a result from a configuration."""
    return file.read_text(encoding="utf-8", errors="replace") if file.suffix == ".json" and file.is_file() else ""
