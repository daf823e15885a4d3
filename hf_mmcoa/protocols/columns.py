"""The columns of a comparison: what is shown of a result, and the samples behind each number.

A result of `evaluate_robustness` has accuracies, one of `evaluate_retrieval` recalls. Everything else in a comparison
(rows, means over seeds, intervals, paired tests, tables, the plot) is the same for both and asks here.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..evaluation.attack_names import AttackName, worst_cases, worst_outcome
from ..evaluation.recalls import DEPTHS, DIRECTIONS, clusters_of_queries, worst_ranks
from ..evaluation.uncertainty import Drawn, interval_fields, unit
from ..report.table import accuracies, main_columns, text_attack_label
from .protocol import RETRIEVAL

WORST_TEXT = "worst_text_accuracy"  # not `text_worst_...`, which would be the accuracy of a source named "worst"
PLOTTED = ("clean_accuracy", "image_accuracy", "text", "multimodal", "worst_case_accuracy")
RECALL = "_recall_at_"
FIRST = DEPTHS[0]  # the depth of the first table and of the plot


@dataclass(frozen=True, kw_only=True)
class Samples:
    """Hold what an accuracy or a recall is computed from.

    Args:
        outcome: one sign a sample, "1" if it is classified or found correctly under every attack of the column.
        clusters: for each sample the number of its class, or of the images and captions that belong together.
        over: what is drawn anew in intervals and tests.
    """

    outcome: str
    clusters: Sequence[int]
    over: Drawn


def is_recall(column: str) -> bool:
    """Return whether a column is a recall: "clean_image_to_text_recall_at_1"."""
    return RECALL in column


def of_recalls(columns: Iterable[str]) -> bool:
    """Return whether a comparison with these columns is one of retrieval."""
    return any(map(is_recall, columns))


def recall_name(threat: str, direction: str, depth: int) -> str:
    """Return the name of a recall in a result."""
    return f"{threat}_{direction}{RECALL}{depth}"


def with_columns(result: Mapping[str, Any]) -> dict[str, Any]:
    """Return a result with every number that a comparison shows; of retrieval it has them all."""
    return dict(result) if result.get("task") == RETRIEVAL else with_text_attacks(result)


def column_labels(results: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Return the columns of results of one task, in reading order, with their labels."""
    if results[0].get("task") != RETRIEVAL:
        return _accuracy_labels(results)
    threats = dict.fromkeys(threat for result in results for threat, _ in worst_ranks(result["ranks"]))
    sources = {"candidates": results[0]["attack_spec"].get("candidates")}  # which name the threats' labels
    labels = accuracies([{**dict.fromkeys((f"{threat}_accuracy" for threat in threats), 0.0), "attack_spec": sources}])
    return {
        recall_name(name.removesuffix("_accuracy"), direction, depth): (
            f"{label}, {direction.replace('_', ' ')} R@{depth}"
        )
        for depth in DEPTHS
        for name, label in labels.items()
        for direction in DIRECTIONS
    }


def first_columns(columns: Mapping[str, str]) -> dict[str, str]:
    """Return the columns of the first table: without adversaries that another covers, or recalls at 1 alone."""
    if not of_recalls(columns):
        return main_columns(columns)
    return {name: label for name, label in columns.items() if name.endswith(f"{RECALL}{FIRST}")}


def plotted_columns(columns: Mapping[str, str]) -> dict[str, str]:
    """Return the columns of the plot, each with the accuracy as which it is drawn.

    Of recalls these are the ones at 1 from image to text: both directions of all threats would hide each other.
    """
    if not of_recalls(columns):
        return {name: name for name in first_columns(columns) if name.startswith(PLOTTED)}
    end = recall_name("", DIRECTIONS[0], FIRST)
    drawn = {name: f"{name.removesuffix(end)}_accuracy" for name in columns if name.endswith(end)}
    return {name: accuracy for name, accuracy in drawn.items() if accuracy.startswith(PLOTTED)}


def samples_of(result: Mapping[str, Any], column: str) -> Samples:
    """Return the samples of a column of a result, as `with_columns` returns it."""
    if not is_recall(column):
        attacks = _attacks(result)[column]
        return Samples(outcome=worst_outcome(result, attacks), clusters=result["labels"], over=unit(attacks))
    name, _, depth = column.rpartition(RECALL)
    direction = next(each for each in DIRECTIONS if name.endswith(each))
    ranks = worst_ranks(result["ranks"])[name.removesuffix(f"_{direction}"), direction]
    clusters = clusters_of_queries(result["captions_of"], len(result["captions"]))[direction]
    alone = len(set(clusters)) == len(clusters)
    outcome = "".join("1" if rank <= int(depth) else "0" for rank in ranks)
    return Samples(outcome=outcome, clusters=clusters, over="images" if alone else "captioned images")


def with_text_attacks(result: Mapping[str, Any]) -> dict[str, Any]:
    """Return a result with `worst_text_accuracy` and, beside it, the accuracy under single text attacks.

    `worst_text_accuracy` is the worst case per sample over all attacks on the text alone: words and characters of all
    sources, and embeddings. Where a text accuracy is the worst case over words and characters, each of these is added
    as `attacks/<name>`. A result with fewer than two such attacks is returned unchanged.
    """
    added = [WORST_TEXT, *_single_texts(result)] if len(_texts(result)) > 1 else []
    found = dict(result)
    for name in added:
        attacks = _attacks(result)[name]
        outcome = worst_outcome(result, attacks)
        found[name] = outcome.count("1") / len(outcome)
        found |= interval_fields(name, outcome, result["labels"], attacks)
    return found


def _attacks(result: Mapping[str, Any]) -> dict[str, list[str]]:
    single = {name: ["clean", name.removeprefix("attacks/")] for name in _single_texts(result)}
    return {**worst_cases(result), WORST_TEXT: ["clean", *_texts(result)], **single}


def _texts(result: Mapping[str, Any]) -> list[str]:
    return [name for name in result["outcomes"] if name.startswith("text/")]


def _single_texts(result: Mapping[str, Any]) -> list[str]:
    """Return the text attacks without a column of their own, which exist where characters are attacked beside words."""
    parsed = {name: AttackName.parse(name) for name in _texts(result)}
    if not any(parts.attack == "characters" for parts in parsed.values()):
        return []
    return [f"attacks/{name}" for name, parts in parsed.items() if parts.realised]


def _accuracy_labels(results: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Return accuracies in reading order with labels: single text attacks before all texts, the worst text after."""
    labels = accuracies(results)
    if labels.pop(WORST_TEXT, None) is None:
        return labels
    names, single = list(labels), list(dict.fromkeys(name for each in results for name in _single_texts(each)))
    texts = [names.index(name) for name in names if name.startswith(("text", "embedding"))]
    order = [*names[: min(texts)], *single, *names[min(texts) : max(texts) + 1], WORST_TEXT, *names[max(texts) + 1 :]]
    known = {**labels, WORST_TEXT: "text, worst"}
    return {name: known.get(name) or _single_label(name, results) for name in order}


def _single_label(name: str, results: Sequence[Mapping[str, Any]]) -> str:
    """Return "words (unseen), own" for "attacks/text/words/own:unseen"."""
    parts = AttackName.parse(name.removeprefix("attacks/"))
    return f"{text_attack_label(parts.attack, parts.source, results)}, {parts.adversary}"
