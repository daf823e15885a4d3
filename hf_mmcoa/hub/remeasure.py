"""Measure a result file again by its own specification, and compare the two sample by sample."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import datasets
import torch
from torch import nn

from ..data.columns import resolve_columns
from ..data.labels import read_labels
from ..data.load import load_benchmark
from ..evaluation.agreement import agreement
from ..evaluation.attack_names import AttackName, worst_cases, worst_outcome
from ..evaluation.evaluator import evaluate_robustness
from ..evaluation.findings import allowance
from ..evaluation.threat_model import ThreatModel
from .evaluate_command import dataset_and_split, recorded_sources

Verdict = Literal["holds", "differs", "not measured"]


@dataclass(frozen=True, kw_only=True)
class Number:
    """An accuracy of a result file beside the same one measured again, as fractions.

    Args:
        accuracy: its name in the file, "image_accuracy".
        reported: what the file states, on all its samples.
        reported_here: what the file's outcomes give on the samples that were measured again; None if those are others.
        measured: on these samples, None if it could not be measured.
        interval: 95% interval of `measured`; of other samples than the file's, that in which a true report lies.
        lost, won: samples that only the file, or only the new measurement, counts as correct.
        samples: samples that were measured again.
        verdict: whether the report holds.
        why: how much differs, or why nothing was measured.
    """

    accuracy: str
    reported: float
    reported_here: float | None = None
    measured: float | None = None
    interval: list[float] | None = None
    lost: int | None = None
    won: int | None = None
    samples: int = 0
    verdict: Verdict = "not measured"
    why: str = ""


@dataclass(frozen=True, kw_only=True)
class Remeasured:
    """A result file's numbers, and the result that they were compared with; None if it could not be measured."""

    numbers: list[Number]
    result: dict[str, Any] | None = field(repr=False)


def measure_again(
    result: Mapping[str, Any],
    model: nn.Module,
    processor: Any,
    *,
    name: str,
    folder: Path,
    file: str,
    max_samples: int | None = None,
    data_dir: str | None = None,
    accelerator: Any = None,
    progress: bool = True,
) -> Remeasured:
    """Measure a result again by its own specification.

    The samples are the recorded ones, or a seeded draw of them. Substitutes that came from an object or a file are not
    recorded: without them the attacks on texts are left out.

    Args:
        result: a result of `evaluate_robustness`.
        model: the weights that it was measured on.
        processor: their processor.
        name: recorded as the model's name.
        folder: where the new result file is kept; an interrupted measurement goes on from there.
        file: beginning of its name.
        max_samples: measure on so many of the samples at most.
        data_dir: folder that holds the data set's files.
        accelerator: see `evaluate_robustness`.
        progress: show a bar.
    """
    stated = [accuracy for accuracy in worst_cases(result) if accuracy in result]
    try:
        data, same = _samples(result, max_samples, data_dir)
        attacks, sources, left_out = _attacks(result, model, processor)
        new = evaluate_robustness(
            model,
            processor,
            data,
            attacks,
            threat_model=ThreatModel.from_dict(result["attack_spec"]),
            candidates=sources,
            batch_size=result.get("batch_size", 128),
            output=folder / f"{file}-{len(data)}.json",
            accelerator=accelerator,
            progress=progress,
            model_name=name,
        )
    except (ValueError, TypeError, OSError, ImportError, LookupError) as error:
        return Remeasured(
            numbers=[Number(accuracy=one, reported=result[one], why=str(error)) for one in stated], result=None
        )
    rows = _drawn(result["num_samples"], max_samples)
    numbers = []
    for accuracy in stated:
        if worst_cases(new).get(accuracy) != worst_cases(result)[accuracy]:
            why = left_out or "this version of hf_mmcoa runs other attacks"
            numbers.append(Number(accuracy=accuracy, reported=result[accuracy], why=why))
        elif not same:
            numbers.append(_on_other_samples(result, new, accuracy))
        elif len(rows) < result["num_samples"] and _chosen_over_images(result, accuracy):
            why = "its prompts are chosen over all images at once: measure it on all samples"
            numbers.append(Number(accuracy=accuracy, reported=result[accuracy], why=why))
        else:
            numbers.append(_on_same_samples(result, new, accuracy, rows))
    return Remeasured(numbers=numbers, result=new)


