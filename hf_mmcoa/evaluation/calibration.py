"""Whether the probabilities of a model are those with which it is right: expected calibration error and likelihood."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TypedDict

BINS = 15  # of equal width (Guo et al. 2017, arXiv:1706.04599, section 5)


class Bins(TypedDict):
    """Samples by their confidence, in bins of equal width over (0, 1]; `None` for an empty bin."""

    count: list[int]
    confidence: list[float | None]
    accuracy: list[float | None]


class Calibration(TypedDict):
    """Calibration of a model on some samples.

    `ece`: expected calibration error, the mean over samples of |accuracy - confidence| of their bin; `nll`: mean
    negative logarithm of the true class's probability; `confidence`: mean probability of the predicted class.
    """

    ece: float
    nll: float
    confidence: float
    bins: Bins


def calibration(confidence: Sequence[float], correct: Sequence[bool], nll: Sequence[float]) -> Calibration:
    """Return the calibration of predictions.

    Args:
        confidence: probability of the predicted class of each sample, in (0, 1].
        correct: whether it is the true one.
        nll: negative logarithm of the true class's probability.

    Raises:
        ValueError: if there are no samples, or the arguments differ in length.

    Example:
        >>> found = calibration([0.9, 0.9, 0.6, 0.6], [True, False, True, True], [0.1, 2.3, 0.5, 0.5])
        >>> round(found["ece"], 3), round(found["nll"], 3)
        (0.4, 0.85)
    """
    if not confidence or not len(confidence) == len(correct) == len(nll):
        raise ValueError(
            f"`confidence`, `correct` and `nll` must hold one value a sample, got {len(confidence)}, {len(correct)} "
            f"and {len(nll)}."
        )
    members: list[list[int]] = [[] for _ in range(BINS)]
    for sample, sure in enumerate(confidence):
        members[min(max(math.ceil(sure * BINS) - 1, 0), BINS - 1)].append(sample)  # bins are open on the left
    means = [_mean([confidence[sample] for sample in found]) for found in members]
    accuracies = [_mean([float(correct[sample]) for sample in found]) for found in members]
    gaps = [
        len(found) * abs(accuracy - mean)
        for found, mean, accuracy in zip(members, means, accuracies, strict=True)
        if mean is not None and accuracy is not None
    ]
    return {
        "ece": math.fsum(gaps) / len(confidence),
        "nll": math.fsum(nll) / len(nll),
        "confidence": math.fsum(confidence) / len(confidence),
        "bins": {"count": [len(found) for found in members], "confidence": means, "accuracy": accuracies},
    }


def _mean(values: Sequence[float]) -> float | None:
    return math.fsum(values) / len(values) if values else None
