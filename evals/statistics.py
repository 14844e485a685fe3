"""The statistics of a report: intervals, paired tests, corrections, power. Pure functions on arrays.

Questions that share a source (one article, one entity, one question in two orders) are not independent:
everything here works on *clusters*, and a question without a group is a cluster of its own. Sources are
named where they are used; docs/evals-statistics.md argues the choices.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import stats

Array = npt.NDArray[np.float64]

ALPHA = 0.05
POWER = 0.8
RESAMPLES = 10_000
SEED = 0
CELLS = 2_000_000
"""Random numbers drawn at once: what bounds the memory of a bootstrap."""
FEWEST_CHANGES = 6
"""With fewer changed clusters no exact two-sided sign test reaches 0.05: 2 / 2^5 = 0.0625."""


@dataclass(frozen=True)
class Estimate:
    """A value with its 95 % interval, `None` where `n` is too small to give one.

    `n` counts questions, `clusters` the independent groups that they fall into.
    """

    value: float
    low: float | None
    high: float | None
    n: int
    clusters: int


def cluster_sums(columns: Array, groups: Sequence[str]) -> Array:
    """The sum of each column in each cluster: questions by columns become clusters by columns."""
    names, index = np.unique(np.asarray(groups, dtype=str), return_inverse=True)
    sums = np.zeros((len(names), columns.shape[1]))
    np.add.at(sums, index, columns)
    return sums


def ratio_error(numerators: Array, denominators: Array) -> float:
    """Cluster-robust standard error of Σ numerators / Σ denominators, from sums by cluster.

    The linearised (sandwich) variance G/(G-1) · Σ e² / (Σ denominators)², with e the residual sum of a
    cluster; where all are of one size it is the usual s²/n of the cluster means. Miller, "Adding error
    bars to evals" (2024), section 2.2; NaN with fewer than two clusters.
    """
    clusters = len(numerators)
    if clusters < 2:
        return math.nan
    residuals = numerators - denominators * (numerators.sum() / denominators.sum())
    return float(math.sqrt(clusters / (clusters - 1) * np.square(residuals).sum()) / denominators.sum())


def mean(values: Array, groups: Sequence[str], *, bounds: tuple[float, float] | None = None) -> Estimate:
    """The mean with a cluster-robust Student interval on clusters - 1 degrees of freedom.

    `bounds`, the range that the score can take, cuts the interval off.
    """
    sums = cluster_sums(np.column_stack([values, np.ones(len(values))]), groups)
    value, clusters = float(np.mean(values)), len(sums)
    error = ratio_error(sums[:, 0], sums[:, 1])
    if math.isnan(error):
        return Estimate(value, None, None, len(values), clusters)
    reach = float(stats.t.ppf(1 - ALPHA / 2, clusters - 1)) * error
    low, high = bounds or (-math.inf, math.inf)
    return Estimate(value, max(low, value - reach), min(high, value + reach), len(values), clusters)


def proportion(hits: Array, trials: Array, groups: Sequence[str]) -> Estimate:
    """Σ hits / Σ trials with Wilson's interval, which stays sensible at 0 and 1.

    Where questions share a source, n is divided by the observed design effect, never below 1, and corrected
    for the few degrees of freedom (Korn and Graubard, 1998; the truncation as in NCHS, 2017). At 0 and
    1 no effect can be observed: n is then the number of clusters.
    """
    sums = cluster_sums(np.column_stack([hits, trials]), groups)
    sums = sums[sums[:, 1] > 0]
    total, clusters = float(sums[:, 1].sum()), len(sums)
    if not clusters:
        return Estimate(math.nan, None, None, 0, 0)
    value = float(sums[:, 0].sum()) / total
    questions = int((trials > 0).sum())
    effective = total if clusters == questions else _effective_size(sums, value)
    if not effective:
        return Estimate(value, None, None, questions, clusters)
    return Estimate(value, *wilson(value, effective), questions, clusters)


def _effective_size(sums: Array, value: float) -> float:
    """How many independent questions would tell as much; 0 where one cluster is all there is."""
    total, clusters = float(sums[:, 1].sum()), len(sums)
    if value in (0.0, 1.0):
        return float(clusters)
    error = ratio_error(sums[:, 0], sums[:, 1])
    if math.isnan(error):
        return 0.0
    size = min(total, value * (1 - value) / error**2) if error else total
    few = stats.t.ppf(1 - ALPHA / 2, total - 1) / stats.t.ppf(1 - ALPHA / 2, clusters - 1)
    return float(size * few**2)


def wilson(share: float, n: float) -> tuple[float, float]:
    """Wilson's 95 % score interval of a share seen in `n` trials, which need not be whole."""
    z = float(stats.norm.ppf(1 - ALPHA / 2))
    centre = (share + z * z / (2 * n)) / (1 + z * z / n)
    reach = z / (1 + z * z / n) * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    return max(0.0, min(centre - reach, share)), min(1.0, max(centre + reach, share))


