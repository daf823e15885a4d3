"""Read and check result files from anywhere, and name each result for the report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypedDict

from ..evaluation.attack_names import worst_cases, worst_outcome
from ..evaluation.defended_results import TASK
from ..evaluation.results import MAX_NAME, load_result, upgraded, validate
from ..io import printable, read_json
from ..schema import check_fields
from .gallery import Gallery, gallery_path, load_gallery
from .table import accuracies


@dataclass(frozen=True, kw_only=True)
class LoadedResult:
    """One result and where it comes from.

    Args:
        name: what the result is shown as.
        source: path of its file.
        result: the result itself.
    """

    name: str
    source: str
    result: Mapping[str, Any]


class _Finding(TypedDict):
    """One sanity check of a result; `passed` is None if it could not be run."""

    check: str
    passed: bool | None
    detail: str


class _Curve(TypedDict):
    """Accuracy over the radius of the embedding attack."""

    radius: list[float]
    accuracy: list[float]
    share_of_nearest_class: list[float]


def load_results(given: Sequence[str | Path]) -> tuple[list[LoadedResult], dict[str, Gallery], list[str]]:
    """Read result files and the galleries beside them; a file that cannot be read is left out.

    Args:
        given: files or folders, each also as "NAME=PATH".

    Returns:
        The results; the galleries by the path of their result file; one message for each file that is left out.
    """
    loaded: list[LoadedResult] = []
    galleries: dict[str, Gallery] = {}
    left_out: list[str] = []
    for one in given:
        name, path = named_path(one)
        for file in result_files(path):
            try:
                if is_retrieval(file) or is_defended(file):  # `task_tables` reads them
                    continue
                found = read_results(file)
            except (ValueError, OSError) as error:
                left_out.append(f"{file}: {error.strerror}." if isinstance(error, OSError) else str(error))
                continue
            loaded += [
                LoadedResult(
                    name=printable(_name(name, key, result, file, len(found))), source=str(file), result=result
                )
                for key, result in found.items()
            ]
            try:
                galleries[str(file)] = load_gallery(gallery_path(file))
            except FileNotFoundError:
                pass
            except ValueError as error:
                left_out.append(str(error))
    return loaded, galleries, left_out


def is_retrieval(file: Path) -> bool:
    """Return whether a file can be read and says that it is a result of retrieval."""
    return _task(file) == "retrieval"


def is_defended(file: Path) -> bool:
    """Return whether a file can be read and says that it is a result of a test-time defence."""
    return _task(file) == TASK


def _task(file: Path) -> Any:
    try:
        stored = read_json(file)
    except (ValueError, OSError):
        return None
    return stored.get("task") if isinstance(stored, Mapping) else None


def read_results(path: str | Path) -> dict[str, dict[str, Any]]:
    """Return the results in a file by their names in it; the only result of a file has the name "".

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if the file was cut off, or holds no result or a damaged one; the message names it.
    """
    path = Path(path)
    try:
        stored = read_json(path)
    except ValueError:
        load_result(path)  # raises with a message that also names the finished batches
        raise
    found = {"": stored}
    if isinstance(stored, dict) and "attack_spec" not in stored:
        found = {
            key: value for key, value in stored.items() if isinstance(value, dict) and "attack_spec" in value
        } or found
    found = {name: upgraded(result) for name, result in found.items()}
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
    """Check what the page shows beyond what `validate` checks: the file may come from anywhere."""
    for name in accuracies([result]):
        if len(interval := result.get(f"{name}_interval", ())) != 2:
            raise ValueError(f"{name} has no interval of two numbers.")
        low, high = interval
        if not 0 <= low <= result[name] <= high <= 1:
            raise ValueError(f"{name} is {result[name]} and its interval [{low}, {high}], not fractions in order.")
        if name in worst_cases(result):  # of which `estimate` computes the interval
            share = worst_outcome(result, worst_cases(result)[name]).count("1") / result["num_samples"]
            if share != result[name]:
                raise ValueError(f"{name} is {result[name]}, its outcomes say {share}.")
    rates = [name for name in result if name.endswith("_attack_success_rate")]
    families = [name for name in result if name.startswith("families/")]
    types: dict[str, Any] = {
        "sanity": list[_Finding],
        "embedding_curve": _Curve,
        "nonsense_images": float,
        "average_case": dict[str, float],
        "witnesses": dict[str, list[list[str] | None]],
    }
    check_fields(result, {**types, **dict.fromkeys(rates, float | None), **dict.fromkeys(families, float)})
    _check_curve(result.get("embedding_curve", {}))
    _check_witnesses(result)
    for prompts in result.get("adv_prompts", {}).values():
        if len(prompts) != len(result["prompts"]):
            raise ValueError("`adv_prompts` must hold one text a class.")


def _check_curve(curve: Mapping[str, list[float]]) -> None:
    if len({len(numbers) for numbers in curve.values()}) > 1:
        raise ValueError("`embedding_curve` must hold as many accuracies and shares as radii.")
    if not all(0 <= accuracy <= 1 for accuracy in curve.get("accuracy", ())):
        raise ValueError("`embedding_curve` holds an accuracy that is no fraction.")
    if not all(0 <= number < float("inf") for numbers in curve.values() for number in numbers):
        raise ValueError("`embedding_curve` holds a radius or share that is negative or no finite number.")


def _check_witnesses(result: Mapping[str, Any]) -> None:
    for name, found in result.get("witnesses", {}).items():
        if len(found) != result["num_samples"] or any(each is not None and len(each) != 2 for each in found):
            raise ValueError(f"`witnesses` of {name} must hold two texts or none a sample.")
        if any(len(text) > MAX_NAME for each in found for text in each or ()):
            raise ValueError(f"`witnesses` of {name} holds a text of more than {MAX_NAME} characters.")
        if not all(0 <= label < len(result["prompts"]) for label in result["labels"]):
            raise ValueError("`labels` must number the prompts.")


def named_path(given: str | Path) -> tuple[str | None, Path]:
    """Split "NAME=PATH"; the name is None where none is given. An existing path may hold "=" itself."""
    if isinstance(given, str) and "=" in given and not Path(given).exists():
        name, _, path = given.partition("=")
        return name, Path(path)
    return None, Path(given)


def result_files(path: Path) -> list[Path]:
    """Return the result files of a folder, which may hold other JSON files too; of a file, the file itself."""
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
    """Return what to call a result: as the user says, else its name in its file, else its model, else its file."""
    if given is not None:
        return f"{given} {key}" if count > 1 else given
    model = str(result.get("model", ""))
    nameless = not model or (model.endswith("Model") and "/" not in model)  # a class's name, the same for all
    return key or (file.stem if nameless else model)


def tell_models_apart(loaded: Sequence[LoadedResult], notes: list[str]) -> list[LoadedResult]:
    """Rename results of different models that share a name, and add a sentence about it to `notes`.

    Results of one name with different weights are repetitions of one training if each names its own training seed.
    Otherwise they are different models, for example those before and after a training.
    """
    by_name: dict[str, dict[str, list[LoadedResult]]] = {}
    for one in loaded:
        weights = one.result.get("fingerprints", {}).get("model", one.source)
        by_name.setdefault(one.name, {}).setdefault(weights, []).append(one)
    renamed: dict[int, LoadedResult] = {}
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