def _samples(result: Mapping[str, Any], max_samples: int | None, data_dir: str | None) -> tuple[datasets.Dataset, bool]:
    """Return the rows to measure on, and whether these are the recorded ones.

    Raises:
        ValueError: if the data set has other classes than the result.
    """
    name, split = dataset_and_split(result)
    data = load_benchmark(name, split=split or "test", data_dir=data_dir)
    label = str(resolve_columns(data, "auto", "auto").label)
    if (names := data.features[label].names) != result.get("class_names", names):
        raise ValueError(f"{name} has {len(names)} classes, such as {names[0]!r}, and not those of the result.")
    row_ids = result["row_ids"]
    labels = read_labels(data, label).tolist()
    same = max(row_ids) < len(labels) and [labels[row] for row in row_ids] == result["labels"]
    if not same:
        return data.select(_drawn(len(data), max_samples or len(row_ids))), False
    return data.select([row_ids[place] for place in _drawn(len(row_ids), max_samples)]), True


def _drawn(total: int, max_samples: int | None) -> list[int]:
    """Return the places of the samples that are measured, in order."""
    if max_samples is None or max_samples >= total:
        return list(range(total))
    return sorted(torch.randperm(total, generator=torch.Generator().manual_seed(0))[:max_samples].tolist())


def _attacks(result: Mapping[str, Any], model: nn.Module, processor: Any) -> tuple[list[str], Any, str]:
    """Return the kinds of attack that can be run again, their substitutes, and why others are left out."""
    kinds = result.get("attacks", ["clean", *dict.fromkeys(AttackName.parse(one).kind for one in result["outcomes"])])
    try:
        return kinds, recorded_sources(result, model, processor.tokenizer) if "text" in kinds else None, ""
    except LookupError as error:
        return [kind for kind in kinds if kind in ("clean", "image")], None, str(error)


def _chosen_over_images(result: Mapping[str, Any], accuracy: str) -> bool:
    """Return whether an accuracy hangs on prompts that are chosen for all images at once."""
    adversaries = {AttackName.parse(one).adversary for one in worst_cases(result)[accuracy]}
    return "shared" in adversaries and "all" not in adversaries


def _on_same_samples(result: Mapping[str, Any], new: Mapping[str, Any], accuracy: str, rows: list[int]) -> Number:
    """Compare outcomes sample by sample; `rows` are the places of the new samples among the recorded ones."""
    recorded = worst_outcome(result, worst_cases(result)[accuracy])
    before, now = [recorded[place] for place in rows], worst_outcome(new, worst_cases(new)[accuracy])
    lost = sum(one > other for one, other in zip(before, now, strict=True))
    won = sum(one < other for one, other in zip(before, now, strict=True))
    allowed = allowance(len(rows))
    holds = abs(lost - won) <= allowed
    why = f"{lost + won} of {len(rows)} samples come out differently" if lost + won else ""
    if not holds:
        why += f", {lost} worse and {won} better than reported; {allowed} may"
    return Number(
        accuracy=accuracy,
        reported=result[accuracy],
        reported_here=before.count("1") / len(rows),
        measured=new[accuracy],
        interval=new[f"{accuracy}_interval"],
        lost=lost,
        won=won,
        samples=len(rows),
        verdict="holds" if holds else "differs",
        why=why,
    )


def _on_other_samples(result: Mapping[str, Any], new: Mapping[str, Any], accuracy: str) -> Number:
    """Compare the shares alone: the data set has other rows than when the result was measured."""
    total = new["num_samples"]
    found = agreement(result[accuracy], [(round(new[accuracy] * total), total)], result["num_samples"])
    return Number(
        accuracy=accuracy,
        reported=result[accuracy],
        measured=new[accuracy],
        interval=[found.low, found.high],
        samples=total,
        verdict="holds" if found.holds else "differs",
        why="on other samples: the data set's rows are not those of the result",
    )
