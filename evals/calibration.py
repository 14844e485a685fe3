"""Whether a stated confidence deserves belief: reliability, ECE, Brier, AUROC, AURC, selective accuracy.

Definitions as in Guo et al. (2017) and Geifman et al. (2019). All are free of the order of equal
confidences: ties share a bin, and within a tie the expected error over all orders is used.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from veridical.evals.statistics import ALPHA, Array, bootstrap_sums, cluster_sums, is_binary, wilson

BINS = 10
RESAMPLES = 1000


@dataclass(frozen=True)
class Bin:
    """Questions of like confidence: their number, mean confidence, and share right with Wilson's interval."""

    n: int
    confidence: float
    accuracy: float
    low: float
    high: float


@dataclass(frozen=True)
class Calibration:
    """How far `confidence` tells right from wrong. Errors and losses in [0, 1], lower is better.

    `auroc` is `None` where all are right or all wrong. `aurc_best` is what a perfect ranking would reach
    at the same accuracy; `accuracy_at` maps a coverage to the accuracy of the most confident share.
    """

    n: int
    bins: tuple[Bin, ...]
    ece: float
    ece_low: float
    ece_high: float
    brier: float
    auroc: float | None
    aurc: float
    aurc_best: float
    accuracy_at: dict[str, float]


def calibration(confidence: Array, correct: Array, groups: Sequence[str]) -> Calibration:
    """All of it at once.

    Raises:
        ValueError: `correct` holds something else than 0 and 1, or nothing.
    """
    if not len(correct) or not is_binary(correct):
        raise ValueError("calibration needs questions that are right or wrong")
    low, high = _error_interval(confidence, correct, groups)
    return Calibration(
        n=len(correct),
        bins=reliability(confidence, correct),
        ece=expected_error(confidence, correct),
        ece_low=low,
        ece_high=high,
        brier=float(np.square(confidence - correct).mean()),
        auroc=auroc(confidence, correct),
        aurc=aurc(confidence, correct),
        aurc_best=aurc(correct, correct),
        accuracy_at={f"{share:g}": selective_accuracy(confidence, correct, share) for share in (0.5, 0.8)},
    )


def _bin_numbers(confidence: Array) -> Array:
    """Bins of equal mass by rank; equal confidences have one rank and so share a bin."""
    middle = stats.rankdata(confidence) - 0.5
    numbers: Array = np.floor(BINS * middle / len(confidence))
    return numbers


def reliability(confidence: Array, correct: Array) -> tuple[Bin, ...]:
    """The points of a reliability diagram, at most ten, from the least confident up."""
    numbers = _bin_numbers(confidence)
    bins = []
    for number in np.unique(numbers):
        inside = numbers == number
        share, n = float(correct[inside].mean()), int(inside.sum())
        bins.append(Bin(n, float(confidence[inside].mean()), share, *wilson(share, n)))
    return tuple(bins)


def expected_error(confidence: Array, correct: Array) -> float:
    """Expected calibration error: Σ n_b/n · |accuracy - confidence| over the bins (Guo et al., 2017)."""
    levels, index = np.unique(confidence, return_inverse=True)
    counts, hits = (np.bincount(index, weights).astype(np.float64)[None, :] for weights in (None, correct))
    return float(_errors(levels, counts, hits)[0])


def _errors(levels: Array, counts: Array, hits: Array) -> Array:
    """The same for many samples at once: a row each, a column for each confidence that occurs."""
    totals = counts.sum(axis=1, keepdims=True)
    bins = np.floor(BINS * (np.cumsum(counts, axis=1) - counts / 2) / totals)
    gaps = hits - counts * levels
    sums = [np.abs(np.sum(gaps * (bins == b), axis=1)) for b in range(BINS)]
    shares: Array = np.sum(sums, axis=0) / totals[:, 0]
    return shares


def _error_interval(confidence: Array, correct: Array, groups: Sequence[str]) -> tuple[float, float]:
    """Percentiles of resampled clusters. Biased upwards in small samples, as the error itself is."""
    levels, index = np.unique(confidence, return_inverse=True)
    at_level = np.zeros((len(confidence), len(levels)))
    at_level[np.arange(len(confidence)), index] = 1
    sums = cluster_sums(np.column_stack([at_level, at_level * correct[:, None]]), groups)
    draws = bootstrap_sums(sums, resamples=RESAMPLES)
    low, high = np.quantile(
        _errors(levels, draws[:, : len(levels)], draws[:, len(levels) :]), (ALPHA / 2, 1 - ALPHA / 2)
    )
    return float(low), float(high)


def auroc(confidence: Array, correct: Array) -> float | None:
    """P(a right answer's confidence is above a wrong one's) + ½ P(equal): Mann-Whitney's U, scaled."""
    right, wrong = confidence[correct == 1], confidence[correct == 0]
    if not len(right) or not len(wrong):
        return None
    return float(stats.mannwhitneyu(right, wrong).statistic / (len(right) * len(wrong)))


def _best_first(confidence: Array, correct: Array) -> Array:
    """Correctness from the most confident down, each replaced by the mean of its ties."""
    _, index = np.unique(-confidence, return_inverse=True)
    means = np.bincount(index, weights=correct) / np.bincount(index)
    ordered: Array = means[np.sort(index)]
    return ordered


def aurc(confidence: Array, correct: Array) -> float:
    """Area under the risk-coverage curve: mean over k of the error rate of the k most confident."""
    wrong = np.cumsum(1 - _best_first(confidence, correct))
    return float((wrong / np.arange(1, len(correct) + 1)).mean())


def selective_accuracy(confidence: Array, correct: Array, coverage: float) -> float:
    """Accuracy on the ⌈coverage · n⌉ most confident questions."""
    kept = math.ceil(round(coverage * len(correct), 9))
    return float(_best_first(confidence, correct)[:kept].mean())
