"""A result is one file: accuracies, the outcome of every attack on every sample, and the attack specification."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypedDict, get_type_hints

from ..io import differences, read_json, write_json
from ..schema import check_fields, short
from .attack_names import AttackName, worst_cases, worst_outcome
from .by_class import Confusion, check_by_class
from .calibration import Calibration
from .threat_model import ThreatModel
from .uncertainty import Unit, paired_test, unit

FORMAT = 2
BLIND = 1
"""Format of version 0.1, which knew one adversary of the texts and did not name it."""
BLIND_SPEC = {"text_adversaries": ["blind"], "max_texts": 1_000_000, "families": None}
"""What its specifications leave out."""
MAX_NAME = 1000  # characters of a model's, a data set's or an attack's name, which are shown in tables and pictures


class _Required(TypedDict):
    clean_accuracy: float
    attack_spec: dict[str, Any]
    outcomes: dict[str, str]
    row_ids: list[int]
    labels: list[int]
    num_samples: int
    seed: int
    versions: dict[str, str]


class _Fields(_Required, total=False):
    """The fields of a result that code here relies on; beside them are `<name>_accuracy`, those of `interval_fields`
    and `attacks/<name>`.
    """

    training_seed: int
    model: str
    dataset: str
    attacks: list[str]
    batch_size: int
    class_names: list[str]
    prompts: list[str]
    adv_prompts: dict[str, list[str]]
    fingerprints: dict[str, str]
    sanity: list[dict[str, Any]]
    searches: dict[str, str]
    queries: dict[str, int]
    candidates_a_word: dict[str, int]
    class_accuracies: dict[str, list[float | None]]
    confusion: dict[str, Confusion]
    calibration: dict[str, Calibration]


REQUIRED = tuple(get_type_hints(_Required))


def save_result(result: Mapping[str, Any], path: str | Path) -> None:
    """Write a result file in one step: an interrupted writer leaves the old file, or none.

    Raises:
        ValueError: if the result is not valid, or holds what JSON cannot (NaN).
    """
    validate(result, str(path))
    write_json(result, path)


def load_result(path: str | Path) -> dict[str, Any]:
    """Read and validate a result file.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it was cut off in the middle, is no result, or was written in another format.
    """
    path = Path(path)
    try:
        result = read_json(path)
    except ValueError as error:
        partial = partial_folder(path)
        rest = f" The finished batches in {partial} are intact." if partial.exists() else ""
        raise ValueError(f"{error} It was cut off or damaged: delete it and evaluate again.{rest}") from error
    result = upgraded(result)
    validate(result, str(path))
    return result


def upgraded(result: Any) -> Any:
    """Return a result of version 0.1 in today's format: its attacks on texts were blind to the images, and say so now.

    What "sga" and "joint" wrote for each image is called by the adversary that may write it.
    """
    if not isinstance(result, Mapping) or result.get("format") != BLIND:
        return result
    try:
        spec = {**BLIND_SPEC, **result["attack_spec"]}
        names = {name: todays_name(name) for name in result["outcomes"]}
        named = {
            key: {names.get(name, name): value for name, value in result[key].items()}
            for key in TEXT_FIELDS
            if key in result
        }
    except (KeyError, TypeError, AttributeError):
        return result  # `validate` says what is wrong
    single = {f"attacks/{old}": f"attacks/{new}" for old, new in names.items()}
    fields = {single.get(key, key): value for key, value in result.items()}
    return {**fields, **named, "attack_spec": spec, "format": FORMAT}


TEXT_FIELDS = ("outcomes", "adv_prompts")


def todays_name(name: str) -> str:
    """Return today's name of an attack of version 0.1."""
    parts = AttackName.parse(name)
    if parts.kind not in ("text", "multimodal"):
        return name
    return str(parts._replace(adversary={"sga": "own", "joint": "all"}.get(parts.attack, "blind")))


