"""Put measured results beside a published table: what holds, what differs, and what could not be measured."""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from ..evaluation.agreement import agreement
from ..evaluation.provenance import versions
from ..evaluation.sanity import failed
from ..io import write_json, write_text
from ..report.markdown import Verbatim, escape_markdown, markdown_lines
from .published_table import MEAN, PublishedNumber, PublishedTable

Verdict = Literal["holds", "differs", "not measured"]
Place = tuple[str, str, str | None]
"""Names of a model and of a data set in the table, and a radius as the table writes it; None for clean accuracy."""


@dataclass(frozen=True, kw_only=True)
class Compared:
    """A published number beside ours, as fractions.

    Args:
        model, data: names in the table.
        epsilon: radius as the table writes it; None for clean accuracy.
        published: the number.
        published_samples: samples of each data set that it was published on; None for all.
        measured: our number, None if it was not measured.
        low, high: the 95% interval in which a true publication lies, see `agreement`.
        samples: samples that ours was measured on, of all data sets together.
        verdict: "holds" if the publication lies in the interval.
        why: what was not measured, and why.
    """

    model: str
    data: str
    epsilon: str | None
    published: float
    published_samples: int | None
    measured: float | None = None
    low: float | None = None
    high: float | None = None
    samples: int = 0
    verdict: Verdict = "not measured"
    why: str = ""


def compare_table(
    table: PublishedTable, results: Mapping[Place, Mapping[str, Any]], problems: Mapping[Place, str]
) -> list[Compared]:
    """Return every number of a table beside what was measured.

    Args:
        table: the publication.
        results: results of `evaluate_robustness` by their place in the table. Clean accuracy is taken from the result
            of any radius.
        problems: what was wrong in places that have no result.
    """
    return [_compare(table, number, results, problems) for number in table.numbers]


def _compare(
    table: PublishedTable,
    number: PublishedNumber,
    results: Mapping[Place, Mapping[str, Any]],
    problems: Mapping[Place, str],
) -> Compared:
    published: dict[str, Any] = {
        "model": number.model,
        "data": number.data,
        "epsilon": number.epsilon,
        "published": round(number.percent / 100, table.decimals + 2),
        "published_samples": table.published_samples(number.epsilon),
    }
    accuracy = "clean_accuracy" if number.epsilon is None else "image_accuracy"
    counts, missing = [], {}
    for data in table.data_of(number):
        radii = [number.epsilon] if number.epsilon is not None else [None, *table.epsilons]
        places = [(number.model, data.name, epsilon) for epsilon in radii]
        result = next((results[place] for place in places if place in results), None)
        if result is None:
            missing[data.name] = next((problems[place] for place in places if place in problems), "not yet")
        else:
            counts.append((round(result[accuracy] * result["num_samples"]), result["num_samples"]))
    if missing:
        of = f"{len(missing)} of {len(missing) + len(counts)} data sets are missing: " if number.data == MEAN else ""
        reasons = "; ".join(f"{name}: {reason}" for name, reason in missing.items())
        return Compared(**published, why=of + reasons)
    found = agreement(
        number.percent / 100,
        counts,
        table.published_samples(number.epsilon),
        rounding=0.5 * 10.0 ** -(table.decimals + 2),
    )
    return Compared(
        **published,
        measured=found.measured,
        low=found.low,
        high=found.high,
        samples=sum(total for _, total in counts),
        verdict="holds" if found.holds else "differs",
    )


def write_reproduction(
    table: PublishedTable,
    models: Mapping[str, str],
    compared: list[Compared],
    results: Mapping[Place, Mapping[str, Any]],
    folder: str | Path,
) -> None:
    """Write `reproduction.json` and `reproduction.md` into a folder.

    Args:
        table: the publication.
        models: name in the table -> the folder, file or id that was measured.
        compared: see `compare_table`.
        results: see `compare_table`; failed sanity checks and versions are taken from them.
        folder: where to write.
    """
    warned = [
        f"{model} on {data}, epsilon {epsilon}: {one['check']}: {one['detail']}"
        for (model, data, epsilon), result in results.items()
        for one in failed(result["sanity"])
    ]
    content = {
        "table": table.name,
        "title": table.title,
        "date": datetime.date.today().isoformat(),
        "versions": versions(),
        "models": dict(models),
        "read": dict(table.read),
        "numbers": [asdict(one) for one in compared],
        "differences": list(table.differences),
        "unknown": list(table.unknown),
        "failed_sanity_checks": warned,
    }
    write_json(content, Path(folder) / "reproduction.json")
    write_text("\n".join(reproduction_lines(table, compared, warned)) + "\n", Path(folder) / "reproduction.md")


def reproduction_lines(table: PublishedTable, compared: list[Compared], warned: list[str]) -> list[str]:
    """Return the lines of the Markdown page: the table, what its interval is, and what remains different."""
    rows = [
        [
            one.model,
            one.data if one.data != MEAN else f"mean of {len(table.data)}",
            "clean" if one.epsilon is None else one.epsilon,
            f"{100 * one.published:.{table.decimals}f}",
            "" if one.measured is None else f"{100 * one.measured:.{table.decimals}f}",
            Verbatim("" if one.low is None or one.high is None else f"[{100 * one.low:.1f}, {100 * one.high:.1f}]"),
            str(one.samples or ""),
            one.verdict,
        ]
        for one in compared
    ]
    header = ["model", "data", "epsilon", "published", "measured", "95% interval", "samples", "verdict"]
    lines = [f"# {escape_markdown(table.title)}", ""]
    lines += markdown_lines(header, rows, ["left", "left", "left", "right", "right", "right", "right", "left"])
    lines += [
        "",
        "Accuracy in percent. A published number holds if it lies in the interval: that of the measured number, "
        "widened by the sampling error of the published one and by its rounding.",
    ]
    reasons: dict[str, list[str]] = {}
    for one in compared:
        if one.why:
            reasons.setdefault(one.why, []).append(f"{one.model}, {one.epsilon or 'clean'}")
    sections = {
        "Not measured": [f"{'; '.join(numbers)}: {why}" for why, numbers in reasons.items()],
        "Sanity checks that failed": warned,
        "What remains different": list(table.differences),
        "What could not be read": list(table.unknown),
        "Where each fact was read": [f"{fact}: {place}" for fact, place in table.read.items()],
    }
    for heading, entries in sections.items():
        if entries:
            lines += ["", f"## {heading}", "", *(f"- {escape_markdown(entry)}" for entry in entries)]
    return lines
