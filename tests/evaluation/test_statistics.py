from __future__ import annotations

import statistics

import pytest

from hf_mmcoa.evaluation.statistics import mcnemar, mean_interval, wilson_interval


def test_wilson_interval_by_hand():
    # z = 1.959964: centre (0.8 + z^2/20) / (1 + z^2/10), half z sqrt(0.016 + z^2/400) / (1 + z^2/10)
    assert wilson_interval(8, 10) == pytest.approx([0.490162, 0.943318], abs=1e-6)


@pytest.mark.parametrize("total", [1, 3, 7, 64, 1000])
def test_wilson_interval_holds_the_proportion_itself(total):
    for successes in range(total + 1):
        low, high = wilson_interval(successes, total)
        assert 0 <= low <= successes / total <= high <= 1


def test_wilson_interval_at_the_ends_is_not_empty():
    low, high = wilson_interval(0, 100)
    assert low == 0 and high == pytest.approx(3.841459 / 103.841459, abs=1e-6)  # z^2 / (n + z^2)
    assert wilson_interval(100, 100) == pytest.approx([1 - high, 1.0])


@pytest.mark.parametrize(("successes", "total"), [(0, 0), (3, 2), (-1, 2)])
def test_wilson_interval_refuses_impossible_counts(successes, total):
    with pytest.raises(ValueError, match="successes"):
        wilson_interval(successes, total)


@pytest.mark.parametrize(
    ("freedom", "quantile"),
    [
        (1, 12.7062),
        (2, 4.30265),
        (3, 3.18245),
        (4, 2.77645),
        (5, 2.57058),
        (9, 2.26216),
        (30, 2.04227),
        (1000, 1.96234),
    ],
)
def test_students_quantiles_as_in_the_tables(freedom, quantile):
    values = [(-1.0) ** index for index in range(freedom + 1)]
    low, high = mean_interval(values)
    standard_error = statistics.stdev(values) / len(values) ** 0.5
    assert (high - low) / 2 / standard_error == pytest.approx(quantile, rel=1e-5)


def test_equal_seeds_have_an_interval_of_one_point():
    assert mean_interval([0.5, 0.5, 0.5]) == [0.5, 0.5]


def test_mean_interval_by_hand():
    # mean 0.72, standard deviation 0.02, t = 4.30265 with 2 degrees of freedom
    half = 4.30265 * 0.02 / 3**0.5
    assert mean_interval([0.70, 0.72, 0.74]) == pytest.approx([0.72 - half, 0.72 + half], abs=1e-6)


def test_one_seed_has_no_interval():
    with pytest.raises(ValueError, match="at least two"):
        mean_interval([0.7])


@pytest.mark.parametrize(
    ("first", "second", "p_value"),
    [(0, 0, 1.0), (5, 0, 0.0625), (0, 5, 0.0625), (1, 9, 22 / 1024), (3, 3, 1.0)],  # 2 (1 + 10) / 2^10
)
def test_mcnemar_by_hand(first, second, p_value):
    assert mcnemar(first, second) == pytest.approx(p_value)


def test_mcnemar_refuses_negative_counts():
    with pytest.raises(ValueError, match="negative, got -1 and 2"):
        mcnemar(-1, 2)


def test_mcnemar_on_many_samples():
    assert 0 < mcnemar(4000, 4400) < 1e-4  # no overflow: 2^8400 is no float
