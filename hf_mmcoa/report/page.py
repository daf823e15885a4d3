"""Write result files as a page for people: HTML, Markdown and pictures.

Result files may come from anywhere. Their texts are escaped, no path in them is opened, and the page runs no script and
loads nothing. Results of different threat models or samples never share a table: each setting has its own section,
which states its differences from the first.
"""

from __future__ import annotations

import base64
import io
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..evaluation.results import compare
from ..evaluation.sanity import failed
from ..io import fingerprint, printable, write_bytes, write_text
from .beyond_table import BEYOND_SENTENCE
from .charts import (
    Series,
    accuracy_chart,
    epsilon_chart,
    radius_chart,
    radius_curve,
    robust_accuracy,
    tradeoff_chart,
)
from .class_tables import (
    CALIBRATION_SENTENCE,
    CLASS_SENTENCE,
    FAMILY_SENTENCE,
    class_context,
)
from .conditions import attacks_texts, count, describe, fraction, interval_sentence, measured_kinds, most_candidates
from .gallery import THREATS, Gallery, to_picture, word_differences
from .load import LoadedResult, load_results, tell_models_apart
from .markdown_page import difference_sentence, markdown_page
from .picture import HEADS, SHARP_BELOW, save_picture, threat_sentence
from .table import Estimate, accuracies, estimate, main_columns, markdown_table, notes, setting_differences
from .task_tables import task_tables
from .text_attacks import (
    CURVE_SENTENCE,
    MISLED_SENTENCE,
    SEARCH_SENTENCE,
    adversary_table,
    curve_rows,
    misleading_texts,
    searches,
)
from .titles import title_parts

TEMPLATE = "report_template.html"
PROMPTS_SHOWN = 12


@dataclass(frozen=True, kw_only=True)
class Section:
    """Results that may be compared: of one threat model, on the same samples."""

    series: Sequence[Series]
    galleries: Sequence[Gallery]
    differences: Sequence[str]  # in setting, from the first section

    @property
    def first(self) -> Mapping[str, Any]:
        """Return any result of the section: all share the setting."""
        return self.series[0].results[0]


@dataclass(frozen=True, kw_only=True)
class Report:
    """The files that `write_report` wrote.

    Args:
        page: `index.html`.
        markdown: `report.md`.
        pictures: the PNG files.
        left_out: one message for each file that could not be read.
        notes: further remarks for the reader, such as a result that was given twice.
    """

    page: Path
    markdown: Path
    pictures: Sequence[Path]
    left_out: Sequence[str]
    notes: Sequence[str]


def write_report(results: Sequence[str | Path], output: str | Path, title: str = "Robustness report") -> Report:
    """Write `index.html`, `report.md` and PNGs into a folder.

    Args:
        results: result files, files of several named results such as `robustness.json` with "before" and "after", or
            folders of result files. "NAME=PATH" names a file's result. Results of one name and one setting are averaged
            if they are repetitions: each has its own `training_seed`, or all were measured on the same weights. Other
            results that share a name are different models and are shown separately. A gallery beside a file
            (`gallery_path`) is shown.
        output: folder, created if need be.
        title: title of the page.

    Raises:
        ValueError: if no file holds a result; the message says why for each. Otherwise unreadable files are named in
            the report and in `Report.left_out`.
    """
    tables, left_out = task_tables(results)
    loaded, galleries, unreadable = load_results(results)
    left_out += unreadable
    if not loaded and not tables:
        raise ValueError("there is nothing to report:\n" + "\n".join(left_out or ["no results were given"]))
    notes: list[str] = []
    loaded = tell_models_apart(loaded, notes)
    sections = _sections(loaded, galleries, notes)
    output = Path(output)
    output.mkdir(parents=True, exist_ok=True)
    pictures: dict[str, bytes] = {}
    contexts = []
    titles = title_parts([section.first for section in sections])
    for number, (section, title_of) in enumerate(zip(sections, titles, strict=True), 1):
        pictures[f"accuracy-{number}.png"] = accuracy_chart(section.series)
        if len(section.series) > 1 and robust_accuracy(section.series):
            pictures[f"tradeoff-{number}.png"] = tradeoff_chart(section.series)
        if any(map(radius_curve, section.series)):
            pictures[f"radius-{number}.png"] = radius_chart(section.series)
        contexts.append(_section_context(section, number, ", ".join(title_of)))
    for number, curves in enumerate(_sweeps(loaded), 1):
        pictures[f"epsilon-{number}.png"] = epsilon_chart(curves)
    written = []
    for name, png in pictures.items():
        write_bytes(png, output / name)
        written.append(output / name)
    gallery_names: dict[int, list[str]] = {}
    for number, section in enumerate(sections, 1):
        for index, gallery in enumerate(section.galleries, 1):
            name = f"gallery-{number}-{index}.png"
            save_picture(gallery, output / name)
            gallery_names.setdefault(number, []).append(name)
            written.append(output / name)
    sweeps = [
        {
            "light": _data_uri(epsilon_chart(curves)),
            "dark": _data_uri(epsilon_chart(curves, dark=True)),
            "names": list(curves),
        }
        for curves in _sweeps(loaded)
    ]
    page = (
        _environment()
        .get_template(TEMPLATE)
        .render(
            title=title,
            left_out=left_out,
            notes=notes,
            sections=contexts,
            tables=tables,
            sweeps=sweeps,
            runs=_runs(loaded),
            threats=[{"key": key, "head": HEADS[key]} for key in THREATS],
            num_models=len({one.name for one in loaded}),
        )
    )
    write_text(page, output / "index.html")
    write_text(
        markdown_page(title, contexts, [*left_out, *notes], sorted(pictures), gallery_names, tables, _runs(loaded)),
        output / "report.md",
    )
    return Report(
        page=output / "index.html", markdown=output / "report.md", pictures=written, left_out=left_out, notes=notes
    )


