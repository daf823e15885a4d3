"""Clustered outcomes: worked by hand, and by simulation against the interval that ignores the clusters."""

from __future__ import annotations

import math

import numpy as np
import pytest

from hf_mmcoa.evaluation.clusters import (
    cluster_interval,
    effective_sample_size,
    intraclass_correlation,
    paired_cluster_test,
)
from hf_mmcoa.evaluation.statistics import wilson_interval


def simulated(generator: np.random.Generator, clusters: int, size: int, mean: float, icc: float):
    """Beta-binomial outcomes: each cluster has its own rate, and two of its outcomes correlate by `icc`."""
    spread = (1 - icc) / icc
    rates = generator.beta(mean * spread, (1 - mean) * spread, clusters)
    outcomes = generator.random((clusters, size)) < rates[:, None]
    return outcomes.ravel(), np.repeat(np.arange(clusters), size)


@pytest.mark.slow
@pytest.mark.parametrize(("clusters", "mean"), [(10, 0.5), (20, 0.3)])
def test_the_interval_covers_what_the_naive_one_does_not(clusters: int, mean: float) -> None:
    generator, covered, naive, runs = np.random.default_rng(0), 0, 0, 400
    for _ in range(runs):
        outcomes, labels = simulated(generator, clusters, 30, mean, icc=0.5)
        found = cluster_interval(outcomes, {"class": labels}, num_resamples=1000)
        low, high = wilson_interval(int(outcomes.sum()), outcomes.size)
        covered += found.low <= mean <= found.high
        naive += low <= mean <= high
    assert 0.90 <= covered / runs <= 0.99
    assert naive / runs < 0.5


@pytest.mark.slow
def test_crossed_classes_and_seeds_are_covered() -> None:
    generator, covered, classes_alone, runs = np.random.default_rng(1), 0, 0, 300
    classes, seeds = (part.ravel() for part in np.meshgrid(np.arange(12), np.arange(4), indexing="ij"))
    labels, runs_of = np.repeat(classes, 10), np.repeat(seeds, 10)
    for _ in range(runs):
        rate = 0.5 + generator.normal(0, 0.1, 12)[labels] + generator.normal(0, 0.1, 4)[runs_of]
        outcomes = generator.random(labels.size) < rate
        both = cluster_interval(outcomes, {"class": labels, "seed": runs_of}, num_resamples=600)
        alone = cluster_interval(outcomes, {"class": labels}, num_resamples=600)
        covered += both.low <= 0.5 <= both.high
        classes_alone += alone.low <= 0.5 <= alone.high
    assert covered / runs >= 0.93
    assert classes_alone / runs < 0.85


def test_the_interval_of_two_levels_names_both() -> None:
    outcomes, labels = simulated(np.random.default_rng(0), 10, 12, 0.5, 0.3)
    seeds = np.tile([0, 1, 2], 40)
    both = cluster_interval(outcomes, {"class": labels, "seed": seeds})
    assert both.generalises_over == ("class", "seed") and both.num_clusters == 3
    assert "cluster bootstrap over class and seed" in both.method
    one = cluster_interval(outcomes, {"class": labels, "seed": ["only"] * 120})
    assert one.generalises_over == ("class",) and one.num_clusters == 10
    alone = cluster_interval(outcomes, {"class": labels.tolist()})
    assert (one.low, one.high, one.estimate) == (alone.low, alone.high, float(outcomes.mean()))


def test_one_outcome_a_cluster_is_nearly_the_usual_interval() -> None:
    outcomes = [1] * 120 + [0] * 80
    found = cluster_interval(outcomes, {"image": range(200)})
    assert [found.low, found.high] == pytest.approx(wilson_interval(120, 200), abs=0.012)


def test_ten_clusters_are_nearly_the_t_interval_of_their_means() -> None:
    means = np.array([1, 2, 3, 4, 5, 5, 6, 7, 8, 9]) / 10
    outcomes = np.concatenate([np.arange(10) < round(10 * mean) for mean in means])
    found = cluster_interval(outcomes, {"class": np.repeat(np.arange(10), 10)}, num_resamples=40_000)
    half = 2.2622 * means.std(ddof=1) / math.sqrt(10)  # t at 97.5% with nine degrees of freedom
    assert found.high - found.low == pytest.approx(2 * half, rel=0.03)


def test_the_seed_decides_and_confidence_widens() -> None:
    outcomes, labels = simulated(np.random.default_rng(0), 10, 12, 0.5, 0.3)
    one, same, other = (cluster_interval(outcomes, {"class": labels}, seed=seed) for seed in (0, 0, 1))
    assert one == same != other
    wide = cluster_interval(outcomes, {"class": labels}, confidence=0.99)
    assert wide.low < one.low < one.estimate < one.high < wide.high


@pytest.mark.parametrize("value", [0, 1])
def test_none_of_many_images_is_none_of_few_clusters(value: int) -> None:
    labels = np.arange(360) % 10
    found = cluster_interval(np.full(360, value), {"class": labels})
    reach = 1 - 0.025**0.1  # nothing in ten tries at a rate of p: (1 - p)^10 = 0.025
    assert reach == pytest.approx(0.3085, abs=1e-4)
    assert [found.low, found.high] == pytest.approx([0, reach] if value == 0 else [1 - reach, 1])
    assert found.method.startswith("Clopper-Pearson with the number of clusters as n (10)")


