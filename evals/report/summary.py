"""All figures of a report, computed once; what writes them down adds nothing."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from veridical.evals.calibration import Calibration
from veridical.evals.records import Record
from veridical.evals.report import breakdowns, controls
from veridical.evals.report.arms import Arm, Bench, benches
from veridical.evals.report.breakdowns import Letters, Oracle, Tagged
from veridical.evals.report.controls import Control, Point
from veridical.evals.report.origin import Origin
from veridical.evals.report.pairs import Comparison, compare, corrected
from veridical.evals.statistics import Estimate
from veridical.strategies.types import Status

Place = tuple[int, str, str]
"""Number of the bench, label of the arm, metric."""


@dataclass(frozen=True)
class Counts:
    """Answers asked for, and what became of them; `missing` questions were put to other strategies only."""

    asked: int
    graded: int
    ungraded: int
    unparsable: int
    degraded: int
    abstained: int
    missing: int


@dataclass(frozen=True)
class Cost:
    """Means over all answers, and percentiles of the seconds; `None` where not recorded."""

    calls: float | None
    depth: float | None
    prompt_tokens: float | None
    cached_tokens: float | None
    completion_tokens: float | None
    tokens: float | None
    seconds_p50: float | None
    seconds_p95: float | None


@dataclass(frozen=True)
class Result:
    """One metric of one strategy, and its comparison to the baseline."""

    score: Estimate
    comparison: Comparison | None


@dataclass(frozen=True)
class ArmSummary:
    """One strategy on one bench. `pessimistic` is the headline score if what was not graded were wrong."""

    label: str
    strategy: str
    variant: str
    reads_scorer_source: bool
    counts: Counts
    cost: Cost
    results: dict[str, Result]
    pessimistic: float | None
    point: Point | None
    calibration: Calibration | None
    calibration_metric: str | None


@dataclass(frozen=True)
class BenchSummary:
    """One task, setting and model; the baseline's arm comes first, the headline metric too."""

    task: str
    setting: str
    model: str
    baseline: str | None
    metrics: tuple[str, ...]
    percent: frozenset[str]
    arms: tuple[ArmSummary, ...]
    controls: tuple[Control, ...]
    oracle: Oracle | None
    tags: tuple[Tagged, ...]
    letters: tuple[Letters, ...]

    @property
    def title(self) -> str:
        """Task, setting and model."""
        return " · ".join(filter(None, (self.task, self.setting, self.model)))

    @property
    def headline(self) -> str | None:
        """The metric that the task puts first."""
        return self.metrics[0] if self.metrics else None

    @property
    def compared(self) -> tuple[Comparison, ...]:
        """The headline comparisons to the baseline."""
        results = (arm.results.get(self.metrics[0]) for arm in self.arms if self.metrics)
        return tuple(result.comparison for result in results if result and result.comparison)


def summarise(
    records: Iterable[Record], origin: Origin, *, baseline: str = "direct"
) -> tuple[BenchSummary, ...]:
    """Everything about every bench. Holm's families: each task's comparisons in one metric to the
    baseline, and each task's to the controls."""
    found = benches(records, baseline=baseline)
    compared = corrected(
        {
            (number, arm.label, metric): comparison
            for number, bench in enumerate(found)
            for arm in bench.others
            if bench.baseline
            for metric, comparison in compare(bench.baseline, arm, bench.metrics).items()
        },
        family=lambda place: (found[place[0]].task, place[2]),
    )
    controlled = controls.controls(found)
    return tuple(
        _bench(bench, found, _of(number, compared), controlled[number], origin)
        for number, bench in enumerate(found)
    )


def _of(number: int, compared: Mapping[Place, Comparison]) -> dict[str, dict[str, Comparison]]:
    """One bench's comparisons, by arm and metric."""
    mine: dict[str, dict[str, Comparison]] = defaultdict(dict)
    for (bench, label, metric), comparison in compared.items():
        if bench == number:
            mine[label][metric] = comparison
    return mine


def _bench(
    bench: Bench,
    all_benches: Sequence[Bench],
    compared: Mapping[str, Mapping[str, Comparison]],
    controlled: Sequence[Control],
    origin: Origin,
) -> BenchSummary:
    headline = {label: found[m] for label, found in compared.items() for m in bench.metrics[:1] if m in found}
    points = controls.points(bench, headline)
    asked = frozenset(name for arm in bench.arms for name in arm.ids)
    alike = [other for other in all_benches if other.task == bench.task]
    return BenchSummary(
        task=bench.task,
        setting=bench.setting,
        model=bench.model,
        baseline=bench.baseline.label if bench.baseline else None,
        metrics=bench.metrics,
        percent=frozenset(m for m in bench.metrics if all(o.within(m, -1, 1) for o in alike)),
        arms=tuple(
            _arm(bench, arm, compared.get(arm.label, {}), points.get(arm.label), asked, origin)
            for arm in bench.arms
        ),
        controls=tuple(controlled),
        oracle=breakdowns.oracle(bench),
        tags=tuple(breakdowns.tags(bench)),
        letters=tuple(breakdowns.letters(bench)),
    )


def _arm(
    bench: Bench,
    arm: Arm,
    compared: Mapping[str, Comparison],
    point: Point | None,
    asked: frozenset[str],
    origin: Origin,
) -> ArmSummary:
    confident = breakdowns.calibrated(arm, bench.metrics)
    return ArmSummary(
        label=arm.label,
        strategy=arm.strategy,
        variant=arm.variant,
        reads_scorer_source=origin.reads_scorer_source(arm.strategy),
        counts=_counts(arm, asked),
        cost=_cost(arm),
        results={
            metric: Result(bench.score(arm, metric), compared.get(metric))
            for metric in bench.metrics
            if arm.scores(metric)
        },
        pessimistic=_pessimistic(bench, arm),
        point=point,
        calibration=confident[1] if confident else None,
        calibration_metric=confident[0] if confident else None,
    )


def _counts(arm: Arm, asked: frozenset[str]) -> Counts:
    graded = sum(record.graded for record in arm.records)
    return Counts(
        asked=len(arm.records),
        graded=graded,
        ungraded=len(arm.records) - graded,
        unparsable=sum(not record.parsed for record in arm.records),
        degraded=sum(record.status == Status.DEGRADED for record in arm.records),
        abstained=sum(record.status == Status.ABSTAINED for record in arm.records),
        missing=len(asked - arm.ids),
    )


def _cost(arm: Arm) -> Cost:
    tokens = list(arm.tokens.values())
    return Cost(
        calls=arm.mean("calls"),
        depth=arm.mean("depth"),
        prompt_tokens=arm.mean("prompt_tokens"),
        cached_tokens=arm.mean("cached_tokens"),
        completion_tokens=arm.mean("completion_tokens"),
        tokens=float(np.mean(tokens)) if tokens else None,
        seconds_p50=arm.seconds(50),
        seconds_p95=arm.seconds(95),
    )


def _pessimistic(bench: Bench, arm: Arm) -> float | None:
    scores = arm.scores(bench.metrics[0]) if bench.metrics else {}
    lost = {record.id for record in arm.records if not record.graded} - scores.keys()
    return sum(scores.values()) / (len(scores) + len(lost)) if scores and lost else None