def _setting(result: Mapping[str, Any], *ignored: str) -> str:
    spec = {key: value for key, value in result["attack_spec"].items() if key not in ("seed", *ignored)}
    return fingerprint([spec, result.get("dataset"), result["row_ids"], result["labels"]])


def _sections(loaded: Sequence[LoadedResult], galleries: Mapping[str, Gallery], notes: list[str]) -> list[Section]:
    settings: dict[str, dict[str, list[LoadedResult]]] = {}
    places = _places(loaded)
    for one in loaded:
        settings.setdefault(_setting(one.result), {}).setdefault(one.name, []).append(one)
    sections: list[Section] = []
    placed: set[str] = set()
    for members in settings.values():
        series = [_series(name, places[name], repeated, notes) for name, repeated in members.items()]
        sources = dict.fromkeys(one.source for repeated in members.values() for one in repeated)
        own = [source for source in sources if source in galleries and source not in placed]
        placed.update(own)
        differences = setting_differences(sections[0].first, series[0].results[0]) if sections else []
        sections.append(
            Section(series=series, galleries=[galleries[source] for source in own], differences=differences)
        )
    return sections


def _places(loaded: Sequence[LoadedResult]) -> dict[str, int]:
    """Number the models by first appearance."""
    return {name: place for place, name in enumerate(dict.fromkeys(one.name for one in loaded))}


def _series(name: str, place: int, members: Sequence[LoadedResult], notes: list[str]) -> Series:
    """Collect the results of one name and setting; a result that was given twice counts once."""
    distinct: dict[str, LoadedResult] = {}
    for one in members:
        key = fingerprint([one.result["outcomes"], one.result["seed"], one.result.get("fingerprints", {}).get("model")])
        if key in distinct:
            notes.append(f"{one.source} repeats {distinct[key].source} ({name}): same weights and seed, counted once.")
        distinct.setdefault(key, one)
    return Series(name=name, place=place, results=[one.result for one in distinct.values()])


def _sweeps(loaded: Sequence[LoadedResult]) -> list[dict[str, list[tuple[float, Series]]]]:
    """Collect curves over epsilon: results of a model that differ only in epsilon and the matching step size."""
    groups: dict[str, dict[str, dict[float, list[LoadedResult]]]] = {}
    places = _places(loaded)
    for one in loaded:
        spec = one.result["attack_spec"]
        epsilon = float(spec["epsilon"])
        if epsilon == 0 or "image_accuracy" not in one.result:
            continue
        key = f"{_setting(one.result, 'epsilon', 'step_size')} {float(spec['step_size']) / epsilon:.6g}"
        groups.setdefault(key, {}).setdefault(one.name, {}).setdefault(epsilon, []).append(one)
    curves = [
        {
            name: [(epsilon, _series(name, places[name], repeated, [])) for epsilon, repeated in sorted(points.items())]
            for name, points in group.items()
            if len(points) > 1
        }
        for group in groups.values()
    ]
    return [one for one in curves if one]