def test_equal_clusters_have_an_interval_too() -> None:
    found = cluster_interval([0, 1] * 20, {"class": np.repeat(np.arange(20), 2)})
    assert [found.low, found.high] == pytest.approx(wilson_interval(10, 20))
    assert found.method.startswith("Wilson with the number of clusters as n (20)")


def test_one_cluster_says_almost_nothing() -> None:
    found = cluster_interval([0, 1, 1, 1], {"class": ["a"] * 4})
    assert found.generalises_over == () and found.high - found.low > 0.8


def test_below_six_clusters_the_range_of_their_means_is_not_the_interval() -> None:
    outcomes = [1] * 6 + [0] * 4 + [1] * 7 + [0] * 3
    found = cluster_interval(outcomes, {"class": np.repeat([0, 1], 10)})
    assert found.low < 0.2 and found.high > 0.9 and "too few clusters" in found.method


def test_the_sign_flip_test_worked_by_hand() -> None:
    # Differences of the clusters: 2, 1, -1. Of eight patterns of signs the sums are 2 0 4 2 and their negatives: six
    # are at least 2 in size.
    first, second = [1, 1, 1, 0, 0, 0], [0, 0, 0, 0, 1, 0]
    clusters = ["a", "a", "b", "b", "c", "c"]
    assert paired_cluster_test(first, second, clusters) == pytest.approx(6 / 8)
    assert paired_cluster_test(second, first, clusters) == pytest.approx(6 / 8)
    # Clusters that do not differ change nothing, nor does their number.
    assert paired_cluster_test(first + [1] * 40, second + [1] * 40, clusters + list(range(40))) == pytest.approx(6 / 8)
    assert paired_cluster_test(first, first, clusters) == 1.0
    # 36 images of one class are one outcome.
    assert paired_cluster_test([1] * 360, [0] * 360, np.arange(360) % 10) == 2 / 2**10


def test_a_sample_of_the_patterns_comes_near_all_of_them(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = np.random.default_rng(0)
    first, clusters = simulated(generator, 12, 10, 0.6, 0.3)
    second, _ = simulated(generator, 12, 10, 0.5, 0.3)
    exact = paired_cluster_test(first, second, clusters)
    monkeypatch.setattr("hf_mmcoa.evaluation.clusters.EXACT_FLIPS", 1)
    drawn = paired_cluster_test(first, second, clusters)
    assert 0.02 < exact < 0.98 and drawn == pytest.approx(exact, abs=0.02) and drawn != exact
    assert drawn == paired_cluster_test(first, second, clusters)
    assert drawn != paired_cluster_test(first, second, clusters, seed=1)


def test_the_test_keeps_its_level_on_clusters() -> None:
    generator, rejected, runs = np.random.default_rng(0), 0, 300
    for _ in range(runs):
        first, clusters = simulated(generator, 10, 20, 0.5, 0.5)
        second, _ = simulated(generator, 10, 20, 0.5, 0.5)
        rejected += paired_cluster_test(first, second, clusters) <= 0.05
    assert 0.01 < rejected / runs < 0.09


def test_the_intraclass_correlation_worked_by_hand() -> None:
    # Clusters (1, 1), (0, 1), (0, 0): between 2 * (.25 + 0 + .25) / 2 = 1/2, within .5 / 3 = 1/6, so with two to a
    # cluster (1/2 - 1/6) / (1/2 + 1/6) = 1/2; effective size 6 / (1 + 1/2) = 4.
    outcomes, clusters = [1, 1, 0, 1, 0, 0], [0, 0, 1, 1, 2, 2]
    assert intraclass_correlation(outcomes, clusters) == pytest.approx(1 / 2)
    assert effective_sample_size(outcomes, clusters) == pytest.approx(4)
    # Each cluster of one kind: as many outcomes as clusters.
    assert intraclass_correlation([1, 1, 0, 0], "aabb") == 1 and effective_sample_size([1, 1, 0, 0], "aabb") == 2
    # More alike than chance makes them: -1, which counts as 0.
    assert intraclass_correlation([1, 0, 1, 0], "aabb") == -1 and effective_sample_size([1, 0, 1, 0], "aabb") == 4


def test_the_intraclass_correlation_is_the_simulated_one() -> None:
    generator = np.random.default_rng(0)
    found = [intraclass_correlation(*simulated(generator, 60, 20, 0.5, 0.4)) for _ in range(20)]
    assert np.mean(found) == pytest.approx(0.4, abs=0.03)


def test_undefined_correlations() -> None:
    for outcomes, clusters, size in (([1, 0, 1], "abc", 3), ([1, 1, 1, 1], "aabb", 2), ([1, 0, 1], "aaa", 1)):
        assert math.isnan(intraclass_correlation(outcomes, clusters))
        assert effective_sample_size(outcomes, clusters) == size


def test_wrong_input_is_refused() -> None:
    for outcomes in ([], [[1, 0]], [1, 2], [1, float("nan")]):
        with pytest.raises(ValueError, match="outcomes must"):
            cluster_interval(outcomes, {"class": [0] * len(outcomes)})
    with pytest.raises(ValueError, match="`levels`"):
        cluster_interval([1], {})
    with pytest.raises(ValueError, match="`seed` must name one cluster per outcome, 2, got 1"):
        cluster_interval([1, 0], {"seed": [0]})
    with pytest.raises(ValueError, match="`confidence`"):
        cluster_interval([1, 0], {"class": [0, 1]}, confidence=95)
    with pytest.raises(ValueError, match="the same samples"):
        paired_cluster_test([1], [1, 0], [0])
