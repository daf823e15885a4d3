"""Show results as one table, for a terminal or in Markdown: every accuracy with its interval.

A column shows one result, or the mean of several of one model (seeds). What an interval generalises over is in
`conditions.interval_sentence`. Columns of different threat models are refused:
side by side they would be read as a comparison.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from ..attacks.settings import TEXT_ADVERSARIES
from ..evaluation.attack_names import BEYOND, AttackName, worst_cases, worst_outcome
from ..evaluation.clusters import cluster_interval
from ..evaluation.nonsense import NUM_WORDS
from ..evaluation.uncertainty import Drawn, Repetition, accuracy_interval, in_words, unit
from ..io import differences, fingerprint, printable
from .conditions import BEYOND_LABEL
from .markdown import Verbatim, escape_markdown, markdown_lines

Result = Mapping[str, Any]
Results = Mapping[str, "Result | Sequence[Result]"]

# Fields of the threat model that may differ between results: another seed is a repetition, not another threat.
REPETITION = ("seed",)
WITH_ADVERSARIES = ("text", "multimodal")
WIDEST_NAME = 60  # characters of a column in a terminal
ADVERSARIES = {
    "blind": "the published search, one list of prompts for all images, found without them",
    "shared": "the worst list of prompts for all images",
    "own": "only the true class's prompt changes, to the worst text for the image",
    "all": "every prompt changes, to the worst text for the image",
}
"""What each adversary of the texts may choose."""
WORDS_NOTE = "known: substitutes that the training may have seen; unseen: substitutes that it never saw"


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """An accuracy, or its mean over several results, and its 95% interval, as fractions.

    Args:
        value, low, high: the accuracy and the ends of its interval.
        count: number of results; of those under several word splits that agree, or whose words decide nothing, each
            seed's count once.
        over: what the interval generalises over, "seeds and classes".
    """

    value: float
    low: float
    high: float
    count: int
    over: str


def estimate(
    results: Sequence[Result],
    name: str,
    attacks: Sequence[str] | None = None,
    repetitions: Sequence[Repetition] | None = None,
) -> Estimate:
    """Return an accuracy, or its mean over several results, with the interval of `accuracy_interval`.

    The interval is computed from the outcomes, also that of a single result: older files hold intervals of text
    accuracies that took images of one class for independent. Without outcomes it is the one that a single result holds,
    and that of several is over seeds alone.

    Args:
        results: one result, or one a seed and word split, on the same samples.
        name: of the accuracy.
        attacks: what it is the worst case over; as in the results when None.
        repetitions: seed and word split of each result, of one word split when None.
    """
    values, first = [result[name] for result in results], results[0]
    if attacks is None and "outcomes" in first:
        attacks = worst_cases(first).get(name)
    if attacks is not None:
        outcomes = [worst_outcome(one, list(attacks)) for one in results]
        return estimate_of_outcomes(outcomes, first["labels"], unit(attacks), repetitions, values)
    if len(results) == 1:
        (low, high), over = first[f"{name}_interval"], first.get(f"{name}_interval_over", "images")
    else:
        found = cluster_interval(values, {"seeds": range(len(values))})
        low, high, over = found.low, found.high, "seeds"
    return Estimate(value=statistics.fmean(values), low=low, high=high, count=len(values), over=over)


def estimate_of_outcomes(
    outcomes: Sequence[str],
    labels: Sequence[int],
    over: Drawn,
    repetitions: Sequence[Repetition] | None = None,
    values: Sequence[float] | None = None,
) -> Estimate:
    """Return the mean of several results, with the interval of `accuracy_interval`.

    Args:
        outcomes, labels, over, repetitions: as of `accuracy_interval`.
        values: the accuracy of each result; the share of its outcomes that are "1" when None.
    """
    found = accuracy_interval(outcomes, labels, over, repetitions)
    low, high, drawn = found.low, found.high, in_words(found.generalises_over)
    if repetitions is not None and len({each.word_split for each in repetitions}) > 1:
        count = len(outcomes) if "word splits" in found.generalises_over else len({each.seed for each in repetitions})
        return Estimate(value=found.estimate, low=low, high=high, count=count, over=drawn)
    values = values or [outcome.count("1") / len(outcome) for outcome in outcomes]
    return Estimate(value=statistics.fmean(values), low=low, high=high, count=len(outcomes), over=drawn)


def accuracies(results: Sequence[Result]) -> dict[str, str]:
    """Return the accuracies that any of the results holds, in reading order, with the labels of their rows.

    Example:
        >>> accuracies([{"text_accuracy": 0.5, "clean_accuracy": 0.9, "text_unseen_accuracy": 0.3}])
        {'clean_accuracy': 'clean', 'text_accuracy': 'text (known)', 'text_unseen_accuracy': 'text (unseen)'}
        >>> accuracies([{"text_accuracy": 0, "text_own_accuracy": 0.3, "attack_spec": {"text_adversaries": ["own"]}}])
        {'text_accuracy': 'text, own'}
    """
    found = _accuracy_names(results)
    order = ["clean", "image", "text", "embedding", "multimodal", "worst_case", BEYOND]
    strongest = _strongest(results)

    def place(name: str) -> tuple[int, bool, int, int]:
        kind, adversary, source = accuracy_parts(name)
        first = next(at for at, other in enumerate(found) if accuracy_parts(other).source == source)
        rank = TEXT_ADVERSARIES.index(adversary) if adversary else len(TEXT_ADVERSARIES)
        return order.index(kind) if kind in order else len(order), bool(source), first, rank

    labels = {}
    for name in sorted(found, key=place):
        kind, adversary, source = accuracy_parts(name)
        if adversary and adversary == strongest:
            continue  # the same as without its name
        names = {"worst_case": "worst case", BEYOND: BEYOND_LABEL}
        label = names[kind] if kind in names else text_attack_label(kind, source, results)
        if kind in WITH_ADVERSARIES and (adversary or strongest):
            label += f", {adversary or strongest}"
        labels[name] = label
    return labels


def text_attack_label(kind: str, source: str, results: Sequence[Result]) -> str:
    """Return what to call a kind of attack with one source of substitutes: "words (unseen)"; a sole source has no name.

    Args:
        kind: "text" and "multimodal", or an attack, such as "words".
        source: name of a further source; empty for the threat model's own.
        results: all results that are shown.
    """
    if kind == "embedding":
        return "text embedding"
    judged = "text" if kind == "words" else kind
    parts = map(accuracy_parts, _accuracy_names(results))
    further = any(part.source for part in parts if part.kind == judged)
    return f"{kind} ({source or _own_source(results)})" if further else kind


def _accuracy_names(results: Sequence[Result]) -> list[str]:
    return list(dict.fromkeys(name for result in results for name in result if name.endswith("_accuracy")))


class AccuracyParts(NamedTuple):
    """The parts of an accuracy's name; `adversary` and `source` may be empty."""

    kind: str
    adversary: str
    source: str