def validate(result: Any, name: str = "result") -> None:
    """Raise ValueError, naming `name` and what is wrong, unless `result` is a complete result."""
    if not isinstance(result, Mapping):
        raise ValueError(f"{name} holds a {type(result).__name__}, not a result of `evaluate_robustness`.")
    if missing := [key for key in REQUIRED if key not in result]:
        raise ValueError(f"{name} is no result of `evaluate_robustness`: it lacks {', '.join(missing)}.")
    if result.get("format") != FORMAT:
        raise ValueError(f"{name} is in format {result.get('format')!r}, this version of hf_mmcoa reads {FORMAT}.")
    _check_fields(result, name)
    try:
        ThreatModel.from_dict(result["attack_spec"])
    except ValueError as error:
        raise ValueError(f"{name}: `attack_spec`: {error}") from error
    total = result["num_samples"]
    if total < 1:
        raise ValueError(f"{name} says num_samples={total}: a result has at least one sample.")
    lengths = {"row_ids": len(result["row_ids"]), "labels": len(result["labels"])}
    lengths |= {f"outcomes of {attack}": len(outcome) for attack, outcome in result["outcomes"].items()}
    if wrong := [f"{length} {what}" for what, length in lengths.items() if length != total]:
        raise ValueError(f"{name} says num_samples={total}, but holds {', '.join(wrong)}.")
    for attack, outcome in result["outcomes"].items():
        if set(outcome) - {"0", "1"}:
            raise ValueError(f"{name}: the outcomes of {attack} hold other signs than 0 and 1.")
        if outcome.count("1") / total != result.get(f"attacks/{attack}"):
            raise ValueError(
                f"{name}: attacks/{attack} is {result.get(f'attacks/{attack}')}, "
                f"its outcomes say {outcome.count('1') / total}."
            )
    try:
        check_by_class(result)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from error


def _check_fields(result: Mapping[str, Any], name: str) -> None:
    """Raise ValueError, naming the field, unless each field has its type: the file may come from anywhere."""
    fractions = [key for key in result if key.endswith("_accuracy") or key.startswith(("attacks/", "beyond/"))]
    ends: dict[str, Any] = {"_interval": list[float], "_interval_over": Unit, "_effective_samples": float}
    types = dict.fromkeys(fractions, float)
    types |= {key: kind for end, kind in ends.items() for key in result if key.endswith(end)}
    try:
        check_fields(result, get_type_hints(_Fields) | types)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from error
    for key in fractions:
        if not 0 <= result[key] <= 1:
            raise ValueError(f"{name}: `{key}` must be a fraction in [0, 1], got {short(result[key])}.")
    named = [result.get("model", ""), result.get("dataset", ""), *result["outcomes"], *result.get("class_names", ())]
    if long := [each for each in (*named, *result) if len(each) > MAX_NAME]:
        raise ValueError(f"{name} holds a name of {len(long[0])} characters, {short(long[0])}; at most {MAX_NAME}.")


def compare(
    first: Mapping[str, Any], second: Mapping[str, Any], ignore: tuple[str, ...] = ()
) -> dict[str, dict[str, Any]]:
    """Compare two models on the same samples under the same threat model, paired by sample.

    Args:
        first: the first model's result of `evaluate_robustness`.
        second: the second model's result.
        ignore: fields of the attack specification that may differ, for example ("seed",).

    Returns:
        For each accuracy that both results hold: `first`, `second`, `difference` (second minus first), `only_first` and
        `only_second`, the numbers of samples that only one of the two classifies correctly, and of the paired test
        `p_value`, `test` and what it is `over`: "McNemar" over "images" where prompts are not attacked, else
        "sign flips" over "classes", because one attacked prompt decides all images of its class.

    Raises:
        ValueError: if the specifications, the rows or the labels differ; the message says where.
    """
    validate(first, "the first result")
    validate(second, "the second result")
    one, two = dict(first["attack_spec"]), dict(second["attack_spec"])
    if found := differences(
        {k: v for k, v in one.items() if k not in ignore}, {k: v for k, v in two.items() if k not in ignore}
    ):
        raise ValueError(f"the results have different threat models and cannot be compared: {'; '.join(found)}.")
    for what in ("dataset", "row_ids", "labels"):
        if first.get(what) != second.get(what):
            raise ValueError(f"the results are not of the same samples and cannot be compared: their {what} differ.")
    a, b = (one.get("fingerprints", {}).get("data") for one in (first, second))
    if a != b:
        raise ValueError(
            f"the results are not of the same samples and cannot be compared: data fingerprints {a} and {b}."
        )
    paired = {}
    for name in worst_cases(first):
        if name not in worst_cases(second):
            continue
        a, b = (worst_outcome(result, worst_cases(result)[name]) for result in (first, second))
        test = asdict(paired_test([a], [b], first["labels"], unit(worst_cases(first)[name])))
        del test["pairs"]  # all samples
        paired[name] = {
            "first": first[name],
            "second": second[name],
            "difference": second[name] - first[name],
            **test,
        }
    return paired


def partial_folder(path: str | Path) -> Path:
    """Return the folder that holds the finished batches of an evaluation until its result file is complete."""
    path = Path(path)
    return path.with_name(path.name + ".partial")
