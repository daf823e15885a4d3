"""The interval of an accuracy and the test of a difference, by what the number generalises over.

Clean and image accuracies would differ on other images. An accuracy under an attack on prompts would differ with other
words: one attacked prompt decides all images of its class, so classes are drawn there, not images (docs/methods.md,
section 9). Results of several training seeds are one more level, as seeds are crossed with images and classes, and so
are results of several word splits where attacked words decide the outcome. A model that reads no substitutes in
training is the same under every word split: what it says of images counts once, not once a split.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple

import numpy as np

from .clusters import (
    Array,
    ClusterInterval,
    cluster_interval,
    effective_sample_size,
    paired_cluster_interval,
    paired_cluster_test,
    paired_crossed_test,
)
from .statistics import mcnemar, wilson_interval

Unit = Literal["images", "classes"]
Drawn = Literal["images", "classes", "captioned images"]
"""What is drawn anew: also images with the captions and the images that belong together, in retrieval."""


class Repetition(NamedTuple):
    """One of several results of a method: the seed of its training, and the split of the words into known and unseen.

    Args:
        seed: the seed.
        word_split: seed of the split.
    """

    seed: int
    word_split: int = 0

    def __str__(self) -> str:
        return f"{self.seed}, word split {self.word_split}" if self.word_split else str(self.seed)


@dataclass(frozen=True, kw_only=True)
class PairedTest:
    """A test of two models on the same samples.

    Args:
        only_first: number of samples that the first alone classifies correctly, or under more of the word splits; each
            sample counts once a seed and, where words decide, once a word split.
        only_second: the same of the second.
        pairs: number of samples that were counted.
        p_value: two-sided.
        test: its name.
        over: what is drawn again in the test: "images" or "classes", and not the trained models; "seeds, word splits
            and classes" where there are several word splits.
    """

    only_first: int
    only_second: int
    pairs: int
    p_value: float
    test: str
    over: str


def unit(attacks: Iterable[str]) -> Unit:
    """Return what the worst case over `attacks` generalises over: "classes" if one of them changes prompts.

    Example:
        >>> unit(["clean", "image/pgd-ce"]), unit(["clean", "image/pgd-ce", "multimodal/independent"])
        ('images', 'classes')
    """
    return "classes" if any(name.startswith(("text/", "multimodal/")) for name in attacks) else "images"


def in_words(levels: Sequence[str]) -> str:
    """Return names as people list them.

    Example:
        >>> in_words(["seeds", "word splits", "classes"])
        'seeds, word splits and classes'
    """
    *first, last = levels
    return f"{', '.join(first)} and {last}" if first else last


def accuracy_interval(
    outcomes: Sequence[str],
    labels: Sequence[int],
    over: Drawn,
    repetitions: Sequence[Repetition] | None = None,
) -> ClusterInterval:
    """Return the 95% interval of an accuracy of one result, or of its mean over several results.

    One result over images: Wilson's. Everything else: `cluster_interval` over classes or images and, if there are
    several of them, seeds and word splits. Where every outcome is the same, seeds are left out: they show no spread,
    and there is no reason to fear that a seed decides all samples, as a prompt does.

    Clean and image accuracies, and those that do not differ between the word splits of a seed, are averaged over these
    first: ten measurements of one model are one result.

    Args:
        outcomes: for each result one sign a sample, "1" if it is classified correctly; the same samples in each.
        labels: the class of each sample, or the number of the images and captions that belong together.
        over: what would be drawn anew: `unit` of the attacks, or "captioned images" in retrieval.
        repetitions: the seed and the word split of each result; of several seeds and one word split when None.

    Returns:
        The interval; its `generalises_over` holds `over`, "seeds" and "word splits".

    Example:
        >>> found = accuracy_interval(["0" * 360], [row % 10 for row in range(360)], "classes")
        >>> round(found.high, 3), found.generalises_over  # no prompt of ten stands: not none of 360
        (0.308, ('classes',))
    """
    (values,), repetitions = _independent([outcomes], repetitions, over)
    if len(values) == 1 and over == "images" and not (values % 1).any():
        stands, total = int(values.sum()), values.size
        low, high = wilson_interval(stands, total)
        return ClusterInterval(stands / total, low, high, total, ("images",), "Wilson")
    found = cluster_interval(values.ravel(), _levels(values, repetitions, labels, over))
    # Samples of one class alone: a single cluster varies over nothing, and counts as one class all the same.
    return found if found.generalises_over else replace(found, generalises_over=(over,))


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
    over = unit(attacks)
    found = accuracy_interval([outcome], labels, over)
    fields: dict[str, Any] = {f"{name}_interval": [found.low, found.high], f"{name}_interval_over": over}
    if over == "classes":
        fields[f"{name}_effective_samples"] = effective_sample_size(_signs([outcome]).ravel(), labels)
    return fields


def paired_test(
    first: Sequence[str],
    second: Sequence[str],
    labels: Sequence[int],
    over: Drawn,
    repetitions: Sequence[Repetition] | None = None,
) -> PairedTest:
    """Test whether two models have the same accuracy, on the same samples, seeds and word splits.

    One seed over images: McNemar's exact test. Several seeds, or classes: `paired_cluster_test`, in which all images of
    a class, or an image under all seeds, change sides together. Several word splits that decide the outcome: the larger
    p of that and of `paired_crossed_test`, which draws seeds and word splits anew too.

    Args:
        first: for each result one sign a sample.
        second: the same of the other model.
        labels, over, repetitions: as of `accuracy_interval`, which also says what is averaged over word splits first.
    """
    (one, other), repetitions = _independent([first, second], repetitions, over)
    only_first, only_second = int((one > other).sum()), int((one < other).sum())
    drawn: str = over
    if len(one) == 1 and over == "images" and not ((one % 1).any() or (other % 1).any()):
        p_value, test = mcnemar(only_first, only_second), "McNemar"
    else:
        clusters = _clusters(len(one), labels, over)
        p_value, test = paired_cluster_test(one.ravel(), other.ravel(), clusters), "sign flips"
        levels = _levels(other - one, repetitions, labels, over)
        if "word splits" in levels:
            p_value = max(p_value, paired_crossed_test(one.ravel(), other.ravel(), levels))
            test, drawn = "sign flips and crossed levels", in_words(list(levels))
    return PairedTest(
        only_first=only_first, only_second=only_second, pairs=one.size, p_value=p_value, test=test, over=drawn
    )


def difference_interval(
    first: Sequence[str],
    second: Sequence[str],
    labels: Sequence[int],
    over: Drawn,
    repetitions: Sequence[Repetition] | None = None,
) -> ClusterInterval:
    """Return the 95% interval of a difference in accuracy, second minus first; arguments as of `paired_test`."""
    (one, other), repetitions = _independent([first, second], repetitions, over)
    levels = _levels(other - one, repetitions, labels, over)
    return paired_cluster_interval(one.ravel(), other.ravel(), levels)


def _signs(outcomes: Sequence[str]) -> Array:
    return np.array([[float(sign) for sign in outcome] for outcome in outcomes])


def _independent(
    models: Sequence[Sequence[str]], repetitions: Sequence[Repetition] | None, over: Drawn
) -> tuple[list[Array], list[Repetition]]:
    """Return outcomes, (results, samples) for each model, and their repetitions, those that say the same as one.

    Word splits do not decide clean and image accuracies, so they are averaged over those of a seed. The same is done
    where the outcomes of all models agree between the splits: an attack that uses no words, on a model that read none.
    """
    values = np.stack([_signs(outcomes) for outcomes in models])  # (models, results, samples)
    given = list(repetitions or map(Repetition, range(values.shape[1])))
    of_seed: dict[int, list[int]] = {}
    for place, repetition in enumerate(given):
        of_seed.setdefault(repetition.seed, []).append(place)
    if len(of_seed) == len(given):
        return list(values), given
    if over == "images" or all((values[:, own] == values[:, own[:1]]).all() for own in of_seed.values()):
        values = np.stack([values[:, own].mean(1) for own in of_seed.values()], axis=1)
        given = [Repetition(given[own[0]].seed) for own in of_seed.values()]
    return list(values), given


def _clusters(results: int, labels: Sequence[int], over: Drawn) -> list[int]:
    return [*(range(len(labels)) if over == "images" else labels)] * results


def _levels(
    values: Array, repetitions: Sequence[Repetition], labels: Sequence[int], over: Drawn
) -> dict[str, list[int]]:
    """Return the levels of outcomes, or of their differences, (results, samples), that stand result after result."""
    levels: dict[str, list[int]] = {}
    for name, numbers in (
        ("seeds", [repetition.seed for repetition in repetitions]),
        ("word splits", [repetition.word_split for repetition in repetitions]),
    ):
        if len(set(numbers)) > 1 and values.min() < values.max():
            levels[name] = [number for number in numbers for _ in labels]
    return {**levels, over: _clusters(len(repetitions), labels, over)}
