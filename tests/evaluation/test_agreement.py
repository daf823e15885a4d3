"""A stated accuracy and a measured one: worked examples, and what widens and narrows the interval."""

from __future__ import annotations

import pytest

from hf_mmcoa.evaluation.agreement import agreement
from hf_mmcoa.evaluation.statistics import wilson_interval


def test_it_is_newcombe_s_interval_of_a_difference():
    # Newcombe (1998), Table II: 56/70 and 48/80, method 10: the difference lies in 0.0524 to 0.3339.
    found = agreement(48 / 80, [(56, 70)], stated_samples=80)
    assert (found.low - 0.6, found.high - 0.6) == pytest.approx((0.0524, 0.3339), abs=5e-5)
    assert found.measured == 0.8 and not found.holds


def test_a_statement_on_all_samples_has_no_sampling_error():
    found = agreement(0.5, [(40, 100)])
    assert [found.low, found.high] == pytest.approx(wilson_interval(40, 100))
    wider = agreement(0.5, [(40, 100)], stated_samples=100)
    assert wider.low < found.low and wider.high > found.high and not found.holds and wider.holds


def test_the_same_gap_holds_on_few_samples_and_differs_on_many():
    assert agreement(0.55, [(25, 50)], stated_samples=1000).holds
    assert not agreement(0.55, [(5000, 10000)], stated_samples=1000).holds


def test_a_mean_over_data_sets_is_surer_than_one_of_them():
    one, many = agreement(0.5, [(50, 100)]), agreement(0.5, [(50, 100)] * 4)
    assert (many.high - many.measured) == pytest.approx((one.high - one.measured) / 2)
    assert agreement(0.5, [(0, 10), (20, 20)]).measured == 0.5  # a mean of shares, whatever their samples


def test_rounding_widens_the_interval():
    found = agreement(0.4, [(500, 1000)], rounding=0.0005)
    assert found.low == pytest.approx(wilson_interval(500, 1000)[0] - 0.0005)


@pytest.mark.parametrize(
    ("stated", "counts", "text"), [(0.5, [], "at least one data set"), (50.0, [(1, 2)], "`stated`")]
)
def test_what_is_no_statement(stated, counts, text):
    with pytest.raises(ValueError, match=text):
        agreement(stated, counts)
