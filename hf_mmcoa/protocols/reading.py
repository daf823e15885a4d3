"""Read a protocol from a YAML file, by name or from the command line, and check its fields."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal, get_type_hints

import yaml

from ..io import read_yaml
from .cell import FULL, Data, Method
from .protocol import ENGLISH, TINY, Protocol
from .run_arguments import SHIPPED_FOR, stored_settings
from .values import candidates_path, check_values, with_numbers

# What a file holds for those fields of `Protocol` that are built from it.
_IN_FILES: dict[str, Any] = {
    "datasets": list,
    "train_on": str | dict | None,
    "evaluate_on": list,
    "shots": list[int | Literal["full"] | None],
    "objectives": list,
    "seeds": list[int],
    "word_splits": list[int],
    "substitutes": list[str],
    "measure": list[str],
    "training": dict | None,
    "threat_model": dict | None,
}

# A whole file for a folder of one's own, which messages show where something is missing.
EXAMPLE = """\
datasets:
  - {name: fruit, data_dir: .}                # the folder fruit beside this file: fruit/train/CLASS, fruit/test/CLASS
model: openai/clip-vit-base-patch32           # or tiny: {image_size: 32, patch_size: 8, epochs: 60}
objectives: [none, mmcoa]
seeds: [0]
training: {epsilon: 1/255, max_steps: 300, per_device_train_batch_size: 128, learning_rate: 1.0e-5}
threat_model: {preset: standard}
"""

# Files of the protocols that the command line offers by name.
NAMED = files(__package__).joinpath("named")


def named_protocols() -> list[str]:
    """Return the names of the protocols that come with the package."""
    return sorted(each.name.removesuffix(".yaml") for each in NAMED.iterdir() if each.name.endswith(".yaml"))


def read_protocol(
    name_or_yaml: str | Path | None, data_dir: str | None = None, changes: Mapping[str, Any] | None = None
) -> Protocol:
    """Read a protocol by name, from a YAML file, or from `changes` alone.

    Args:
        name_or_yaml: one of `named_protocols()`, or a file whose keys are `Protocol`'s fields and `base`: "digits",
            "fashion-mnist", "pictograms" or "pictograms-common", whose CLIP, training and substitutes are the defaults.
        data_dir: folder with local files of the data sets; overrides the file's.
        changes: fields that override the file's; `training`, `threat_model` and `tiny` are overridden field by field.
            `objectives` may name methods of the file.

    Raises:
        ValueError: if there is no such protocol or file, or a field is wrong; the message names the field.
    """
    if name_or_yaml is None:
        return _protocol({}, Path.cwd(), "comparison", data_dir, changes or {})
    path = Path(name_or_yaml)
    known = named_protocols()
    if str(name_or_yaml) in known:
        content, folder = yaml.safe_load(NAMED.joinpath(f"{name_or_yaml}.yaml").read_text(encoding="utf-8")), Path.cwd()
    elif path.is_file():
        content, folder = read_yaml(path), path.resolve().parent
    else:
        raise ValueError(f"{str(name_or_yaml)!r} is no protocol ({', '.join(known)}) and no YAML file.")
    try:
        return _protocol(content, folder, path.stem, data_dir, changes or {})
    except (ValueError, TypeError) as error:
        raise ValueError(f"{name_or_yaml}: {error}") from error


def _protocol(content: Any, folder: Path, name: str, data_dir: str | None, changes: Mapping[str, Any]) -> Protocol:
    if not isinstance(content, dict):
        raise ValueError(f"expected `field: value` lines, got {type(content).__name__}. For example:\n\n{EXAMPLE}")
    content, base = {**content}, changes.get("base", content.get("base"))
    if "objectives" in changes:
        named = {
            each["name"]: each for each in content.get("objectives", ()) if isinstance(each, dict) and "name" in each
        }
        changes = {**changes, "objectives": [named.get(each, each) for each in changes["objectives"]]}
    values = _over(_over(base_settings(base) if base is not None else {}, content), changes)
    values = {"name": name, **{key: value for key, value in values.items() if key != "base"}}
    annotations = get_type_hints(Protocol) | _IN_FILES
    with nullcontext() if set(values) <= set(annotations) else _example():
        check_values(values, annotations, "a protocol")
    if base is not None and values["candidates"] != base_settings(base)["candidates"]:
        # How many candidates to try belongs to the list that they come from.
        own = {**(content.get("training") or {}), **(changes.get("training") or {})}
        given = values.get("training") or {}
        values["training"] = {key: one for key, one in given.items() if key not in OF_A_LIST or key in own}
    if data_dir is not None:
        values["data_dir"] = str(Path(data_dir).absolute())
    elif values.get("data_dir"):
        values["data_dir"] = str((folder / values["data_dir"]).resolve())
    for key in ("datasets", "evaluate_on"):
        values[key] = tuple(_data(each, values, folder) for each in values.get(key, ()))
    if values.get("train_on"):
        values["train_on"] = _data(values["train_on"], values, folder)
    for key in ("shots", "objectives", "seeds", "word_splits", "substitutes", "measure"):
        if key in values:
            values[key] = tuple(values[key])
    if "objectives" in values:
        values["objectives"] = tuple(Method.read(each, folder) for each in values["objectives"])
    values["shots"] = tuple(None if each == FULL else each for each in values.get("shots", (None,)))
    values |= {key: with_numbers(values.get(key) or {}) for key in ("training", "threat_model")}
    values["candidates"] = candidates_path(values.get("candidates", "neighbours"), folder)
    if values.get("model") and (folder / values["model"]).is_dir():
        values["model"] = str(folder / values["model"])
    has_data = any(values.get(key) for key in ("datasets", "train_on", "evaluate_on"))
    has_model = values.get("model") or values.get("tiny")
    with nullcontext() if has_data and has_model else _example():
        return Protocol(**values)


@contextmanager
def _example() -> Iterator[None]:
    """Let a message be followed by a whole file."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{error} For example:\n\n{EXAMPLE}") from error