def accuracy_parts(name: str) -> AccuracyParts:
    """Return the parts of a name.

    Example:
        >>> accuracy_parts("text_own_unseen_accuracy")
        AccuracyParts(kind='text', adversary='own', source='unseen')
    """
    kind = name.removesuffix("_accuracy")
    for known in WITH_ADVERSARIES:
        if kind.startswith(f"{known}_"):
            adversary, _, source = kind.removeprefix(f"{known}_").partition("_")
            if adversary in TEXT_ADVERSARIES:
                return AccuracyParts(known, adversary, source)
            return AccuracyParts(known, "", kind.removeprefix(f"{known}_"))
    return AccuracyParts(kind, "", "")


def main_columns(columns: Mapping[str, str]) -> dict[str, str]:
    """Return accuracies with their labels without those of an adversary of the texts that another one covers.

    Args:
        columns: labels of accuracies, and of single attacks, such as "attacks/text/words/own".
    """
    single = {name: AttackName.parse(name.removeprefix("attacks/")) for name in columns if "/" in name}
    found = {parts.adversary for parts in single.values()}
    strongest = next((adversary for adversary in reversed(TEXT_ADVERSARIES) if adversary in found), "")
    return {
        name: label
        for name, label in columns.items()
        if (single[name].adversary == strongest if name in single else not accuracy_parts(name).adversary)
    }


def _strongest(results: Sequence[Result]) -> str:
    """Return whose accuracy is the worst case over all adversaries: "all", which covers the others, or all names."""
    for result in results:
        if adversaries := result.get("attack_spec", {}).get("text_adversaries", ()):
            return "all" if "all" in adversaries else " or ".join(map(str, adversaries))
    return ""


def by_adversary(results: Sequence[Result]) -> dict[str, dict[str, str]]:
    """Return the accuracies under attacked texts by the label of their row and by adversary.

    The rows are the single attacks whose texts people can write, then the worst cases over them and over the multimodal
    attacks. There are none if all texts were chosen by one adversary: then it is in the labels of `accuracies`.

    Example:
        >>> by_adversary([{"attacks/text/words/own": 0.3, "attacks/text/words/all": 0.1}])
        {'words': {'own': 'attacks/text/words/own', 'all': 'attacks/text/words/all'}}
    """
    rows: dict[tuple[str, str], dict[str, str]] = {}
    for name in dict.fromkeys(name for result in results for name in result):
        if name.startswith("attacks/text/"):
            _, attack, adversary, source = AttackName.parse(name.removeprefix("attacks/"))
            rows.setdefault((attack, source), {})[adversary] = name
        elif name.endswith("_accuracy") and (parts := accuracy_parts(name)).adversary:
            rows.setdefault((parts.kind, parts.source), {})[parts.adversary] = name
    order = ["words", "characters", "text", "multimodal"]
    single = {attack for attack, _ in rows} & {"words", "characters"}
    shown = [row for row in rows if row[0] in order and not (row[0] == "text" and len(single) == 1)]
    shown.sort(key=lambda row: order.index(row[0]))  # stable: sources stay in order
    if all(len(rows[row]) < 2 for row in shown):
        return {}
    return {
        text_attack_label(*row, results): {name: rows[row][name] for name in TEXT_ADVERSARIES if name in rows[row]}
        for row in shown
    }


