"""Records sorted into benches (one task, setting and model) and their arms (one strategy each)."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from veridical.evals import statistics
from veridical.evals.records import Record
from veridical.evals.statistics import Array, Estimate

FIRST_LETTER = "said_a"
"""Kept with the scores but none of them: 1 where a lettered question was answered with A."""


@dataclass(frozen=True)
class Arm:
    """The answers of one strategy to the questions of one bench, sorted by question and draw."""

    strategy: str
    variant: str
    records: tuple[Record, ...]

    @property
    def label(self) -> str:
        """What a reader is shown."""
        return f"{self.strategy} ({self.variant})" if self.variant else self.strategy

    @property
    def method(self) -> str:
        """The strategy's name without its options; a pipe keeps all of its text."""
        return self.strategy if "|" in self.strategy else self.strategy.partition("(")[0]

    @cached_property
    def ids(self) -> frozenset[str]:
        """The questions asked, graded or not."""
        return frozenset(record.id for record in self.records)

    @cached_property
    def groups(self) -> Mapping[str, str]:
        """The cluster of each question: its group, or itself alone."""
        return {r.id: f"group {r.group}" if r.group is not None else f"id {r.id}" for r in self.records}

    @cached_property
    def tokens(self) -> Mapping[str, float]:
        """Prompt and completion tokens of each question, averaged over its draws."""
        return _averages(
            (r.id, float(r.prompt_tokens + r.completion_tokens))
            for r in self.records
            if r.prompt_tokens is not None and r.completion_tokens is not None
        )

    def scores(self, metric: str) -> Mapping[str, float]:
        """The score of each graded question, averaged over its draws."""
        return self._scores.get(metric, {})

    @cached_property
    def _scores(self) -> Mapping[str, Mapping[str, float]]:
        graded = [r for r in self.records if r.graded]
        metrics = {metric for r in graded for metric in r.scores}
        return {m: _averages((r.id, r.scores[m]) for r in graded if m in r.scores) for m in metrics}

    def is_binary(self, metric: str) -> bool:
        """Whether every single answer was either right or wrong."""
        return all(r.scores[metric] in (0.0, 1.0) for r in self.records if r.graded and metric in r.scores)

    def mean(self, field: str) -> float | None:
        """The mean of a figure such as `calls` over the records that have it."""
        values = [value for r in self.records if (value := getattr(r, field)) is not None]
        return float(np.mean(values)) if values else None

    def seconds(self, percent: float) -> float | None:
        """A percentile of the time an answer took."""
        values = [r.seconds for r in self.records if r.seconds is not None]
        return float(np.percentile(values, percent)) if values else None

    def tagged(self, tag: str) -> Arm:
        """The same, with only the questions of one tag."""
        return Arm(self.strategy, self.variant, tuple(r for r in self.records if tag in r.tags))


@dataclass(frozen=True)
class Bench:
    """The arms that can be compared: they answered one task in one setting with one model.

    `arms` begins with the baseline, then by mean calls. `metrics` begins with the headline.
    """

    task: str
    setting: str
    model: str
    arms: tuple[Arm, ...]
    metrics: tuple[str, ...]
    baseline: Arm | None

    @property
    def others(self) -> tuple[Arm, ...]:
        """All but the baseline."""
        return tuple(arm for arm in self.arms if arm is not self.baseline)

    @property
    def baseline_method(self) -> str | None:
        """The strategy that the others are compared to, in any variant."""
        return self.baseline.method if self.baseline else None

    def within(self, metric: str, low: float, high: float) -> bool:
        """Whether no question's score in this metric lies outside."""
        lowest, highest = self._ranges[metric]
        return low <= lowest and highest <= high

    @cached_property
    def _ranges(self) -> Mapping[str, tuple[float, float]]:
        values = {m: [v for arm in self.arms for v in arm.scores(m).values()] for m in self.metrics}
        return {metric: (min(found), max(found)) for metric, found in values.items()}

    def score(self, arm: Arm, metric: str) -> Estimate:
        """The arm's mean; its interval stays in [0, 1] if the metric does."""
        scores = arm.scores(metric)
        ids = sorted(scores)
        bounds = (0.0, 1.0) if self.within(metric, 0, 1) else None
        return statistics.score(column(scores, ids), [arm.groups[name] for name in ids], bounds=bounds)


def benches(records: Iterable[Record], *, baseline: str = "direct") -> list[Bench]:
    """The benches of a run, sorted, whatever the order of the records."""
    sorted_out: dict[tuple[str, str, str], dict[tuple[str, str], list[Record]]] = defaultdict(dict)
    for record in sorted(records, key=lambda r: r.key):
        arms = sorted_out[record.task, record.setting, record.model]
        arms.setdefault((record.strategy, record.variant), []).append(record)
    return [
        _bench(place, [Arm(*name, tuple(found)) for name, found in arms.items()], baseline)
        for place, arms in sorted(sorted_out.items())
    ]


def _bench(place: tuple[str, str, str], arms: list[Arm], baseline: str) -> Bench:
    named = [arm for arm in arms if arm.strategy == baseline]
    base = min(named, key=lambda arm: arm.variant) if named else None
    ordered = sorted(arms, key=lambda arm: (arm is not base, arm.mean("calls") or 0.0, arm.label))
    return Bench(*place, tuple(ordered), _metrics(ordered), base)


def _metrics(arms: Iterable[Arm]) -> tuple[str, ...]:
    """In the order of the record that has most of them (an abstention has few); others follow by name."""
    scored = [r.scores for arm in arms for r in arm.records if r.graded]
    fullest = max(scored, key=len, default={})
    named = (*fullest, *sorted({name for scores in scored for name in scores} - fullest.keys()))
    return tuple(name for name in named if name != FIRST_LETTER)


def _averages(values: Iterable[tuple[str, float]]) -> dict[str, float]:
    found: dict[str, list[float]] = defaultdict(list)
    for name, value in values:
        found[name].append(value)
    return {name: sum(several) / len(several) for name, several in found.items()}


def column(values: Mapping[str, float], ids: Iterable[str]) -> Array:
    """The values of these questions, in their order."""
    return np.array([values[name] for name in ids], dtype=float)