# Words and numbers for the page


def _section_context(section: Section, number: int, title: str) -> dict[str, Any]:
    series = section.series
    results = [result for one in series for result in one.results]
    labels = accuracies(results)
    rows = []
    for name, label in main_columns(labels).items():
        bars = [
            {
                "place": one.place,
                "name": one.name,
                **(_percent(estimate(one.results, name)) if one.has(name) else {"value": None}),
            }
            for one in series
        ]
        rows.append({"label": label, "bars": bars, "difference": _paired(series, name)})
    tradeoff = None
    if len(series) > 1 and robust_accuracy(series):
        tradeoff = _picture(tradeoff_chart, series)
    curve = curve_rows(series)
    spec = section.first["attack_spec"]
    seeds = list(dict.fromkeys(result["seed"] for one in series for result in one.results))
    checks = [(one, finding) for one in series for result in one.results for finding in result.get("sanity", [])]
    return {
        "number": number,
        "title": title,
        "summary": describe(spec, most_candidates(section.first), measured_kinds(section.first)),
        "differences": section.differences,
        "models": [{"place": one.place, "name": one.name, "count": len(one.results)} for one in series],
        "rows": rows,
        "table": markdown_table({one.name: one.results for one in series}),
        "intervals": interval_sentence(
            averaged=any(len(one.results) > 1 for one in series), texts=attacks_texts(results)
        ),
        "num_samples": section.first["num_samples"],
        "tradeoff": tradeoff,
        "by_adversary": _adversary_context(series),
        "adversaries": notes({one.name: one.results for one in series}, name_of=str),
        "curve": {**_picture(radius_chart, series), "rows": curve} if curve else None,
        **class_context(series),
        "misled": misleading_texts(series),
        "searches": searches(series),
        "spec": [{"name": name, "value": _plain(value)} for name, value in {**spec, "seed": seeds}.items()],
        "failed": [
            {"model": one.name, "check": finding["check"], "detail": finding["detail"]}
            for one, finding in checks
            if finding in failed([finding])
        ],
        "open": [
            {"model": one.name, "check": finding["check"], "detail": finding["detail"]}
            for one, finding in checks
            if finding["passed"] is None
        ],
        "checks": len(checks),
        "unchecked": [one.name for one in series if not all(result.get("sanity") for result in one.results)],
        "attacks": _attack_rows(series),
        "success": _success_rows(series, labels),
        "prompts": _prompt_rows(series),
        "galleries": [_gallery_context(gallery, spec) for gallery in section.galleries],
    }


def _adversary_context(series: Sequence[Series]) -> dict[str, Any]:
    table = adversary_table(series)
    return {
        "names": table["names"],
        "rows": [
            {
                "label": row["label"],
                "models": [
                    {
                        "place": one.place,
                        "name": one.name,
                        "cells": [None if found is None else _percent(found) for found in estimates],
                    }
                    for one, estimates in row["models"]
                ],
            }
            for row in table["rows"]
        ],
    }


def _percent(found: Estimate) -> dict[str, Any]:
    return {
        "value": f"{100 * found.value:.1f}",
        "low": f"{100 * found.low:.1f}",
        "high": f"{100 * found.high:.1f}",
    }


def _paired(series: Sequence[Series], name: str) -> str:
    """Return the paired difference of two single results, second minus first, with the p-value of `compare`."""
    if len(series) != 2 or any(len(one.results) != 1 for one in series):
        return ""
    try:
        found = compare(series[0].results[0], series[1].results[0], ignore=("seed",))
    except (ValueError, KeyError):
        return ""  # not the same samples: there is no paired test
    if name not in found:
        return ""
    p_value = found[name]["p_value"]
    shown = "< 0.001" if p_value < 0.001 else f"= {p_value:.3f}"
    return f"{100 * found[name]['difference']:+.1f} points, p {shown} over {found[name]['over']}"


def _attack_rows(series: Sequence[Series]) -> list[dict[str, Any]]:
    names = dict.fromkeys(
        name for one in series for result in one.results for name in result if name.startswith("attacks/")
    )
    return [{"name": name.removeprefix("attacks/"), "values": [_mean(one, name) for one in series]} for name in names]


def _success_rows(series: Sequence[Series], labels: Mapping[str, str]) -> list[dict[str, Any]]:
    names = {name.removesuffix("_accuracy") + "_attack_success_rate": label for name, label in labels.items()}
    rows = [{"name": label, "values": [_mean(one, name) for one in series]} for name, label in names.items()]
    return [row for row in rows if set(row["values"]) != {"-"}]


