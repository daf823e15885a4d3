"""Intervals and paired tests on accuracies, in plain Python: what turns a fraction into a statement."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

Z_95 = statistics.NormalDist().inv_cdf(0.975)


def wilson_interval(successes: int, total: int, confidence: float = 0.95) -> list[float]:
    """Interval of a proportion that stays inside [0, 1] and holds at 0 and 1 too (Wilson, 1927).

    Args:
        successes: number of samples that stand.
        total: number of samples.
        confidence: of the interval.

    Returns:
        [low, high].

    Raises:
        ValueError: if there are no samples, or more successes than samples.

    Example:
        >>> [round(bound, 4) for bound in wilson_interval(8, 10)]
        [0.4902, 0.9433]
    """
    if total < 1 or not 0 <= successes <= total:
        raise ValueError(f"`successes` must be in [0, `total`] and `total` at least 1, got {successes} of {total}.")
    z = statistics.NormalDist().inv_cdf((1 + confidence) / 2)
    fraction, square = successes / total, z * z / total
    centre = (fraction + square / 2) / (1 + square)
    half = z * math.sqrt(fraction * (1 - fraction) / total + square / (4 * total)) / (1 + square)
    return [max(0.0, centre - half) if successes else 0.0, min(1.0, centre + half) if successes < total else 1.0]


def mean_interval(values: Sequence[float], confidence: float = 0.95) -> list[float]:
    """Student's t interval of a mean, for instance over seeds.

    Args:
        values: at least two, one a seed.
        confidence: of the interval.

    Returns:
        [low, high]; not clipped to [0, 1].

    Raises:
        ValueError: if there are fewer than two values: one seed has no spread.

    Example:
        >>> [round(bound, 3) for bound in mean_interval([0.70, 0.72, 0.74])]
        [0.67, 0.77]
    """
    if len(values) < 2:
        raise ValueError(f"`values` must hold at least two, got {len(values)}: one seed says nothing about the spread.")
    half = t_quantile((1 + confidence) / 2, len(values) - 1) * statistics.stdev(values) / math.sqrt(len(values))
    mean = statistics.fmean(values)
    return [mean - half, mean + half]


def mcnemar(only_first: int, only_second: int) -> float:
    """Two-sided exact p-value that two models are equally robust, from the samples on which they differ (McNemar,
    1947).

    Args:
        only_first: samples that stand for the first model alone.
        only_second: samples that stand for the second alone.

    Returns:
        Probability, under a fair coin, of a split at least as uneven; 1 if the models never differ.

    Example:
        >>> mcnemar(5, 0)  # 2 / 2**5
        0.0625
    """
    if only_first < 0 or only_second < 0:
        raise ValueError(f"counts must not be negative, got {only_first} and {only_second}.")
    total = only_first + only_second
    ways = tail = 1  # binomial coefficients and their sum, exact: integers of any size
    for count in range(min(only_first, only_second)):
        ways = ways * (total - count) // (count + 1)
        tail += ways
    return min(1.0, 2 * tail / 2**total)


def t_quantile(probability: float, freedom: int) -> float:
    """Quantile of Student's t with an integer number of degrees of freedom, at a probability of at least one half.

    By bisection on the closed form of its distribution (Abramowitz and Stegun, 26.7.3 and 26.7.4): scipy is no
    dependency.
    """
    if not 0.5 <= probability < 1 or freedom < 1:
        raise ValueError(
            f"`probability` must be in [0.5, 1) and `freedom` at least 1, got {probability} and {freedom}."
        )
    low, high = 0.0, 1.0
    while _t_distribution(high, freedom) < probability:
        low, high = high, 2 * high
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if _t_distribution(middle, freedom) < probability else (low, middle)
    return (low + high) / 2


def _t_distribution(t: float, freedom: int) -> float:
    """P(T <= t) for t >= 0."""
    angle = math.atan(t / math.sqrt(freedom))
    cosine, sine = math.cos(angle), math.sin(angle)
    term, total = 1.0, 1.0
    for k in range(2 + freedom % 2, freedom - 1, 2):
        term *= cosine * cosine * (k - 1) / k
        total += term
    if freedom % 2 == 0:
        return (1 + sine * total) / 2
    central = 2 / math.pi * (angle + (sine * cosine * total if freedom > 1 else 0.0))
    return (1 + central) / 2
