"""Results of a defended model: what is in the file, what it must agree with, and its table.

A defence may draw at random, so what is kept of a sample is how many of several answers were right; all numbers are
computed from those counts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..io import read_json, write_json
from ..schema import check
from .clusters import cluster_interval
from .statistics import wilson_interval
from .threat_model import ThreatModel

TASK = "defence"
DEFENDED_FORMAT = 1
COLUMNS = {
    "undefended/clean": "undefended_clean_accuracy",
    "undefended/static": "undefended_static_accuracy",
    "clean": "clean_accuracy",
    "static": "static_accuracy",
    "adaptive": "adaptive_accuracy",
    "robust": "robust_accuracy",
}
"""The accuracy that each column of `answers` gives, in reading order."""
LABELS = {
    "undefended_clean_accuracy": "undefended: clean",
    "undefended_static_accuracy": "undefended: attacked",
    "clean_accuracy": "clean",
    "static_accuracy": "static",
    "adaptive_accuracy": "adaptive",
    "robust_accuracy": "worst",
}
"""What tables call them."""


def accuracies_of(answers: Mapping[str, Sequence[int]], draws: int) -> dict[str, Any]:
    """Return the accuracy of each column, the mean share of right answers, and its 95% interval over images.

    Args:
        answers: by column the right answers to each sample: of `draws` with the defence, of one without it.
        draws: answers to each sample.

    Example:
        >>> accuracies_of({"static": [2, 1, 0, 1]}, draws=2)["static_accuracy"]
        0.5
    """
    numbers: dict[str, Any] = {}
    for column, name in COLUMNS.items():
        if column not in answers:
            continue
        asked, right = 1 if column.startswith("undefended/") else draws, answers[column]
        numbers[name] = sum(right) / (asked * len(right))
        if asked == 1:
            numbers[f"{name}_interval"] = wilson_interval(sum(right), len(right))
        else:
            found = cluster_interval([count / asked for count in right], {"images": range(len(right))})
            numbers[f"{name}_interval"] = [found.low, found.high]
    return numbers


def save_defended(result: Mapping[str, Any], path: str | Path) -> None:
    """Write a result file in one step.

    Raises:
        ValueError: if the result is not complete.
    """
    validate_defended(result, str(path))
    write_json(result, path)


def load_defended(path: str | Path) -> dict[str, Any]:
    """Read and check a result file of `evaluate_defence`.

    Raises:
        FileNotFoundError: if there is none.
        ValueError: if it was cut off or is no such result, or its accuracies are not those of its answers.
    """
    result = read_json(path)
    validate_defended(result, str(path))
    return dict(result)


def validate_defended(result: Any, name: str = "result") -> None:
    """Raise ValueError, naming `name` and what is wrong, unless `result` is a complete result of `evaluate_defence`."""
    if not isinstance(result, Mapping) or result.get("task") != TASK or result.get("format") != DEFENDED_FORMAT:
        raise ValueError(f"{name} is no result of `evaluate_defence` in format {DEFENDED_FORMAT}.")
    fields = {"answers": dict[str, list[int]], "draws": int, "num_samples": int, "defence": str, "model": str}
    fields |= {"dataset": str, "eot_draws": int, "adaptive_steps": int, "adaptive_attacks": list[str]}
    fields |= {"row_ids": list[int], "labels": list[int], "sanity": list[dict[str, Any]], "attack_spec": dict[str, Any]}
    try:
        for field, kind in fields.items():
            check(result.get(field), kind, field)
        ThreatModel.from_dict(result["attack_spec"])
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from error
    answers, draws = result["answers"], result["draws"]
    if missing := [column for column in COLUMNS if column not in answers]:
        raise ValueError(f"{name} lacks the answers {', '.join(missing)}: a defence is shown with all columns or not.")
    lengths = {column: len(right) for column, right in answers.items()}
    lengths |= {"row_ids": len(result["row_ids"]), "labels": len(result["labels"])}
    if draws < 1 or result["num_samples"] < 1 or set(lengths.values()) != {result["num_samples"]}:
        raise ValueError(f"{name} says {draws} draws of {result['num_samples']} samples, but holds {lengths}.")
    if wrong := [column for column, right in answers.items() if not 0 <= min(right) <= max(right) <= draws]:
        raise ValueError(f"{name}: the answers {wrong[0]} are not between 0 and {draws}.")
    for field, value in accuracies_of(answers, draws).items():
        if field.endswith("_accuracy") and result.get(field) != value:
            raise ValueError(f"{name}: {field} is {result.get(field)}, its answers say {value}.")


def defended_table(result: Mapping[str, Any]) -> str:
    """Return the accuracies of a result in percent with their intervals, a row each, for a terminal."""
    return "\n".join(
        f"{label:22}{100 * result[name]:5.1f}  [{100 * low:.1f}, {100 * high:.1f}]"
        for name, label in LABELS.items()
        for low, high in [result[f"{name}_interval"]]
    )