def _over(under: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Override fields by those of a second mapping, settings field by field; one of `model` and `tiny` goes."""
    values = {**under, **over}
    for key in ("training", "threat_model", "tiny"):
        if isinstance(under.get(key), dict) and isinstance(over.get(key), dict):
            values[key] = {**under[key], **over[key]}
    for one, other in (("model", "tiny"), ("tiny", "model")):
        if over.get(one) and other not in over:
            values.pop(other, None)
    return values


OF_A_LIST = ("num_candidates",)  # fields of a training that suit the base's substitutes alone


def base_settings(dataset: str) -> dict[str, Any]:
    """Return fields of a protocol on a data set that needs no model: its tiny CLIP, training and substitutes.

    `hf-mmcoa train` reads the same file, and on digits starts from the same tiny CLIP and attacks with the same words;
    fields that a protocol sets itself, or does not use, are left out.

    Raises:
        ValueError: if there is no such data set.
    """
    if dataset not in [*TINY, *SHIPPED_FOR]:  # of a list, since a file may give a value without a hash
        raise ValueError(f"`base` must be one of {', '.join([*TINY, *SHIPPED_FOR])}, got {dataset!r}.")
    options = stored_settings("pictograms" if dataset in SHIPPED_FOR else dataset)
    values: dict[str, Any] = {"datasets": [dataset], "candidates": options.pop("candidates", dataset)}
    if dataset in SHIPPED_FOR:
        values["model"] = "pictograms"
    else:
        image_size, patch_size, max_samples = TINY[dataset]
        values["tiny"] = {"image_size": image_size, "patch_size": patch_size, "epochs": options.pop("pretrain_epochs")}
        values["tiny"] |= {"max_samples": max_samples} if max_samples else {}
        values["tiny"] |= {"text_tower": ENGLISH} if dataset == "digits" else {}
    if "max_test_samples" in options:
        values["max_test_samples"] = options.pop("max_test_samples")
    left_out = ("output_dir", "save_strategy", "logging_steps", "per_device_eval_batch_size")
    return values | {"training": {key: value for key, value in options.items() if key not in left_out}}


def _data(given: Any, protocol: Mapping[str, Any], folder: Path) -> Data:
    if not isinstance(given, (str, dict)):
        raise ValueError(f"expected a data set's name or `{{name: ...}}`, got {given!r}.")
    values: dict[str, Any] = {"name": given} if isinstance(given, str) else dict(given)
    check_values(values, get_type_hints(Data), f"data set {values.get('name', given)!r}")
    # The name becomes part of folder names; a name of dots alone would be another folder.
    if not re.fullmatch(r"(?=.*\w)[\w.-]+", str(values.get("name", ""))):
        raise ValueError(
            f"a data set needs a `name` of letters, digits, '.', '_' and '-', got {values.get('name')!r}. "
            "A Hub id or path goes into `dataset` or `data_dir`."
        )
    if values.get("data_dir"):
        values["data_dir"] = str((folder / values["data_dir"]).resolve())
    else:
        values["data_dir"] = protocol.get("data_dir")
    if values.get("candidates"):
        values["candidates"] = candidates_path(values["candidates"], folder)
    return Data(**values)
