"""What an evaluation says of single classes: their accuracies, and for which other class each is taken."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, TypedDict

from .attack_names import worst_case_attacks, worst_outcome
from .calibration import BINS, Calibration, calibration

KINDS = ("clean", "image", "text", "multimodal")
"""Kinds of attack by which classes are told apart; each is the worst case that `<kind>_accuracy` is over."""


class Confusion(TypedDict):
    """The non-zero entries of a confusion matrix, sorted: `count` samples of `label` are taken for `predicted`."""

    label: list[int]
    predicted: list[int]
    count: list[int]


def numbers_by_class(
    records: Sequence[Mapping[str, Any]], outcomes: Mapping[str, str], labels: Sequence[int], num_classes: int
) -> dict[str, Any]:
    """Return the fields of a result that tell classes and confidences apart.

    Args:
        records: records of `evaluate_batch`, in order.
        outcomes: outcomes of all attacks, in the order of `labels`.
        labels: classes of the samples.
        num_classes: number of classes, with or without samples.

    Returns:
        `class_accuracies` by kind, one a class, None for a class without samples; `confusion` by kind; `calibration`,
        "clean" and, where images were attacked, under the "image" that misled a sample, or the last that was tried.
    """
    groups = _groups(outcomes)
    predicted = {kind: _predictions(records, outcomes, labels, attacks) for kind, attacks in groups.items()}
    sure = {
        kind: calibration(
            [value for record in records for value in record["sureness"][kind]["confidence"]],
            [sign == "1" for sign in worst_outcome({"outcomes": outcomes}, groups[kind])],
            [value for record in records for value in record["sureness"][kind]["nll"]],
        )
        for kind in ("clean", "image")
        if kind in groups
    }
    return {
        "calibration": sure,
        "class_accuracies": class_accuracies(outcomes, labels, num_classes),
        "confusion": {kind: confusion(labels, found) for kind, found in predicted.items()},
    }


def class_accuracies(
    outcomes: Mapping[str, str], labels: Sequence[int], num_classes: int
) -> dict[str, list[float | None]]:
    """Return for each kind of attack that was run the accuracy in each class; None for one without samples."""
    total = Counter(labels)
    found: dict[str, list[float | None]] = {}
    for kind, attacks in _groups(outcomes).items():
        signs = worst_outcome({"outcomes": outcomes}, attacks)
        right = Counter(label for label, sign in zip(labels, signs, strict=True) if sign == "1")
        found[kind] = [right[each] / total[each] if total[each] else None for each in range(num_classes)]
    return found


def confusion(labels: Sequence[int], predicted: Sequence[int]) -> Confusion:
    """Return how often each class is taken for each.

    Example:
        >>> confusion([0, 0, 1, 1], [0, 1, 1, 1])
        {'label': [0, 0, 1], 'predicted': [0, 1, 1], 'count': [1, 1, 2]}
    """
    counted = sorted(Counter(zip(labels, predicted, strict=True)).items())
    return {
        "label": [label for (label, _), _ in counted],
        "predicted": [other for (_, other), _ in counted],
        "count": [count for _, count in counted],
    }


def check_by_class(result: Mapping[str, Any]) -> None:
    """Raise ValueError if the numbers of classes in a result contradict its outcomes; older results hold none."""
    classes, labels = len(result.get("class_names", ())), result["labels"]
    if not {"class_accuracies", "confusion", "calibration"} & set(result):
        return
    if not all(0 <= label < classes for label in labels):
        raise ValueError(f"`labels` must number the {classes} `class_names`.")
    own = class_accuracies(result["outcomes"], labels, classes)
    if result.get("class_accuracies", own) != own:
        raise ValueError("`class_accuracies` are not those of the outcomes.")
    for kind, entries in result.get("confusion", {}).items():
        total, right = Counter(labels), Counter[int]()
        if kind not in own or len({len(column) for column in entries.values()}) != 1:
            raise ValueError(f"`confusion` of {kind!r} must hold as many labels as predictions and counts.")
        for label, predicted, count in zip(entries["label"], entries["predicted"], entries["count"], strict=True):
            if count < 1 or not 0 <= predicted < classes:
                raise ValueError(f"`confusion` of {kind!r} holds a count below 1, or a class that is not named.")
            total[label] -= count
            right[label] += count if label == predicted else 0
        signs = worst_outcome(result, _groups(result["outcomes"])[kind])
        expected = Counter(label for label, sign in zip(labels, signs, strict=True) if sign == "1")
        if any(total.values()) or +right != expected:
            raise ValueError(f"`confusion` of {kind!r} is not that of the outcomes.")
    for kind, found in result.get("calibration", {}).items():
        _check_calibration(kind, found, len(labels))


def _check_calibration(kind: str, found: Calibration, total: int) -> None:
    bins = found["bins"]
    fractions = [found["ece"], found["confidence"], *bins["confidence"], *bins["accuracy"]]
    if kind not in KINDS or {len(bins["count"]), len(bins["confidence"]), len(bins["accuracy"])} != {BINS}:
        raise ValueError(f"`calibration` of {kind!r} must hold {BINS} bins.")
    if not all(each is None or 0 <= each <= 1 for each in fractions) or not 0 <= found["nll"] < float("inf"):
        raise ValueError(f"`calibration` of {kind!r} holds a number outside its range.")
    empty = [count == 0 for count in bins["count"]]
    if sum(bins["count"]) != total or min(bins["count"]) < 0:
        raise ValueError(f"`calibration` of {kind!r} is not that of {total} samples.")
    if any([each is None for each in bins[key]] != empty for key in ("confidence", "accuracy")):  # type: ignore[literal-required]
        raise ValueError(f"`calibration` of {kind!r} holds a number of an empty bin, or none of another.")


def _groups(outcomes: Mapping[str, str]) -> dict[str, list[str]]:
    """Return for each kind that was run the attacks of its worst case."""
    groups = worst_case_attacks(list(outcomes), by_adversary=False)
    return {kind: groups[f"{kind}_accuracy"] for kind in KINDS if f"{kind}_accuracy" in groups}


def _predictions(
    records: Sequence[Mapping[str, Any]],
    outcomes: Mapping[str, str],
    labels: Sequence[int],
    attacks: Sequence[str],
) -> list[int]:
    """Return what each sample is taken for: its class if it stands, else the winner under the first that misled it."""
    rivals = {
        name: [rival for record in records for rival in record["rivals"].get(name, [None] * len(record["labels"]))]
        for name in attacks
    }
    signs = worst_outcome({"outcomes": outcomes}, attacks)
    return [
        label if sign == "1" else next(found[row] for found in rivals.values() if found[row] is not None)
        for row, (label, sign) in enumerate(zip(labels, signs, strict=True))
    ]