def _mean(series: Series, name: str) -> str:
    return f"{100 * statistics.fmean(result[name] for result in series.results):.1f}" if series.has(name) else "-"


def _prompt_rows(series: Sequence[Series]) -> list[dict[str, Any]]:
    """Return the attacked prompts of each model's first result, with the words that changed."""
    rows = []
    for one in series:
        result = one.results[0]
        for attack, adv_prompts in result.get("adv_prompts", {}).items():
            pairs = list(zip(result["prompts"], adv_prompts, strict=True))
            rows.append(
                {
                    "model": one.name,
                    "attack": attack,
                    "prompts": [word_differences(*pair) for pair in pairs[:PROMPTS_SHOWN]],
                    "more": max(0, len(pairs) - PROMPTS_SHOWN),
                }
            )
    return rows


def _gallery_context(gallery: Gallery, spec: Mapping[str, Any]) -> dict[str, Any]:
    other = {
        key for key in (*spec, *gallery.attack_spec) if key != "seed" and spec.get(key) != gallery.attack_spec.get(key)
    }
    return {
        "sentence": threat_sentence(gallery.attack_spec),
        "seed": gallery.seed,
        "amplification": f"{gallery.amplification:.3g}",
        "other": sorted(other),
        "samples": [
            {
                "name": gallery.class_names[sample.label],
                "row_id": sample.row_id,
                "sharp": max(sample.image.shape[1:]) < SHARP_BELOW,
                "image": _image_uri(sample.image),
                "views": [
                    {
                        "model": name,
                        "change": _image_uri(0.5 + gallery.amplification * view.perturbation),
                        "attacked": _image_uri(sample.image + view.perturbation),
                        "prompt": word_differences(view.prompt, view.adv_prompt),
                        "predictions": [
                            {
                                "threat": HEADS[threat],
                                "name": gallery.class_names[view.predictions[threat].label],
                                "probability": f"{100 * view.predictions[threat].probability:.0f}",
                                "right": view.predictions[threat].label == sample.label,
                            }
                            for threat in THREATS
                        ],
                    }
                    for name, view in sample.views.items()
                ],
            }
            for sample in gallery.samples
        ],
    }


def _runs(loaded: Sequence[LoadedResult]) -> list[dict[str, Any]]:
    return [
        {
            "name": one.name,
            "source": one.source,
            "model": one.result.get("model", "-"),
            "dataset": one.result.get("dataset", "-"),
            "samples": one.result["num_samples"],
            "seed": one.result["seed"],
            "specification": one.result.get("fingerprints", {}).get("specification", "-"),
            "weights": one.result.get("fingerprints", {}).get("model", "-"),
            "versions": ", ".join(f"{name} {value}" for name, value in one.result["versions"].items()),
        }
        for one in loaded
    ]


def _plain(value: Any) -> str:
    if isinstance(value, Mapping):
        return "; ".join(f"{key}: {_plain(one)}" for key, one in value.items())
    if isinstance(value, (list, tuple)):
        return ", ".join(map(_plain, value)) or "none"
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: "-"}[value]
    if isinstance(value, float):
        return fraction(value)
    return str(value)


# Pictures inside the page


def _picture(chart: Callable[..., bytes], series: Sequence[Series]) -> dict[str, str]:
    return {"light": _data_uri(chart(series)), "dark": _data_uri(chart(series, dark=True))}


def _data_uri(png: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(png).decode()


def _image_uri(image: Any) -> str:
    stream = io.BytesIO()
    to_picture(image).save(stream, "PNG", optimize=True)
    return _data_uri(stream.getvalue())


def _environment() -> Any:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("hf_mmcoa.report", "."),
        autoescape=True,
        # Before escaping, replace control characters and marks that change the direction of text.
        finalize=lambda value: printable(value) if type(value) is str else value,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals.update(
        difference_sentence=difference_sentence,
        count=count,
        calibration_sentence=CALIBRATION_SENTENCE,
        class_sentence=CLASS_SENTENCE,
        family_sentence=FAMILY_SENTENCE,
        beyond_sentence=BEYOND_SENTENCE,
        curve_sentence=CURVE_SENTENCE,
        misled_sentence=MISLED_SENTENCE,
        search_sentence=SEARCH_SENTENCE,
    )
    return environment
