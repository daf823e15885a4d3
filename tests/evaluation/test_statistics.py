from __future__ import annotations

import pytest

from hf_mmcoa.evaluation.statistics import mcnemar, wilson_interval


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