def accuracy_estimate(results: Sequence[Result], name: str) -> Estimate:
    """Return the estimate of an accuracy, also of one under a single attack: "attacks/text/words/own"."""
    return estimate(results, name, ["clean", name.removeprefix("attacks/")] if "/" in name else None)


def adversary_notes(results: Sequence[Result]) -> list[str]:
    """Say of each adversary of the texts that results name what it may choose: "shared: the worst list of..."."""
    named = [
        adversary
        for result in results
        if "text_accuracy" in result or "multimodal_accuracy" in result
        for adversary in result.get("attack_spec", {}).get("text_adversaries", ())
    ]
    return [f"{name}: {chosen}" for name, chosen in ADVERSARIES.items() if name in named]


def notes(results: Results, name_of: Callable[[str], str] = printable) -> list[str]:
    """Say what belongs under a table: adversaries, which words are known, what a random text leaves, nonsense words.

    Args:
        results: the columns of the table.
        name_of: makes a column's name fit for where it is shown.
    """
    flat = _flat(results)
    split = any(accuracy_parts(name).source == "unseen" for name in _accuracy_names(flat))
    return [
        *adversary_notes(flat),
        *[WORDS_NOTE] * split,
        *_average_notes(results, name_of),
        *_nonsense_notes(results, name_of),
    ]


def _average_notes(results: Results, name_of: Callable[[str], str]) -> list[str]:
    """Say what one text of the true class leaves that is drawn at random, beside the worst one: for each attack."""
    columns, flat = _columns(results), _flat(results)
    measured = dict.fromkeys(name for result in flat for name in result.get("average_case", {}))
    said = []
    for name in measured:
        parts = AttackName.parse(name)
        means = {
            column: statistics.mean(run["average_case"][name] for run in runs)
            for column, runs in columns.items()
            if runs and all(name in run.get("average_case", {}) for run in runs)
        }
        if means:
            said.append(f"{text_attack_label(parts.attack, parts.source, flat)} {_shares(means, name_of)}")
    return [f"one text of the true class, drawn at random, leaves: {'; '.join(said)}"] if said else []


def _nonsense_notes(results: Results, name_of: Callable[[str], str]) -> list[str]:
    """Say on how many images a nonsense word in a prompt beats every class, for the results that counted it."""
    shares = {
        name: statistics.mean(run["nonsense_images"] for run in runs)
        for name, runs in _columns(results).items()
        if runs and all("nonsense_images" in run for run in runs)
    }
    if not shares:
        return []
    said = _shares(shares, name_of)
    return [f"nonsense: one of {NUM_WORDS} such words in a prompt beats every class on {said} of the images"]


def _shares(shares: Mapping[str, float], name_of: Callable[[str], str]) -> str:
    """Return "3.8% (before), 60.3% (after)"; a sole column needs no name."""
    return ", ".join(
        f"{100 * share:.1f}%{f' ({name_of(name)})' if len(shares) > 1 else ''}" for name, share in shares.items()
    )


def robustness_table(results: Results) -> str:
    """Return an aligned table for a terminal: a row per threat, a column per result, in percent with the 95% interval.

    Accuracies by adversary of the texts follow in a table of their own, with a column per adversary and a row per
    result, and what each adversary may choose.

    Args:
        results: for each column name a result of `evaluate_robustness`, or several, which are averaged.

    Raises:
        ValueError: if there are no results, or their threat models or data differ in more than the seed.

    Example:
        >>> one = {"clean_accuracy": 0.9, "clean_accuracy_interval": [0.8, 0.95]}
        >>> print(robustness_table({"before": one}))
                              before
        clean    90.0   [80.0, 95.0]
    """
    parts = [_aligned(_cells(results))]
    if further := _adversary_cells(results):
        parts.append(_aligned(further, left=min(2, len(results)), gap=2))
    if said := notes(results):
        parts.append("\n".join(said))
    return "\n\n".join(parts)


