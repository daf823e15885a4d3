"""The interval of an accuracy and the test of a difference over independent images, by scipy; others: `uncertainty`.

scipy.stats is imported where it is used: importing it takes half a second, which `hf-mmcoa --help` need not wait for.
"""

from __future__ import annotations


def wilson_interval(successes: int, total: int, confidence: float = 0.95) -> list[float]:
    """Return the Wilson score interval of a proportion (Wilson, 1927): inside [0, 1], and not empty at 0 and 1.

    Args:
        successes: number of samples that are classified correctly.
        total: number of samples.
        confidence: coverage of the interval, in (0, 1).

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
    from scipy.stats import binomtest

    low, high = binomtest(successes, total).proportion_ci(confidence, method="wilson")
    # Exact at both ends, where rounding would leave the proportion itself outside its interval.
    return [float(low) if successes else 0.0, float(high) if successes < total else 1.0]


def mcnemar(only_first: int, only_second: int) -> float:
    """Return the two-sided exact p-value of McNemar's test (1947) that two models are equally accurate.

    Args:
        only_first: number of samples that the first model alone classifies correctly.
        only_second: number of samples that the second model alone classifies correctly.

    Returns:
        Probability, under a fair coin, of a split at least as uneven; 1 if the models never differ.

    Raises:
        ValueError: if a count is negative.

    Example:
        >>> mcnemar(5, 0)  # 2 / 2**5
        0.0625
    """
    if only_first < 0 or only_second < 0:
        raise ValueError(f"counts must not be negative, got {only_first} and {only_second}.")
    if only_first == only_second == 0:
        return 1.0
    from scipy.stats import binomtest

    return float(binomtest(only_first, only_first + only_second, 0.5).pvalue)
