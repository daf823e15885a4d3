"""Read result files from anywhere, checked, each result under the name that it is shown by."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ..evaluation.results import MAX_NAME, load_result, validate
from ..io import printable, read_json
from .gallery import Gallery, gallery_path, load_gallery
from .table import accuracies


@dataclass(frozen=True, kw_only=True)
class _Loaded:
    name: str
    source: str
    result: Mapping[str, Any]


# Reading


def _load(given: Sequence[str | Path]) -> tuple[list[_Loaded], dict[str, Gallery], list[str]]:
    """Results, galleries by the file they lie beside, and what could not be read."""
    loaded: list[_Loaded] = []
    galleries: dict[str, Gallery] = {}
    left_out: list[str] = []
    for one in given:
        name, path = _named_path(one)
        for file in _files(path):
            try:
                found = read_results(file)
            except (ValueError, OSError) as error:
                left_out.append(f"{file}: {error.strerror}." if isinstance(error, OSError) else str(error))
                continue
            loaded += [
                _Loaded(name=printable(_name(name, key, result, file, len(found))), source=str(file), result=result)
                for key, result in found.items()
            ]
            try:
                galleries[str(file)] = load_gallery(gallery_path(file))
            except FileNotFoundError:
                pass
            except ValueError as error:
                left_out.append(str(error))
    return loaded, galleries, left_out


def read_results(path: str | Path) -> dict[str, dict[str, Any]]:
    """The results in a file by name; a file that is one result has it under "".

    Raises:
        FileNotFoundError: if there is none.
        ValueError: if the file was cut off, or holds no result or a damaged one; the text names it.
    """
    path = Path(path)
    try:
        stored = read_json(path)
    except ValueError:
        load_result(path)  # raises, and says what became of the finished batches
        raise
    found = {"": stored}
    if isinstance(stored, dict) and "attack_spec" not in stored:
        found = {
            key: value for key, value in stored.items() if isinstance(value, dict) and "attack_spec" in value
        } or found
    for name, result in found.items():
        if len(name) > MAX_NAME:
            raise ValueError(f"{path} holds a result with a name of {len(name)} characters; at most {MAX_NAME}.")
        where = f"{path}, {name!r}" if name else str(path)
        try:
            validate(result, where)
            _check_shown(result)
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"{where} is damaged ({type(error).__name__}: {error}).") from error
        except ValueError as error:
            raise ValueError(str(error) if where in str(error) else f"{where} is damaged: {error}") from error
    return found


def _check_shown(result: Mapping[str, Any]) -> None:
    """Raise unless what the page shows has the form it counts on: the file may come from anywhere."""
    for name in accuracies([result]):
        if len(interval := result.get(f"{name}_interval", ())) != 2:
            raise ValueError(f"{name} has no interval of two numbers.")
        low, high = interval
        if not 0 <= low <= result[name] <= high <= 1:
            raise ValueError(f"{name} is {result[name]} and its interval [{low}, {high}], not fractions in order.")
    for finding in result.get("sanity", []):
        if not {"check", "passed", "detail"} <= set(finding):
            raise ValueError(f"a sanity finding holds {sorted(finding)}.")
    for name in ("versions", "fingerprints"):
        if not isinstance(result.get(name, {}), dict):
            raise ValueError(f"{name} is {result[name]!r}, not a mapping.")
    for name, value in result.items():
        if name.endswith("_attack_success_rate") and not (value is None or isinstance(value, (int, float))):
            raise ValueError(f"{name} is {value!r}, not a number.")
    for prompts in result.get("adv_prompts", {}).values():
        if len(prompts) != len(result["prompts"]) or not all(isinstance(prompt, str) for prompt in prompts):
            raise ValueError("adv_prompts are not one text a class.")


def _named_path(given: str | Path) -> tuple[str | None, Path]:
    """ "NAME=PATH" apart; a path that exists as it stands is one, whatever signs it has."""
    if isinstance(given, str) and "=" in given and not Path(given).exists():
        name, _, path = given.partition("=")
        return name, Path(path)
    return None, Path(given)


def _files(path: Path) -> list[Path]:
    """A file, or a folder's result files: other JSON files lie in a model's folder too."""
    if not path.is_dir():
        return [path]
    found = [
        file
        for file in sorted(path.glob("*.json"))
        if file.is_file() and not file.name.endswith(".gallery.json") and _looks_like_result(file)
    ]
    return found or [path / "robustness.json"]


def _looks_like_result(file: Path) -> bool:
    return '"attack_spec"' in file.read_text(encoding="utf-8", errors="replace")


def _name(given: str | None, key: str, result: Mapping[str, Any], file: Path, count: int) -> str:
    """What a result is called: as the user says, else its name in its file, else its model, else its file."""
    if given is not None:
        return f"{given} {key}" if count > 1 else given
    model = str(result.get("model", ""))
    nameless = not model or (model.endswith("Model") and "/" not in model)  # a class's name, the same for all
    return key or (file.stem if nameless else model)


# Sorting


def _tell_models_apart(loaded: Sequence[_Loaded], notes: list[str]) -> list[_Loaded]:
    """Give the results of one name names of their own unless they are repetitions of one training.

    A repetition is the same method with another training seed, and says so in its file. The same name with other
    weights and no such seed is another model: before and after a training, for example.
    """
    by_name: dict[str, dict[str, list[_Loaded]]] = {}
    for one in loaded:
        weights = one.result.get("fingerprints", {}).get("model", one.source)
        by_name.setdefault(one.name, {}).setdefault(weights, []).append(one)
    renamed: dict[int, _Loaded] = {}
    for name, models in by_name.items():
        seeds = [{one.result.get("training_seed") for one in members} for members in models.values()]
        distinct = {seed for own in seeds for seed in own}
        if len(models) == 1 or (None not in distinct and len(distinct) == len(models) == sum(map(len, seeds))):
            continue
        files = [Path(members[0].source).stem for members in models.values()]
        for number, (file, members) in enumerate(zip(files, models.values(), strict=True), 1):
            label = file if files.count(file) == 1 else str(number)
            renamed |= {id(one): replace(one, name=f"{name} ({label})") for one in members}
        notes.append(
            f"{len(models)} models with different weights are called {name} and their files hold no training seeds: "
            "they are shown apart and not averaged."
        )
    return [renamed.get(id(one), one) for one in loaded]
