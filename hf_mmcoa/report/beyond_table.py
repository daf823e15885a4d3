"""What a report says of changes of a picture that no ball bounds: the worst case, each attack, and each severity."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..evaluation.attack_names import BEYOND
from .charts import Series

BEYOND_SENTENCE = (
    "Accuracy in percent under changes that no Lp ball bounds, each shown to every correctly classified sample. They "
    "count towards no other number. The worst case is per sample: over words, over severities, or over all rows. Its "
    "95% interval is over images."
)


def beyond_table(series: Sequence[Series]) -> dict[str, Any]:
    """Return the accuracies of each model's first result, by attack and severity.

    Returns:
        `models` (names) and `rows` with the attack's `name`, the `severity` ("" for the worst case) and one of the
        `values` a model; no rows where no such attack was run.
    """
    shown = [one for one in series if f"{BEYOND}_accuracy" in one.results[0]]
    results = [one.results[0] for one in shown]
    rows = []
    if shown:
        rows.append(_row("all", "worst", f"{BEYOND}_accuracy", results))
    attacks = dict.fromkeys(name for result in results for name in result if name.startswith(f"attacks/{BEYOND}/"))
    for key in attacks:
        name = key.removeprefix("attacks/")
        degrees = dict.fromkeys(each for result in results for each in result if each.startswith(f"{name}/"))
        short = name.removeprefix(f"{BEYOND}/")
        rows.append(_row(short, "worst" if degrees else "", key, results))
        rows += [_row(short, each.rpartition("/")[2], each, results) for each in degrees]
    return {"models": [one.name for one in shown], "rows": rows}


def _row(name: str, severity: str, key: str, results: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    values = [f"{100 * result[key]:.1f}" if key in result else "-" for result in results]
    return {"name": name, "severity": severity, "values": values}