def _aligned(rows: Sequence[Sequence[str]], left: int = 1, gap: int = 4) -> str:
    """Return rows as lines, columns `gap` blanks apart, the first `left` aligned to the left, others to the right."""
    rows = [[*map(_heading, row[:left]), *row[left:]] for row in rows]
    rows[0] = [_heading(cell) for cell in rows[0]]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = []
    for row in rows:
        cells = (
            cell.ljust(width) if column < left else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        lines.append((" " * gap).join(cells).rstrip())
    return "\n".join(lines)


def _heading(name: str) -> str:
    """Return a name on one line of a terminal, cut to `WIDEST_NAME` characters."""
    name = " ".join(printable(name).split())
    return name if len(name) <= WIDEST_NAME else f"{name[: WIDEST_NAME - 1]}…"


def markdown_table(results: Results) -> str:
    """Return the same numbers as `robustness_table`, as Markdown tables, and what the adversaries may choose."""
    parts = [_markdown(_cells(results))]
    if further := _adversary_cells(results):
        parts.append(_markdown(further, left=min(2, len(results))))
    if said := notes(results, escape_markdown):
        parts.append(f"{'. '.join(said)}.")
    return "\n\n".join(parts)


def _markdown(rows: Sequence[Sequence[str]], left: int = 1) -> str:
    header, *body = rows
    numbers = [[*row[:left], *(Verbatim(" ".join(cell.split())) for cell in row[left:])] for row in body]
    align = [*["left"] * left, *["right"] * (len(header) - left)]
    return "\n".join(markdown_lines([header[0] or "accuracy under", *header[1:]], numbers, align))


def check_comparable(results: Sequence[Result]) -> None:
    """Raise ValueError, naming what differs, unless all results share data and threat model up to the seed."""
    if not results:
        raise ValueError("`results` is empty: there is nothing to show.")
    for other in results[1:]:
        if found := setting_differences(results[0], other):
            raise ValueError(
                f"the results hold under different conditions and do not belong in one table: {'; '.join(found)}. "
                "Make one table of each, or a report: it gives each its own section."
            )


def setting_differences(one: Result, other: Result) -> list[str]:
    """Return in what the threat models and data of two results differ, but for the seed, as texts for a message."""
    specs = [
        {key: value for key, value in result.get("attack_spec", {}).items() if key not in REPETITION}
        for result in (one, other)
    ]
    data = [
        {
            "dataset": result.get("dataset"),
            "num_samples": result.get("num_samples"),
            "rows and labels": fingerprint([result.get("row_ids"), result.get("labels")]),
        }
        for result in (one, other)
    ]
    return [*differences(*specs), *differences(*data)]


def _columns(results: Results) -> dict[str, list[Result]]:
    return {name: [given] if isinstance(given, Mapping) else list(given) for name, given in results.items()}


def _flat(results: Results) -> list[Result]:
    return [result for column in _columns(results).values() for result in column]


def _cells(results: Results) -> list[list[str]]:
    flat = _flat(results)
    check_comparable(flat)
    rows = [["", *_names(results)]]
    for name, label in main_columns(accuracies(flat)).items():
        found = [_estimate_of_all(column, name) for column in _columns(results).values()]
        rows.append([label, *(_cell(each, width=13) for each in found)])
    return rows


def _adversary_cells(results: Results) -> list[list[str]]:
    """Return the rows of `by_adversary`, one a column of `results`, under a header; none without adversaries."""
    rows = by_adversary(_flat(results))
    adversaries = [each for each in TEXT_ADVERSARIES if any(each in found for found in rows.values())]
    several = len(results) > 1
    cells = [["", *([""] if several else []), *adversaries]] if rows else []
    for label, found in rows.items():
        for place, (name, column) in enumerate(zip(_names(results), _columns(results).values(), strict=True)):
            estimates = [_estimate_of_all(column, found.get(adversary, "")) for adversary in adversaries]
            cells.append(["" if place else label, *([name] if several else []), *map(_cell, estimates)])
    return cells


def _names(results: Results) -> list[str]:
    return [
        name if len(column) == 1 else f"{name} (mean of {len(column)})" for name, column in _columns(results).items()
    ]


def _estimate_of_all(results: Sequence[Result], name: str) -> Estimate | None:
    return accuracy_estimate(results, name) if all(name in result for result in results) else None


def _cell(found: Estimate | None, width: int = 0) -> str:
    if found is None:
        return "-"
    interval = f"[{100 * found.low:.1f}, {100 * found.high:.1f}]"
    return f"{100 * found.value:.1f}{'  ' if width else ' '}{interval:>{width}}"


def _own_source(results: Sequence[Result]) -> str:
    """Return a label for the threat model's own substitutes beside further ones: their name, else "known"."""
    for result in results:
        candidates = result.get("attack_spec", {}).get("candidates")
        if isinstance(candidates, Mapping) and (first := next(iter(candidates), "own")) != "own":
            return str(first)
    return "known"
