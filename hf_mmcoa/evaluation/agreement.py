"""Whether an accuracy that somebody states agrees with one that was measured on other samples, or on fewer."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from .statistics import wilson_interval


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """A stated and a measured accuracy.

    Args:
        measured: the accuracy, or its mean over several data sets, as a fraction.
        low, high: the 95% interval in which a statement that is true lies.
        holds: whether the statement lies in it.
    """

    measured: float
    low: float
    high: float
    holds: bool


def agreement(
    stated: float, counts: Sequence[tuple[int, int]], stated_samples: int | None = None, rounding: float = 0.0
) -> Agreement:
    """Compare a stated accuracy with a measured one; both are shares of samples, and both may err.

    The interval is Newcombe's of a difference of independent proportions (hybrid score, Newcombe 1998,
    doi:10.1002/(SICI)1097-0258(19980430)17:8<873::AID-SIM779>3.0.CO;2-I), moved to the measured accuracy. The distances
    from proportion to Wilson's limits add as squares, over data sets as over the two sides. Of a stated mean only the
    mean is known, and it counts as one proportion of all its samples, whose interval is the wider one.

    Args:
        stated: fraction.
        counts: for each data set, the number of samples that were classified correctly and that of all; an accuracy
            over several data sets is the mean of theirs.
        stated_samples: samples of each data set that the statement was measured on; None if these are all that the
            data set has, from which the measured ones were drawn.
        rounding: half a unit of the statement's last digit.

    Raises:
        ValueError: if there are no samples, or `stated` is no fraction.

    Example:
        >>> found = agreement(0.531, [(500, 1000)], stated_samples=1000, rounding=0.0005)
        >>> found.holds, round(found.low, 3), round(found.high, 3)
        (True, 0.456, 0.544)
    """
    if not counts:
        raise ValueError("`counts` is empty: an accuracy needs at least one data set.")
    if not 0 <= stated <= 1:
        raise ValueError(f"`stated` must be a fraction in [0, 1], got {stated}.")
    measured = math.fsum(right / total for right, total in counts) / len(counts)
    limits = [(right / total, *wilson_interval(right, total)) for right, total in counts]
    below = math.hypot(*(share - low for share, low, _ in limits)) / len(counts)
    above = math.hypot(*(high - share for share, _, high in limits)) / len(counts)
    stated_below = stated_above = 0.0
    if stated_samples is not None:
        total = stated_samples * len(counts)
        right = round(stated * total)
        low, high = wilson_interval(right, total)
        stated_below, stated_above = right / total - low, high - right / total
    low = max(measured - math.hypot(below, stated_above) - rounding, 0.0)
    high = min(measured + math.hypot(above, stated_below) + rounding, 1.0)
    return Agreement(measured=measured, low=low, high=high, holds=low <= stated <= high)
