"""The interval of an accuracy and the test of a difference, by what the number generalises over.

Clean and image accuracies would differ on other images. An accuracy under an attack on prompts would differ with other
words: one attacked prompt decides all images of its class, so classes are drawn there, not images (docs/methods.md,
section 9). Results of several training seeds are one more level, as seeds are crossed with images and classes.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from .clusters import (
    Array,
    ClusterInterval,
    cluster_interval,
    effective_sample_size,
    paired_cluster_interval,
    paired_cluster_test,
)
from .statistics import mcnemar, wilson_interval

Unit = Literal["images", "classes"]


@dataclass(frozen=True, kw_only=True)
class PairedTest:
    """A test of two models on the same samples.

    Args:
        only_first: number of samples that the first alone classifies correctly; each sample counts once a seed.
        only_second: the same of the second.
        p_value: two-sided.
        test: its name.
        over: what is drawn again in the test, "images" or "classes"; the trained models are not.
    """

    only_first: int
    only_second: int
    p_value: float
    test: str
    over: Unit


def unit(attacks: Iterable[str]) -> Unit:
    """Return what the worst case over `attacks` generalises over: "classes" if one of them changes prompts.

    Example:
        >>> unit(["clean", "image/pgd-ce"]), unit(["clean", "image/pgd-ce", "multimodal/independent"])
        ('images', 'classes')
    """
    return "classes" if any(name.startswith(("text/", "multimodal/")) for name in attacks) else "images"


def accuracy_interval(outcomes: Sequence[str], labels: Sequence[int], attacks: Iterable[str]) -> ClusterInterval:
    """Return the 95% interval of an accuracy of one result, or of its mean over the results of several seeds.

    One result over images: Wilson's. Everything else: `cluster_interval` over classes or images and, if there are
    several results, seeds. Where every outcome is the same, seeds are left out: they show no spread, and there is no
    reason to fear that a seed decides all samples, as a prompt does.

    Args:
        outcomes: for each seed one sign a sample, "1" if it is classified correctly; the same samples in each.
        labels: the class of each sample.
        attacks: names of the attacks that the outcomes are the worst case over.

    Returns:
        The interval; its `generalises_over` holds "images" or "classes", and "seeds".

    Example:
        >>> found = accuracy_interval(["0" * 360], [row % 10 for row in range(360)], ["clean", "text/words"])
        >>> round(found.high, 3), found.generalises_over  # no prompt of ten stands: not none of 360
        (0.308, ('classes',))
    """
    over = unit(attacks)
    if len(outcomes) == 1 and over == "images":
        stands, total = outcomes[0].count("1"), len(outcomes[0])
        low, high = wilson_interval(stands, total)
        return ClusterInterval(stands / total, low, high, total, ("images",), "Wilson")
    values = _signs(outcomes)
    return cluster_interval(values, _levels(values, len(outcomes), labels, over))


def interval_fields(name: str, outcome: str, labels: Sequence[int], attacks: Iterable[str]) -> dict[str, Any]:
    """Return the fields of a result that stand beside an accuracy: its interval and what it generalises over.

    Args:
        name: of the accuracy, "text_accuracy".
        outcome: one sign a sample.
        labels: the class of each sample.
        attacks: names of the attacks that the outcome is the worst case over.

    Returns:
        `<name>_interval`, `<name>_interval_over` and, over classes, `<name>_effective_samples`: as how many independent
        samples the clustered ones count.
    """
    over, found = unit(attacks), accuracy_interval([outcome], labels, attacks)
    fields: dict[str, Any] = {f"{name}_interval": [found.low, found.high], f"{name}_interval_over": over}
    if over == "classes":
        fields[f"{name}_effective_samples"] = effective_sample_size(_signs([outcome]), labels)
    return fields


def paired_test(
    first: Sequence[str], second: Sequence[str], labels: Sequence[int], attacks: Iterable[str]
) -> PairedTest:
    """Test whether two models have the same accuracy, on the same samples and seeds.

    One seed over images: McNemar's exact test. Everything else: `paired_cluster_test`, in which all images of a class,
    or an image under all seeds, change sides together.

    Args:
        first: for each seed one sign a sample.
        second: the same of the other model.
        labels: the class of each sample.
        attacks: names of the attacks that the outcomes are the worst case over.
    """
    over, one, other = unit(attacks), _signs(first), _signs(second)
    only_first, only_second = int((one > other).sum()), int((one < other).sum())
    if len(first) == 1 and over == "images":
        p_value, test = mcnemar(only_first, only_second), "McNemar"
    else:
        p_value, test = paired_cluster_test(one, other, _clusters(len(first), labels, over)), "sign flips"
    return PairedTest(only_first=only_first, only_second=only_second, p_value=p_value, test=test, over=over)


def difference_interval(
    first: Sequence[str], second: Sequence[str], labels: Sequence[int], attacks: Iterable[str]
) -> ClusterInterval:
    """Return the 95% interval of a difference in accuracy, second minus first; arguments as of `paired_test`."""
    one, other = _signs(first), _signs(second)
    return paired_cluster_interval(one, other, _levels(other - one, len(first), labels, unit(attacks)))


def _signs(outcomes: Sequence[str]) -> Array:
    return np.array([float(sign) for outcome in outcomes for sign in outcome])


def _clusters(seeds: int, labels: Sequence[int], over: Unit) -> list[int]:
    return [*(labels if over == "classes" else range(len(labels)))] * seeds


def _levels(values: Array, seeds: int, labels: Sequence[int], over: Unit) -> dict[str, list[int]]:
    """Return the levels of outcomes, or of their differences, that stand seed after seed."""
    levels: dict[str, list[int]] = {over: _clusters(seeds, labels, over)}
    if seeds > 1 and values.min() < values.max():
        levels = {"seeds": [seed for seed in range(seeds) for _ in labels], **levels}
    return levels
