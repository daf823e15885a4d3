"""Write what a report's page shows as Markdown."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from .beyond_table import BEYOND_SENTENCE
from .class_tables import CALIBRATION_SENTENCE, CLASS_SENTENCE, FAMILY_SENTENCE
from .conditions import count
from .markdown import escape_markdown, markdown_lines
from .task_table import TaskTable
from .text_attacks import CURVE_SENTENCE, MISLED_SENTENCE, SEARCH_SENTENCE, marked


def markdown_page(
    title: str,
    sections: Sequence[Mapping[str, Any]],
    problems: Sequence[str],
    pictures: Sequence[str],
    galleries: Mapping[int, Sequence[str]],
    tables: Sequence[TaskTable],
    runs: Sequence[Mapping[str, Any]],
) -> str:
    """Return the whole report in Markdown.

    Args:
        title: title of the report.
        sections: what the page shows of each section; `table` is in Markdown already.
        problems: messages about files that were left out, and notes.
        pictures: names of the charts beside the file.
        galleries: for each section's number the names of its pictures of samples.
        tables: of retrieval, and of test-time defences.
        runs: what the page shows of each result file.
    """
    text = escape_markdown
    lines = [f"# {text(title)}", ""]
    if problems:
        lines += ["**Left out or noted:**", "", *(f"- {text(problem)}" for problem in problems), ""]
    for context in sections:
        number = context["number"]
        lines += [
            f"## {number}. {text(context['title'])}",
            "",
            f"{text(context['summary'])}. {context['num_samples']} samples.",
            "",
        ]
        if context["differences"]:
            lines += [difference_sentence(context["differences"], text), ""]
        lines += [
            f"**Sanity check failed** ({text(one['model'])}): {text(one['check'])}. {text(one['detail'])}"
            for one in context["failed"]
        ]
        lines += [
            "",
            context["table"],
            "",
            context["intervals"],
            "",
        ]
        lines += [f"![Accuracy under each threat](accuracy-{number}.png)", ""]
        if f"tradeoff-{number}.png" in pictures:
            lines += [f"![Clean against robust accuracy](tradeoff-{number}.png)", ""]
        lines += [*_family_lines(context["families"]), *_beyond_lines(context["beyond"]), *_class_lines(context)]
        lines += _text_lines(context, f"radius-{number}.png")
        lines += [f"![Attacked samples, drawn at random]({name})\n" for name in galleries.get(number, [])]
        fields = [[entry["name"], entry["value"]] for entry in context["spec"]]
        lines += ["### Threat model", "", *markdown_lines(["field", "value"], fields, ["left", "left"]), ""]
    lines += [f"![Accuracy against epsilon]({name})\n" for name in pictures if name.startswith("epsilon")]
    for table in tables:
        lines += [f"## {text(table.title)}", "", f"{text(table.summary)}.", ""]
        lines += [f"**Sanity check failed**: {text(one)}" for one in table.failed]
        lines += ["", *table.markdown(), ""]
    heads = ["name", "source", "model", "samples", "seed", "specification", "weights", "versions"]
    cells = [[str(run[head]) for head in heads] for run in runs]
    lines += ["## Runs", "", *markdown_lines(heads, cells, ["left"] * len(heads))]
    return "\n".join(lines) + "\n"


def _family_lines(families: Mapping[str, Any]) -> list[str]:
    """Return the accuracies under families of texts, with the worst named; nothing where none was measured."""
    if not families["rows"]:
        return []
    heads = ["family", "texts", *(f"{model}, {what}" for model in families["models"] for what in ("mean", "worst"))]
    cells = [
        [row["name"], row["texts"], *(each for pair in row["values"] for each in pair)] for row in families["rows"]
    ]
    lines = ["### Families of text perturbation", "", FAMILY_SENTENCE, "", *markdown_lines(heads, cells), ""]
    return [*lines, *(f"- {escape_markdown(said)}." for said in families["worst"]), ""]


def _beyond_lines(beyond: Mapping[str, Any]) -> list[str]:
    """Return the accuracies under what no ball bounds; nothing where none was measured."""
    if not beyond["rows"]:
        return []
    heads, align = ["change", "severity", *beyond["models"]], ["left", "left", *["right"] * len(beyond["models"])]
    cells = [[row["name"], row["severity"], *row["values"]] for row in beyond["rows"]]
    return ["### Beyond balls", "", BEYOND_SENTENCE, "", *markdown_lines(heads, cells, align), ""]


def _class_lines(context: Mapping[str, Any]) -> list[str]:
    """Return calibration, the accuracies of classes and the most frequent confusions."""
    lines: list[str] = []
    if context["calibration"]:
        keys = ["model", "kind", "ece", "nll", "confidence", "accuracy"]
        cells = [[row[key] for key in keys] for row in context["calibration"]]
        heads = ["model", "images", "ECE", "NLL", "confidence", "accuracy"]
        align = [*["left"] * 2, *["right"] * 4]
        lines += ["### Calibration", "", CALIBRATION_SENTENCE, "", *markdown_lines(heads, cells, align), ""]
    if context["classes"]:
        lines += ["### Classes and confusions", "", CLASS_SENTENCE, ""]
    for block in context["classes"]:
        cells = [[row["name"], *row["values"]] for row in block["rows"]]
        lines += [f"{escape_markdown(block['model'])}:", "", *markdown_lines(["class", *block["kinds"]], cells), ""]
        lines += [f"and {block['more']} more", ""] if block["more"] else []
        for one in block["confusions"]:
            pairs = [
                f"{escape_markdown(pair['name'])} as {escape_markdown(pair['predicted'])} "
                f"({pair['count']} of {pair['total']})"
                for pair in one["pairs"]
            ]
            lines += [f"- {escape_markdown(one['kind'])}: {'; '.join(pairs)}"]
        lines += [""]
    return lines


def _text_lines(context: Mapping[str, Any], chart: str) -> list[str]:
    """Return what attacks on texts did in one section: the curve, examples, and how the texts were searched."""
    lines: list[str] = []
    if context["curve"]:
        rows = context["curve"]["rows"]
        heads = [one["radius"] for one in rows[0]["points"]]
        cells = [[row["model"], *(f"{one['accuracy']} ({one['share']})" for one in row["points"])] for row in rows]
        lines += ["### Embedding attack", "", f"![Accuracy against the radius]({chart})", ""]
        lines += [CURVE_SENTENCE, "", *markdown_lines(["radius", *heads], cells), ""]
    if context["misled"]:
        lines += ["### Texts that misled", "", MISLED_SENTENCE, ""]
    for row in context["misled"]:
        lines += [f"{escape_markdown(row['model'])}, {escape_markdown(row['attack'])}:", ""]
        lines += [
            f"- {marked(one['own'])} is read as {escape_markdown(one['rival'])} ({count(one['count'], 'image')})"
            for one in row["examples"]
        ]
        lines += [""]
    if context["searches"]:
        names = [model["name"] for model in context["models"]]
        cells = [[one["attack"], one["search"], *one["values"]] for one in context["searches"]]
        align = [*["left"] * 2, *["right"] * len(names)]
        lines += ["### Searches", "", SEARCH_SENTENCE, ""]
        lines += [*markdown_lines(["attack", "search of the texts", *names], cells, align), ""]
    return lines


def difference_sentence(differences: Sequence[str], text: Callable[[str], str] = str) -> str:
    """Say in what a section differs from the first."""
    return (
        f"This section and section 1 differ in {'; '.join(map(text, differences))} (there and here), "
        "so their numbers cannot be compared."
    )
