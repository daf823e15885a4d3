"""Intervals and tests for outcomes that come in clusters (docs/methods.md, section 9).

One attacked prompt decides all images of its class, so ten classes with 36 images each say little more than ten
outcomes do. What is resampled here are classes, and seeds and word splits where there are several, never images alone.
scipy.stats is imported where it is used, as in `statistics`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray

EXACT_FLIPS = 4096  # sign patterns that are all tried
FEW = 6  # below it the means of all clusters lie on one side of the truth in over 1 of 20 cases: 2 / 2**clusters
RARE = 4  # below it so few clusters differ from the others that a resample often has none of them
BATCH = 2**22  # weights drawn at a time, 32 MB

Array = NDArray[np.float64]


@dataclass(frozen=True)
class ClusterInterval:
    """An interval of a mean over clustered outcomes.

    Args:
        estimate: mean of all outcomes.
        low, high: the interval's ends.
        num_clusters: clusters of the level that has the fewest, among those with more than one.
        generalises_over: the levels with more than one cluster: what the number would vary over if drawn again.
        method: how the interval was made, in words.
    """

    estimate: float
    low: float
    high: float
    num_clusters: int
    generalises_over: tuple[str, ...]
    method: str


def cluster_interval(
    outcomes: ArrayLike,
    levels: Mapping[str, Sequence[object]],
    confidence: float = 0.95,
    num_resamples: int = 4000,
    seed: int = 0,
) -> ClusterInterval:
    """Return a cluster bootstrap interval of the mean outcome.

    Each level's clusters are drawn with replacement, independently of the other levels'; an outcome weighs as often as
    all of its clusters were drawn (Owen's pigeonhole bootstrap, 2007). The percentiles are widened for few clusters as
    Student's t is (the expanded percentile interval, Hesterberg, doi:10.1080/00031305.2015.1089789); several levels
    count by Satterthwaite's degrees of freedom.

    Where all resamples agree, as with 0 of n, the interval is that of as many independent outcomes as the smallest
    level has clusters: Clopper and Pearson's at 0 and 1, Wilson's in between. No resample leaves the range of the
    clusters' means, so below `FEW` clusters the interval is widened to hold Student's t interval on the logit scale
    too, which stays inside (0, 1). Where all but a few clusters have the same mean, fewer than `RARE`, it is widened to
    hold Wilson's with the number of clusters as n. `method` says so.

    Args:
        outcomes: one per sample, True or False or numbers in [0, 1], (N,).
        levels: names of the levels, such as "class", "seed", "word split", to the cluster of each sample, N long. A
            level with one cluster is left out: it says nothing on how the number would vary.
        confidence: of the interval.
        num_resamples: bootstrap draws.
        seed: of the draws.

    Raises:
        ValueError: if outcomes and levels do not fit together, or an outcome lies outside [0, 1].

    Example:
        >>> cluster_interval([0] * 20, {"class": [0, 1] * 10}).high > 0.8  # two clusters, not 20 samples
        True
    """
    values = _checked(outcomes)
    if not 0 < confidence < 1 or num_resamples < 1:
        raise ValueError(
            f"`confidence` must be in (0, 1) and `num_resamples` at least 1, got {confidence} and {num_resamples}."
        )
    if not levels:
        raise ValueError('`levels` must name at least one level, for instance {"class": labels}.')
    found, rare = _bootstrap(values, levels, confidence, num_resamples, seed)
    for total in rare:
        low, high, name = _interval_of_few(found.estimate, total, confidence)
        method = f"{found.method}, widened to {name}'s with n = {total}: few clusters differ"
        found = replace(found, low=min(low, found.low), high=max(high, found.high), method=method)
    return found


def _bootstrap(
    values: Array, levels: Mapping[str, Sequence[object]], confidence: float, num_resamples: int, seed: int
) -> tuple[ClusterInterval, list[int]]:
    """Return the interval, and the sizes of those levels in which only few clusters differ from the others."""
    numbered = {name: _numbered(clusters, len(values), name) for name, clusters in levels.items()}
    varying = {name: codes for name, codes in numbered.items() if codes.max() > 0}
    estimate = float(values.mean())
    fewest = min((int(codes.max()) + 1 for codes in varying.values()), default=1)
    names = tuple(varying)
    low = high = estimate
    if varying:
        from scipy import stats

        means = _resampled_means(values, list(varying.values()), num_resamples, np.random.default_rng(seed))
        variance, freedom = _variance(values, list(varying.values()))
        quantile = float(stats.t.ppf((1 + confidence) / 2, freedom))
        tail = stats.norm.cdf(-math.sqrt(1 + 1 / freedom) * quantile)  # a bootstrap's variance is that of n, not n - 1
        low, high = (float(end) for end in np.quantile(means, [tail, 1 - tail]))
    if high - low > 1e-12:
        method = f"cluster bootstrap over {' and '.join(names)}, expanded percentile, {num_resamples} resamples"
        if freedom + 1 < FEW:
            half = quantile * math.sqrt(variance) / (estimate * (1 - estimate))
            centre = math.log(estimate / (1 - estimate))
            low, high = min(low, _logistic(centre - half)), max(high, _logistic(centre + half))
            method += f", widened to Student's t on the logit scale (df {freedom:.3g}): too few clusters to resample"
        rare = [size for codes in varying.values() if (size := _few_differ(values, codes))]
        return ClusterInterval(estimate, low, high, fewest, names, method), rare
    low, high, name = _interval_of_few(estimate, fewest, confidence)
    method = f"{name} with the number of clusters as n ({fewest}): the resamples do not vary"
    return ClusterInterval(estimate, low, high, fewest, names, method), []


def paired_cluster_interval(
    first: ArrayLike, second: ArrayLike, levels: Mapping[str, Sequence[object]], confidence: float = 0.95
) -> ClusterInterval:
    """Return an interval of the mean difference, second minus first, of two models on the same samples.

    It is `cluster_interval` of each sample's (1 + difference) / 2, scaled back, so it stays inside [-1, 1]. Where the
    two agree in all clusters, or all but a few have the same difference, it is widened to hold Newcombe's (1998): the
    intervals of both shares of samples that only one of the two has, with the number of clusters as n, added in square.

    Args:
        first, second: outcomes of the two models on the same samples, (N,).
        levels: as of `cluster_interval`.
        confidence: of the interval.

    Example:
        >>> found = paired_cluster_interval([1] * 40, [1] * 40, {"class": [0, 1, 2, 3] * 10})  # four classes agree
        >>> [round(end, 2) for end in (found.low, found.estimate, found.high)]
        [-0.6, 0.0, 0.6]
    """
    one, other = _pair(first, second)
    gain = other - one
    found, rare = _bootstrap((1 + gain) / 2, levels, confidence, 4000, 0)
    low, high = 2 * found.low - 1, 2 * found.high - 1
    if not gain.any():
        low, high, rare = 0.0, 0.0, [found.num_clusters]
    estimate, up, down = float(gain.mean()), float(gain.clip(0).mean()), float((-gain).clip(0).mean())
    for total in rare:
        less, more, _ = _interval_of_few(up, total, confidence)
        fewer, worse, _ = _interval_of_few(down, total, confidence)
        low = min(low, max(-1.0, estimate - math.hypot(up - less, worse - down)))
        high = max(high, min(1.0, estimate + math.hypot(more - up, down - fewer)))
    return replace(found, estimate=estimate, low=low, high=high)


def paired_cluster_test(
    first: ArrayLike,
    second: ArrayLike,
    clusters: Sequence[object],
    num_permutations: int = 9999,
    seed: int = 0,
) -> float:
    """Return the two-sided p-value that two models have the same mean outcome on the same samples.

    A sign-flip permutation test: under equality each cluster's summed difference is as likely with the other sign. All
    sign patterns are tried where they are at most 4,096 (12 clusters that differ), else a seeded sample of them.

    Args:
        first, second: outcomes of the two models on the same samples, (N,).
        clusters: the cluster of each sample, N long.
        num_permutations: patterns drawn where they are too many to try all.
        seed: of the drawn patterns.

    Returns:
        p-value in (0, 1]; 1 where no cluster differs.

    Example:
        >>> paired_cluster_test([1, 1, 1, 1], [0, 0, 0, 0], [0, 0, 1, 1])  # two clusters: 2 of 4 patterns
        0.5
    """
    one, other = _pair(first, second)
    sums = np.bincount(_numbered(clusters, len(one), "clusters"), weights=one - other)
    sums = sums[np.abs(sums) > 1e-12]  # a cluster without a difference is the same under both signs
    if sums.size == 0:
        return 1.0
    reached = abs(sums.sum()) * (1 - 1e-9) - 1e-12  # equal sums may be rounded differently
    if 2**sums.size <= EXACT_FLIPS:
        patterns = (np.arange(2**sums.size)[:, None] >> np.arange(sums.size)) & 1
        return float((np.abs((1 - 2 * patterns) @ sums) >= reached).mean())
    generator, extreme = np.random.default_rng(seed), 0
    step = max(1, BATCH // sums.size)
    for start in range(0, num_permutations, step):
        signs = generator.integers(0, 2, (min(step, num_permutations - start), sums.size)) * 2 - 1
        extreme += int((np.abs(signs @ sums) >= reached).sum())
    return (extreme + 1) / (num_permutations + 1)  # the observed pattern is one of them


def paired_crossed_test(first: ArrayLike, second: ArrayLike, levels: Mapping[str, Sequence[object]]) -> float:
    """Return the two-sided p-value that two models would have the same mean outcome if every level were drawn again.

    Student's t of the mean difference. Its variance is the sum of those that the levels' own clusters show, as many as
    the pigeonhole bootstrap draws independently, with Satterthwaite's degrees of freedom.

    Args:
        first, second: outcomes of the two models on the same samples, (N,).
        levels: as of `cluster_interval`; one with a single cluster is left out.

    Returns:
        p-value in [0, 1]; 0 where all clusters of every level have the same difference, which `paired_cluster_test`
        judges by their number.

    Example:
        >>> first, splits, seeds = [1, 1, 1, 0], [0, 0, 1, 1], [0, 1, 0, 1]
        >>> round(paired_crossed_test(first, [0, 0, 0, 0], {"seed": seeds, "word split": splits}), 3)
        0.168
    """
    one, other = _pair(first, second)
    numbered = [_numbered(clusters, len(one), name) for name, clusters in levels.items()]
    gain, varying = other - one, [codes for codes in numbered if codes.max() > 0]
    if not gain.any() or not varying:
        return 1.0
    variance, freedom = _variance(gain, varying)
    if variance == 0:
        return 0.0 if abs(gain.mean()) > 1e-12 else 1.0
    from scipy import stats

    return float(2 * stats.t.sf(abs(gain.mean()) / math.sqrt(variance), freedom))


def intraclass_correlation(outcomes: ArrayLike, clusters: Sequence[object]) -> float:
    """Return how alike the outcomes of one cluster are: the one-way analysis of variance's estimate, ICC(1).

    Args:
        outcomes: one per sample, (N,).
        clusters: the cluster of each sample, N long; of any sizes.

    Returns:
        At most 1, below 0 where clusters are more alike than chance makes them; nan where it is undefined: fewer than
        two clusters, none of two samples, or outcomes that do not vary.
    """
    values = _checked(outcomes)
    codes = _numbered(clusters, len(values), "clusters")
    sizes = np.bincount(codes)
    num_clusters, total = sizes.size, values.size
    if num_clusters < 2 or total == num_clusters:
        return math.nan
    means = np.bincount(codes, weights=values) / sizes
    between = float((sizes * (means - values.mean()) ** 2).sum()) / (num_clusters - 1)
    within = float(((values - means[codes]) ** 2).sum()) / (total - num_clusters)
    size = (total - float((sizes**2).sum()) / total) / (num_clusters - 1)  # of a cluster, where they differ
    spread = between + (size - 1) * within
    return (between - within) / spread if spread > 1e-15 else math.nan


def effective_sample_size(outcomes: ArrayLike, clusters: Sequence[object]) -> float:
    """Return as how many independent outcomes the clustered ones count: n / (1 + (m - 1) icc), m the mean cluster size.

    A negative correlation counts as 0. Where it is undefined the number of clusters is returned.
    """
    values = _checked(outcomes)
    num_clusters = int(_numbered(clusters, len(values), "clusters").max()) + 1
    correlation = intraclass_correlation(values, clusters)
    if math.isnan(correlation):
        return float(num_clusters)
    return values.size / (1 + (values.size / num_clusters - 1) * max(correlation, 0.0))


def _resampled_means(
    values: Array, levels: list[NDArray[np.intp]], num_resamples: int, generator: np.random.Generator
) -> Array:
    """Return the weighted mean of each resample; one that draws no sample at all (unbalanced levels) is left out."""
    cells, cell_of = np.unique(np.stack(levels), axis=1, return_inverse=True)
    sums = np.bincount(cell_of.ravel(), weights=values)
    counts = np.bincount(cell_of.ravel()).astype(float)
    sizes = [int(codes.max()) + 1 for codes in levels]
    shares = [np.full(size, 1 / size) for size in sizes]
    if len(sums) == math.prod(sizes):  # crossed: clusters of the same outcomes are drawn as one, which is much faster
        table = np.stack([sums, counts], axis=-1).reshape(*sizes, 2)
        for axis, size in enumerate(sizes):
            rows = np.moveaxis(table, axis, 0)
            _, kept, alike = np.unique(rows.reshape(size, -1), axis=0, return_index=True, return_counts=True)
            table, shares[axis] = np.moveaxis(rows[kept], 0, axis), alike / size
        sums, counts = table.reshape(-1, 2).T
        cells = np.indices([len(share) for share in shares]).reshape(len(sizes), -1)
    means = []
    step = max(1, BATCH // max(len(sums), *sizes))
    for start in range(0, num_resamples, step):
        draws = min(step, num_resamples - start)
        weights = np.ones((draws, len(sums)))
        for size, share, codes in zip(sizes, shares, cells, strict=True):
            weights *= generator.multinomial(size, share, draws)[:, codes]
        totals = weights @ counts
        means.append((weights @ sums)[totals > 0] / totals[totals > 0])
    return np.concatenate(means)


def _variance(values: Array, levels: list[NDArray[np.intp]]) -> tuple[float, float]:
    """Return the variance of the mean, summed over the levels' own, and Satterthwaite's degrees of freedom of it."""
    variances, freedoms = [], []
    for codes in levels:
        means = np.bincount(codes, weights=values) / np.bincount(codes)
        variances.append(float(means.var(ddof=1)) / len(means))
        freedoms.append(len(means) - 1)
    total = sum(variances)
    if total == 0:
        return 0.0, float(min(freedoms))
    parts = sum(variance**2 / freedom for variance, freedom in zip(variances, freedoms, strict=True))
    return total, total**2 / parts


def _few_differ(values: Array, codes: NDArray[np.intp]) -> int:
    """Return the number of clusters if they are not few and fewer than `RARE` differ from the most common mean."""
    means = np.bincount(codes, weights=values) / np.bincount(codes)
    _, alike = np.unique(means.round(12), return_counts=True)
    return means.size if means.size >= FEW and means.size - alike.max() < RARE else 0


def _logistic(logit: float) -> float:
    return 1 / (1 + math.exp(-logit)) if logit > -700 else 0.0  # exp(709) is the largest


def _interval_of_few(fraction: float, total: float, confidence: float) -> tuple[float, float, str]:
    tail = (1 - confidence) / 2
    if fraction in (0.0, 1.0):  # nothing happened in any of n: (1 - p)^n = tail
        reach = 1 - tail ** (1 / total)
        return (0.0, reach, "Clopper-Pearson") if fraction == 0 else (1 - reach, 1.0, "Clopper-Pearson")
    from scipy import stats

    square = float(stats.norm.ppf(tail)) ** 2 / total
    centre = (fraction + square / 2) / (1 + square)
    half = math.sqrt(square * fraction * (1 - fraction) + square**2 / 4) / (1 + square)
    return centre - half, centre + half, "Wilson"


def _pair(first: ArrayLike, second: ArrayLike) -> tuple[Array, Array]:
    one, other = _checked(first), _checked(second)
    if one.shape != other.shape:
        raise ValueError(f"`first` and `second` must be outcomes of the same samples, got {one.size} and {other.size}.")
    return one, other


def _checked(outcomes: ArrayLike) -> Array:
    values = np.asarray(outcomes, dtype=float)
    if values.ndim != 1 or values.size == 0:
        raise ValueError(f"outcomes must be one per sample, (N,), and not empty, got shape {values.shape}.")
    if not ((values >= 0) & (values <= 1)).all():  # written so that NaN fails too
        raise ValueError(f"outcomes must lie in [0, 1], got {values.min()} to {values.max()}.")
    return values


def _numbered(clusters: Sequence[object], total: int, name: str) -> NDArray[np.intp]:
    """Return the clusters' names as numbers from 0, (N,), in order of appearance."""
    if len(clusters) != total:
        raise ValueError(f"`{name}` must name one cluster per outcome, {total}, got {len(clusters)}.")
    listed = clusters.tolist() if hasattr(clusters, "tolist") else clusters  # arrays and tensors
    numbers: dict[object, int] = {}
    return np.array([numbers.setdefault(cluster, len(numbers)) for cluster in listed], dtype=np.intp)
