"""What a strategy is worth for its cost: equal-calls controls and the Pareto front."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from veridical.evals import statistics
from veridical.evals.report.arms import Arm, Bench
from veridical.evals.report.pairs import Comparison, compare, corrected

CONTROL = "self_consistency"
EQUAL_CALLS = 1.25
"""Calls that differ by no more than this factor count as equal."""


@dataclass(frozen=True)
class Control:
    """A strategy against self-consistency at the nearest number of calls."""

    comparison: Comparison
    calls: float
    control_calls: float

    @property
    def equal(self) -> bool:
        """Whether the calls are near enough to be called the same."""
        return max(self.calls, self.control_calls) <= EQUAL_CALLS * min(self.calls, self.control_calls)


@dataclass(frozen=True)
class Point:
    """Where a strategy stands in the plot of score against tokens a question.

    Both are the baseline's plus the paired difference, so that strategies which answered fewer questions
    are not favoured or harmed by which these were.
    """

    tokens: float
    score: float
    dominated_by: str | None


def controls(benches: Sequence[Bench]) -> list[list[Control]]:
    """For each bench, its strategies against their controls; corrected within each task."""
    found = [list(_controls(bench)) for bench in benches]
    better = corrected(
        {(n, m): control.comparison for n, each in enumerate(found) for m, control in enumerate(each)},
        family=lambda place: benches[place[0]].task,
    )
    return [
        [Control(better[n, m], c.calls, c.control_calls) for m, c in enumerate(each)]
        for n, each in enumerate(found)
    ]


def _controls(bench: Bench) -> Iterable[Control]:
    """Each strategy that is neither baseline nor control, against the control nearest in calls.

    Where the baseline itself is nearest there is none: that comparison is in the main table.
    """
    having = [(arm, calls) for arm in bench.arms if (calls := arm.mean("calls"))]
    ours = [pair for pair in having if pair[0].method == CONTROL or pair[0] is bench.baseline]
    for arm, calls in having if bench.metrics else []:
        if arm.method in (CONTROL, bench.baseline_method) or not ours:
            continue
        control, near = min(ours, key=lambda pair: (abs(math.log(pair[1] / calls)), pair[0].label))
        found = {} if control is bench.baseline else compare(control, arm, bench.metrics[:1])
        for comparison in found.values():
            yield Control(comparison, calls, near)


def points(bench: Bench, headline: Mapping[str, Comparison]) -> dict[str, Point]:
    """By label, for the strategies whose tokens are known; `headline` are the comparisons to the baseline."""
    places = {arm.label: place for arm in bench.arms if (place := _place(bench, arm, headline))}
    above = statistics.dominators(list(places.values()))
    labels = list(places)
    return {
        label: Point(tokens, score, None if index is None else labels[index])
        for (label, (tokens, score)), index in zip(places.items(), above, strict=True)
    }


def _place(bench: Bench, arm: Arm, headline: Mapping[str, Comparison]) -> tuple[float, float] | None:
    """(tokens, headline score), seen from the baseline where there is one."""
    if bench.baseline is None or arm is bench.baseline:
        return _own_place(arm, bench.metrics)
    start, comparison = _own_place(bench.baseline, bench.metrics), headline.get(arm.label)
    if start is None or comparison is None or comparison.extra_tokens is None:
        return None
    return start[0] + comparison.extra_tokens, start[1] + comparison.difference.value


def _own_place(arm: Arm, metrics: Sequence[str]) -> tuple[float, float] | None:
    scores = arm.scores(metrics[0]) if metrics else {}
    if not scores or not arm.tokens:
        return None
    return float(np.mean(list(arm.tokens.values()))), float(np.mean(list(scores.values())))
