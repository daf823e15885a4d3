"""Write the tables of a protocol and of a comparison, averaged over seeds."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from ..evaluation.sanity import failed
from ..evaluation.uncertainty import Repetition
from ..report.conditions import attacks_texts, describe, interval_sentence, measured_kinds, recall_sentence
from ..report.markdown import Verbatim, escape_markdown, markdown_lines
from ..report.table import accuracies, accuracy_parts, adversary_notes, estimate, main_columns
from .cell import UNSEEN, WHOLE, Cell, shots_name
from .columns import first_columns, of_recalls
from .protocol import RETRIEVAL, Protocol

CHART_FILE = "comparison.png"
_NONE = Verbatim("-")
Finished = Sequence[tuple[Cell, Mapping[str, Any]]]


def protocol_table(protocol: Protocol, finished: Finished, failures: Mapping[str, str]) -> str:
    """Return, in Markdown, the table of a protocol, means over data sets, the conditions, and the missing cells."""
    lines = [f"# {escape_markdown(protocol.name)}", ""]
    if protocol.description:
        lines += [escape_markdown(protocol.description), ""]
    if finished:
        lines += [*_table(protocol, finished), "", *_specification(protocol, finished), ""]
    return "\n".join([*lines, *_missing(protocol, finished, failures)]).rstrip() + "\n"


def comparison_table(
    protocol: Protocol, numbers: Mapping[str, Any], finished: Finished, failures: Mapping[str, str]
) -> str:
    """Return, in Markdown, the accuracies of each method, paired tests, the conditions, and the missing cells.

    Args:
        protocol: protocol of the comparison.
        numbers: return value of `compare_rows`.
        finished: finished cells with their results.
        failures: for each failed cell its error.
    """
    lines = [f"# {escape_markdown(protocol.name)}", ""]
    if protocol.description:
        lines += [escape_markdown(protocol.description.strip()), ""]
    if numbers["methods"]:
        main, recalls = first_columns(numbers["columns"]), of_recalls(numbers["columns"])
        lines += accuracy_table(numbers, list(main.values())).splitlines()
        lines += ["", f"![{'recall' if recalls else 'accuracy'} of each method]({CHART_FILE})", ""]
        lines += [
            "Bold: best of its column, if the difference from the runner-up is significant: p < 0.05 and an interval "
            "above 0.",
            "",
        ]
        if further := [label for name, label in numbers["columns"].items() if name not in main]:
            title = "Deeper recalls" if recalls else "By adversary of the texts"
            lines += [f"## {title}", "", accuracy_table(numbers, further), ""]
    if numbers["tests"]:
        lines += [*_tests(numbers), ""]
    if finished:
        lines += ["## What the numbers hold under", "", *_specification(protocol, finished), *_training(numbers), ""]
    return "\n".join([*lines, *_missing(protocol, finished, failures)]).rstrip() + "\n"


def accuracy_table(numbers: Mapping[str, Any], columns: Sequence[str] = (), methods: Sequence[str] = ()) -> str:
    """Return, in Markdown, accuracies of each method with intervals; the best of a column is bold if significant.

    Args:
        numbers: return value of `compare_rows`.
        columns: labels of the columns to show; all when empty. The best of a column is chosen among all rows.
        methods: names of the rows to show; all when empty.
    """
    shown = _shown(numbers, columns)
    marked = {column: best["method"] for column, best in numbers["best"].items() if best["significant"]}
    split = any(_num_splits(method) > 1 for method in numbers["methods"].values())
    rows = []
    for name in methods or numbers["methods"]:
        method = numbers["methods"][name]
        cells = [_accuracy(method["accuracies"].get(column), bold=marked.get(column) == name) for column in shown]
        drawn = [str(len(method["seeds"])), *([str(_num_splits(method))] if split else [])]
        rows.append([name, *drawn, *cells])
    return "\n".join(markdown_lines(["method", "seeds", *(["word splits"] if split else []), *shown.values()], rows))


def _num_splits(method: Mapping[str, Any]) -> int:
    """Return how many word splits a row of `compare_rows` has; comparisons from before there were several had one."""
    return len(method.get("word_splits", (0,)))


def difference_table(numbers: Mapping[str, Any], columns: Sequence[str] = (), methods: Sequence[str] = ()) -> str:
    """Return, in Markdown, the difference of each row from the reference, column by column."""
    shown = _shown(numbers, columns)
    rows = [
        [name, *(_test(numbers["tests"][name][column]) for column in shown)] for name in methods or numbers["tests"]
    ]
    return "\n".join(markdown_lines(["method", *shown.values()], rows))


def _shown(numbers: Mapping[str, Any], labels: Sequence[str]) -> dict[str, str]:
    """Return the chosen columns with their labels, in the given order."""
    named = {label: column for column, label in numbers["columns"].items()}
    if unknown := [label for label in labels if label not in named]:
        raise ValueError(f"`columns`: there is no {', '.join(map(repr, unknown))}; there are {', '.join(named)}.")
    return {named[label]: label for label in labels or named}


def _tests(numbers: Mapping[str, Any]) -> list[str]:
    """Return the table of differences from the reference and how to read it."""
    tests = numbers["tests"]
    known = [test for found in tests.values() for test in found.values() if test]
    pairs = " or ".join(str(number) for number in sorted({test["pairs"] for test in known})) or "no"
    split = any(len(test["word_splits"]) > 1 for test in known)
    words = (
        " Where words decide and there are several word splits, these are drawn again too, in the interval and, with "
        "the seeds, in the test: both speak of the methods."
    )
    drawn = "over images for clean and image accuracies, over classes for all others"
    together = "an image under all seeds (exact McNemar for one seed), or all images of a class,"
    if of_recalls(numbers["columns"]):
        drawn = "over images, each drawn with its captions and with the images that share them"
        together = "all queries of such a group"
    return [
        f"## Against {escape_markdown(numbers['reference'])}",
        "",
        difference_table(numbers, list(first_columns(numbers["columns"]).values())),
        "",
        f"Difference in points, method minus reference, with its 95% interval: {drawn}, and over the seeds that both "
        f"have if these are several. The p is of a paired test on the samples of these seeds ({pairs} pairs), in which "
        f"{together} change sides together: it speaks of these trained models, the interval of the methods."
        f"{words if split else ''} The p are not corrected for the number of tests: {len(tests)} a column.",
    ]


def _training(numbers: Mapping[str, Any]) -> list[str]:
    """State the numbers of gradient steps, and which results come from elsewhere."""
    steps = {name: method["steps"] for name, method in numbers["methods"].items() if method["steps"]}
    lines = []
    if len({tuple(taken) for taken in steps.values()}) == 1:
        lines.append(f"- gradient steps: {' or '.join(map(str, next(iter(steps.values()))))} for every method.")
    elif steps:
        each = ", ".join(f"{escape_markdown(name)} {' or '.join(map(str, taken))}" for name, taken in steps.items())
        lines.append(f"- gradient steps differ: {each}.")
    for name, method in numbers["methods"].items():
        if method["objective"] is None:
            files = ", ".join(method["files"].values())
            lines.append(f"- {escape_markdown(name)}: read from {escape_markdown(files)}.")
    return lines


def _test(found: Mapping[str, Any] | None) -> Verbatim:
    if found is None:
        return _NONE
    low, high = found["difference_interval"]
    text = f"{100 * found['difference']:+.1f} [{100 * low:+.1f}, {100 * high:+.1f}]"
    return Verbatim(f"{text}, p {'< 0.001' if found['p_value'] < 0.001 else '= ' + format(found['p_value'], '.3f')}")


def _accuracy(found: Mapping[str, Any] | None, bold: bool = False) -> Verbatim:
    if found is None:
        return _NONE
    text = "{:.1f} [{:.1f}, {:.1f}]".format(*(100 * found[key] for key in ("value", "low", "high")))
    return Verbatim(f"**{text}**" if bold else text)


def _missing(protocol: Protocol, finished: Finished, failures: Mapping[str, str]) -> list[str]:
    missing = [cell.name for cell in protocol.cells() if cell.name not in {done.name for done, _ in finished}]
    if not missing:
        return []
    return [
        "Missing cells:",
        "",
        *(f"- {name}: {escape_markdown(failures.get(name, 'not run yet'))}" for name in missing),
    ]


def _table(protocol: Protocol, finished: Finished) -> list[str]:
    labels = main_columns(accuracies([result for _, result in finished]))
    groups: dict[tuple[str, str, str], list[Mapping[str, Any]]] = {}
    repetitions: dict[tuple[str, str, str], list[Repetition]] = {}
    split = len(protocol.word_splits) > 1
    for cell, result in finished:
        key = (cell.data.name, shots_name(cell.shots) if cell.train_on else "-", cell.method.name)
        groups.setdefault(key, []).append(result)
        repetitions.setdefault(key, []).append(Repetition(cell.seed, cell.word_split))
    told = {cell.method.name for cell, _ in finished if cell.method.substitutes == WHOLE}
    rows: list[list[str]] = []
    means: dict[tuple[str, str], list[dict[str, float]]] = {}
    for (data, shots, defence), results in groups.items():
        shown = [name for name in labels if defence not in told or accuracy_parts(name).source != UNSEEN]
        drawn = repetitions[data, shots, defence]
        numbers = {
            name: estimate(results, name, repetitions=drawn) for name in shown if all(name in one for one in results)
        }
        cells = [_accuracy(asdict(numbers[name]) if name in numbers else None) for name in labels]
        splits = [str(len({each.word_split for each in drawn}))] if split else []
        rows.append([data, _shots(shots), defence, str(len({each.seed for each in drawn})), *splits, *cells])
        means.setdefault((shots, defence), []).append({name: one.value for name, one in numbers.items()})
    number = len({data for data, _, _ in groups})
    for (shots, defence), values in means.items():
        if number > 1 and len(values) == number:  # a mean over some of the data sets would compare unlike things
            cells = [
                Verbatim(f"{100 * statistics.fmean(one[name] for one in values):.1f}")
                if all(name in one for one in values)
                else _NONE
                for name in labels
            ]
            rows.append([f"mean of {number}", _shots(shots), defence, "", *([""] if split else []), *cells])
    header = ["data set", "shots", "defence", "seeds", *(["word splits"] if split else []), *labels.values()]
    return markdown_lines(header, rows, [*["left"] * 3, *["right"] * (len(header) - 3)])


def _shots(name: str) -> str:
    return _NONE if name == "-" else name


def _specification(protocol: Protocol, finished: Finished) -> list[str]:
    """State the conditions under which the numbers were measured."""
    seeds, splits = ({getattr(cell, name) for cell, _ in finished} for name in ("seed", "word_split"))
    texts = attacks_texts(result for _, result in finished)
    first = (
        f"Recall in percent. {recall_sentence(len(seeds) > 1)}"
        if protocol.task == RETRIEVAL
        else f"Accuracy in percent. {interval_sentence(len(seeds) > 1, len(splits) > 1, texts)}"
    )
    lines = [f"{first} Image, text and multimodal are the worst case per sample over that kind's attacks.", ""]
    seen: dict[str, Mapping[str, Any]] = {}
    for cell, result in finished:
        seen.setdefault(cell.data.name, result)
    for name, result in seen.items():
        spec = result["attack_spec"]
        lines.append(
            f"- {name}: {result['num_samples']} test images of {escape_markdown(str(result['dataset']))}; "
            f"{escape_markdown(describe(spec, measured=measured_kinds(result)))}; budget at {spec['perturb_at']} size; "
            + (
                f"{result['num_captions']} captions."
                if protocol.task == RETRIEVAL
                else f'prompt "{escape_markdown(str(spec["template"]))}".'
            )
        )
    if protocol.task != RETRIEVAL:
        lines += [f"- adversary {note}." for note in adversary_notes(list(seen.values()))]
    lines += _words(protocol, finished)
    if any(cell.train_on is not None for cell, _ in finished):
        settings = ", ".join(f"{key} {value}" for key, value in protocol.training.items())
        lines.append(f"- training: {escape_markdown(settings or 'defaults of MMCoAConfig')}.")
    for method in {cell.method.name: cell.method for cell, _ in finished if cell.method.settings}.values():
        settings = ", ".join(f"{key} {value}" for key, value in method.settings.items())
        told = "; no substitute is unseen to it" if method.substitutes == WHOLE else ""
        lines.append(f"- {escape_markdown(method.name)}: {method.objective} with {escape_markdown(settings)}{told}.")
    for method in {cell.method.name: cell.method for cell, _ in finished}.values():
        if unread := protocol.unread(method):
            lines.append(
                f"- {escape_markdown(method.name)} does not read {escape_markdown(', '.join(unread))} of the training."
            )
    if protocol.tiny is not None:
        settings = ", ".join(f"{key} {value}" for key, value in protocol.tiny.items())
        lines.append(f"- model: a tiny CLIP, pretrained without attack on captions of the training split ({settings}).")
    else:
        lines.append(f"- model: {escape_markdown(str(protocol.model))}.")
    versions = next(iter(seen.values()))["versions"]
    listed = ", ".join(f"{library} {version}" for library, version in versions.items())
    lines.append(f"- versions: {escape_markdown(listed)}.")
    for cell, result in finished:
        lines += [
            f"- {cell.name}: sanity check failed: {escape_markdown(one['check'])}." for one in failed(result["sanity"])
        ]
    return lines


def _words(protocol: Protocol, finished: Finished) -> list[str]:
    """State the word splits, and which unseen words were measured, where these are not one split and all words."""
    lines = []
    if len(splits := sorted({cell.word_split for cell, _ in finished})) > 1:
        shared = [
            method.name
            for method in {cell.method.name: cell.method for cell, _ in finished}.values()
            if method.trains and not protocol.reads_words(method)
        ]
        once = f"; {', '.join(shared)}: trained once for all of them, since it reads no substitutes" if shared else ""
        lines.append(
            f"- word splits {', '.join(map(str, splits))}: each draws anew which half of the substitutes is known to "
            f"training{escape_markdown(once)}."
        )
    if protocol.unseen_words != "all":
        lines.append(
            f"- unseen words: the {protocol.unseen_words} part, half of those that training does not know; the other "
            f"half is for {'test' if protocol.unseen_words == 'validation' else 'validation'}."
        )
    return lines
