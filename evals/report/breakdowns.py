"""Looks behind a score: the oracle, tags, letters, calibration."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from veridical.evals import calibration, statistics
from veridical.evals.calibration import Calibration
from veridical.evals.report.arms import FIRST_LETTER, Arm, Bench, column
from veridical.evals.statistics import Estimate


@dataclass(frozen=True)
class Oracle:
    """The headline score if the best strategy could be picked for each question that all of them
    answered: an upper bound, which more strategies raise even where they only guess. `baseline` is the
    baseline's score on the same questions."""

    score: Estimate
    strategies: int
    baseline: float | None


@dataclass(frozen=True)
class Tagged:
    """The headline metric on the questions of one tag; `difference` is paired, to the baseline."""

    tag: str
    label: str
    score: Estimate
    difference: Estimate | None


@dataclass(frozen=True)
class Letters:
    """How often a strategy chose the first letter, of `n` answers that chose one; `same` is the share of
    questions put in two orders that got one letter twice, `pairs` their number."""

    label: str
    n: int
    first: float
    pairs: int
    same: float | None


def oracle(bench: Bench) -> Oracle | None:
    """The best of all arms; `None` where fewer than two were graded, or no question by all of them."""
    arms = [arm for arm in bench.arms if bench.metrics and arm.scores(bench.metrics[0])]
    if len(arms) < 2:
        return None
    scores = [arm.scores(bench.metrics[0]) for arm in arms]
    ids = sorted(frozenset.intersection(*(frozenset(each) for each in scores)))
    if not ids:
        return None
    best = np.max([column(each, ids) for each in scores], axis=0)
    base = next((each for arm, each in zip(arms, scores, strict=True) if arm is bench.baseline), None)
    return Oracle(
        statistics.score(best, [arms[0].groups[name] for name in ids]),
        len(arms),
        float(column(base, ids).mean()) if base else None,
    )


def tags(bench: Bench) -> Iterable[Tagged]:
    """Every tag that does not stand on all questions, by strategy."""
    records = [record for arm in bench.arms for record in arm.records]
    for tag in sorted({tag for record in records for tag in record.tags}):
        if bench.metrics and not all(tag in record.tags for record in records):
            yield from _tagged(bench, tag)


def _tagged(bench: Bench, tag: str) -> Iterable[Tagged]:
    base = bench.baseline.tagged(tag) if bench.baseline else None
    for arm in bench.arms:
        part = arm.tagged(tag)
        if part.scores(bench.metrics[0]):
            paired = _paired(base, part, bench.metrics[0]) if base and arm is not bench.baseline else None
            yield Tagged(tag, arm.label, bench.score(part, bench.metrics[0]), paired)


def _paired(before: Arm, after: Arm, metric: str) -> Estimate | None:
    """The paired difference with Student's interval: enough for a breakdown, which tests nothing."""
    old, new = before.scores(metric), after.scores(metric)
    ids = sorted(old.keys() & new.keys())
    if not ids:
        return None
    return statistics.mean(column(new, ids) - column(old, ids), [after.groups[name] for name in ids])


def letters(bench: Bench) -> Iterable[Letters]:
    """For tasks that note which letter was said."""
    for arm in bench.arms:
        said = [(arm.groups[r.id], r.scores[FIRST_LETTER]) for r in arm.records if FIRST_LETTER in r.scores]
        orders: dict[str, list[float]] = defaultdict(list)
        for group, first in said:
            orders[group].append(first)
        pairs = [pair for pair in orders.values() if len(pair) == 2]
        if said:
            yield Letters(
                label=arm.label,
                n=len(said),
                first=sum(first for _, first in said) / len(said),
                pairs=len(pairs),
                same=sum(a == b for a, b in pairs) / len(pairs) if pairs else None,
            )


def calibrated(arm: Arm, metrics: Sequence[str]) -> tuple[str, Calibration] | None:
    """Of the first metric that is right or wrong, over the answers that state a confidence."""
    stated = [r for r in arm.records if r.confidence is not None and r.graded]
    for metric in metrics:
        having = [r for r in stated if metric in r.scores]
        if having and arm.is_binary(metric):
            confidence = np.array([r.confidence for r in having], dtype=float)
            correct = np.array([r.scores[metric] for r in having], dtype=float)
            groups = [arm.groups[r.id] for r in having]
            return metric, calibration.calibration(confidence, correct, groups)
    return None