def score(values: Array, groups: Sequence[str], *, bounds: tuple[float, float] | None = None) -> Estimate:
    """The mean with the interval that fits: Wilson's where every value is 0 or 1, else Student's."""
    if is_binary(values):
        return proportion(values, np.ones(len(values)), groups)
    return mean(values, groups, bounds=bounds)


def is_binary(values: Array) -> bool:
    """Whether nothing but 0 and 1 occurs."""
    return bool(np.isin(values, (0.0, 1.0)).all())


def bootstrap_sums(sums: Array, *, resamples: int = RESAMPLES, seed: int = SEED) -> Array:
    """Column sums of `resamples` draws of clusters with replacement, a row each.

    All columns of a draw come from the same clusters, so that ratios of them are paired.
    """
    clusters = len(sums)
    random = np.random.default_rng(seed)
    rows = max(1, CELLS // clusters)
    draws = []
    for start in range(0, resamples, rows):
        count = min(rows, resamples - start)
        picks = random.integers(clusters, size=(count, clusters)) + np.arange(count)[:, None] * clusters
        times = np.bincount(picks.ravel(), minlength=count * clusters).reshape(count, clusters)
        draws.append(times @ sums)
    return np.concatenate(draws)


def percentile_interval(draws: Array, clusters: int) -> tuple[float, float] | None:
    """The expanded percentile interval: levels Φ(±√(G/(G-1)) · t) in place of 2.5 % and 97.5 %.

    It mends the narrowness of the plain one in small samples (Hesterberg, 2015, section 5.4). `None`
    with fewer than two clusters.
    """
    if clusters < 2:
        return None
    reach = math.sqrt(clusters / (clusters - 1)) * stats.t.ppf(1 - ALPHA / 2, clusters - 1)
    level = float(stats.norm.cdf(-reach))
    low, high = np.quantile(draws, (level, 1 - level))
    return float(low), float(high)


def mcnemar(worse: int, better: int) -> float:
    """Exact two-sided McNemar p: a binomial test of the discordant pairs (McNemar, 1947)."""
    if not worse + better:
        return 1.0
    return float(stats.binomtest(min(worse, better), worse + better, 0.5).pvalue)


def sign_flip(sums: Array, *, resamples: int = RESAMPLES, seed: int = SEED) -> Array:
    """Two-sided randomisation p of each column of differences: signs of whole clusters are flipped.

    Exact where all sign patterns can be tried, else by `resamples` random ones with the add-one
    correction (Phipson and Smyth, 2010). For one question a cluster and differences of -1, 0 and 1 this
    *is* McNemar's test. One draw serves all columns, which scipy's `permutation_test` cannot.
    """
    sums = sums[np.any(sums != 0, axis=1)]
    if not len(sums):
        return np.ones(sums.shape[1])
    observed = np.abs(sums.sum(axis=0)) * (1 - 1e-12) - 1e-12
    if 2 ** len(sums) <= resamples:
        signs = np.array(list(itertools.product((-1.0, 1.0), repeat=len(sums))))
        share: Array = (np.abs(signs @ sums) >= observed).mean(axis=0)
        return share
    random = np.random.default_rng(seed)
    rows = max(1, CELLS // len(sums))
    reached = np.zeros(sums.shape[1])
    for start in range(0, resamples, rows):
        flips = random.integers(2, size=(min(rows, resamples - start), len(sums)), dtype=np.int8)
        reached += (np.abs((flips * 2.0 - 1.0) @ sums) >= observed).sum(axis=0)
    adjusted: Array = (reached + 1) / (resamples + 1)
    return adjusted


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down adjusted p values, in the order given (Holm, 1979)."""
    order = sorted(range(len(p_values)), key=lambda index: p_values[index])
    adjusted, highest = [0.0] * len(p_values), 0.0
    for rank, index in enumerate(order):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = highest
    return adjusted


def detectable_difference(differences: Array, n: int, *, binary: bool) -> float | None:
    """The smallest true mean difference that a paired test of this size finds 8 times in 10.

    (z₀.₉₇₅ + z₀.₈) · √(Σ D²) / n with D the summed differences of a cluster: for binary scores √(7.85 q/n),
    q the discordant share. Never below six questions of n, without which no exact test reaches 0.05.
    `None` where nothing differed, since there is then nothing to estimate the spread from.
    """
    spread = math.sqrt(float(np.square(differences).sum()))
    if not spread:
        return None
    found = float(stats.norm.ppf(1 - ALPHA / 2) + stats.norm.ppf(POWER)) * spread / n
    return max(found, FEWEST_CHANGES / n) if binary else found


def dominators(points: Sequence[tuple[float, float]]) -> list[int | None]:
    """For each (cost, score) the index of a point that is as good at no more cost, and better in one.

    Of several the one with the best score, the cheapest of these; `None` on the Pareto front.
    """
    found: list[int | None] = []
    for cost, value in points:
        above = [
            index
            for index, (other_cost, other) in enumerate(points)
            if other_cost <= cost and other >= value and (other_cost, other) != (cost, value)
        ]
        found.append(min(above, key=lambda index: (-points[index][1], points[index][0]), default=None))
    return found
