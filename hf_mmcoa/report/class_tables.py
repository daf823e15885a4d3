"""What a report says of single classes, of calibration and of families of texts; short also for a thousand classes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from .beyond_table import beyond_table
from .charts import Series

CLASSES_SHOWN = 20
"""Up to so many classes all are shown, of more the worst."""
CONFUSIONS_SHOWN = 8
CLASS_SENTENCE = (
    "Accuracy in each class, in percent, and the most frequent confusions under the first attack that misled a sample. "
    "Of more than 20 classes those of the lowest accuracy are shown; the result file holds all."
)
CALIBRATION_SENTENCE = (
    "Of the softmax over the class prompts at the model's own temperature. ECE: expected calibration error in percent, "
    "the mean distance between confidence and accuracy over 15 bins of equal width. NLL: mean negative log-likelihood "
    "of the true class. Under image attack: on the image that misled a sample, or else the last that was tried."
)
FAMILY_SENTENCE = (
    "Accuracy in percent, in the mean over a family's texts and with the worst of them for each image. Only the true "
    "class's prompt is perturbed."
)
Result = Mapping[str, Any]


def class_context(series: Sequence[Series]) -> dict[str, Any]:
    """Return what a page shows beside accuracies: families, classes, calibration and what no ball bounds."""
    return {
        "families": family_table(series),
        "classes": class_tables(series),
        "calibration": calibration_rows(series),
        "beyond": beyond_table(series),
    }


def class_tables(series: Sequence[Series]) -> list[dict[str, Any]]:
    """Return for each model whose first result says so the accuracies of its classes, and its confusions by kind."""
    found = []
    for one in series:
        result = one.results[0]
        if not (accuracies := result.get("class_accuracies")):
            continue
        kinds, names = list(accuracies), result["class_names"]
        shown = worst_classes(result)
        found.append(
            {
                "model": one.name,
                "kinds": kinds,
                "rows": [
                    {"name": names[each], "values": [_percent(accuracies[kind][each]) for kind in kinds]}
                    for each in shown
                ],
                "more": len(names) - len(shown),
                "confusions": [
                    {"kind": kind, "pairs": pairs} for kind in kinds if (pairs := most_confused(result, kind))
                ],
            }
        )
    return found


def worst_classes(result: Result, number: int = CLASSES_SHOWN) -> list[int]:
    """Return the numbers of all classes, or of `number` with samples that have the lowest accuracies if there are more.

    The hardest kind of attack decides, ties are broken by the easier ones.
    """
    accuracies = result["class_accuracies"]
    classes = range(len(result["class_names"]))
    if len(classes) <= number:
        return list(classes)
    with_samples = [each for each in classes if accuracies["clean"][each] is not None]
    hardest_first = list(reversed(accuracies.values()))
    return sorted(with_samples, key=lambda each: [values[each] for values in hardest_first])[:number]


def most_confused(result: Result, kind: str, number: int = CONFUSIONS_SHOWN) -> list[dict[str, Any]]:
    """Return the most frequent confusions: the class, what it is taken for, how often, and of how many samples."""
    entries = result.get("confusion", {}).get(kind)
    if not entries:
        return []
    total: dict[int, int] = {}
    wrong = []
    for label, predicted, count in zip(entries["label"], entries["predicted"], entries["count"], strict=True):
        total[label] = total.get(label, 0) + count
        if label != predicted:
            wrong.append((count, label, predicted))
    names = result["class_names"]
    return [
        {"name": names[label], "predicted": names[predicted], "count": count, "total": total[label]}
        for count, label, predicted in sorted(wrong, key=lambda each: (-each[0], *each[1:]))[:number]
    ]


def calibration_rows(series: Sequence[Series]) -> list[dict[str, str]]:
    """Return a row for each model and kind of image of its first result: ECE, NLL, confidence, accuracy."""
    rows = []
    for one in series:
        result = one.results[0]
        for kind, found in result.get("calibration", {}).items():
            rows.append(
                {
                    "model": one.name,
                    "kind": kind,
                    "ece": _percent(found["ece"]),
                    "nll": f"{found['nll']:.3g}",
                    "confidence": _percent(found["confidence"]),
                    "accuracy": _percent(result.get(f"{kind}_accuracy")),
                }
            )
    return rows


def family_table(series: Sequence[Series]) -> dict[str, Any]:
    """Return the accuracies under families of texts of each model's first result, and which family is worst for it.

    Returns:
        `models` (names), `rows` with the family's `name`, its number of `texts` and a mean and a worst case for each
        model in `values`, and `worst`, one sentence a model; no rows where no family was measured.
    """
    shown = [one for one in series if any(name.startswith("families/") for name in one.results[0])]
    results = [one.results[0] for one in shown]
    names = dict.fromkeys(
        name.split("/")[1]
        for result in results
        for name in result
        if name.startswith("families/") and name.count("/") > 1
    )
    rows = [
        {
            "name": name,
            "texts": next((str(r[key]) for r in results if (key := f"families/{name}/num_texts") in r), "-"),
            "values": [
                (_percent(result.get(f"families/{name}/mean")), _percent(result.get(f"families/{name}/worst")))
                if _has_texts(result, name)
                else ("-", "-")
                for result in results
            ],
        }
        for name in names
    ]
    return {"models": [one.name for one in shown], "rows": rows, "worst": [_worst(one, list(names)) for one in shown]}


def class_lines(result: Result) -> list[str]:
    """Return for a terminal calibration, the worst classes and the most frequent confusions."""
    lines = []
    for row in calibration_rows([Series(name="", place=0, results=[result])]):
        lines.append(f"calibration, {row['kind']}: ECE {row['ece']}, NLL {row['nll']}, confidence {row['confidence']}")
    if not result.get("class_accuracies"):
        return lines
    kind, values = list(result["class_accuracies"].items())[-1]
    worst = worst_classes(result, 3)
    known = sorted((each for each in worst if values[each] is not None), key=lambda each: values[each])[:3]
    said = [f"{_short(result['class_names'][each])} {_percent(values[each])}" for each in known]
    lines.append(f"worst classes, {kind}: {', '.join(said)}")
    for kind in ("clean", "image"):
        pairs = most_confused(result, kind, 3)
        said = [f"{_short(one['name'])} as {_short(one['predicted'])} {one['count']}/{one['total']}" for one in pairs]
        lines += [f"most confused, {kind}: {', '.join(said)}"] if said else []
    return lines


def _worst(series: Series, names: Sequence[str]) -> str:
    result = series.results[0]
    known = [name for name in names if f"families/{name}/worst" in result and _has_texts(result, name)]
    if not known:
        return f"{series.name}: no family alone"
    worst = min(known, key=lambda name: (result[f"families/{name}/worst"], result.get(f"families/{name}/mean", 1.0)))
    said = f"{series.name}: worst is {worst}, {_percent(result[f'families/{worst}/worst'])}"
    together = result.get("families/worst")
    return said if together is None else f"{said}; under the worst text of any family {_percent(together)}"


def _has_texts(result: Result, family: str) -> bool:
    """Return whether a family perturbs any prompt: of one that does not, the accuracy is the clean one."""
    return bool(result.get(f"families/{family}/num_texts", 1))


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f}"


def _short(name: str) -> str:
    return name if len(name) <= 24 else f"{name[:23]}…"
