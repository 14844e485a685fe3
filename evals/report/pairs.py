"""Two arms compared on the questions that both answered."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np

from veridical.evals import statistics
from veridical.evals.report.arms import Arm, column
from veridical.evals.statistics import Array, Estimate

K = TypeVar("K")
Key = tuple[str, ...]


@dataclass(frozen=True)
class Comparison:
    """What one arm changed against another, on `difference.n` questions graded in both.

    `old` and `new` are the scores on these questions. `better` and `worse` count those whose score rose
    and fell. `fix` is the share made right of those wrong before, `harm` the share made wrong of those
    right before; both only for scores that are right or wrong. `ceiling` is the score if the better of
    the two answers could be picked each time. `detectable` is the smallest true difference found 8 times
    in 10. `gain` is the difference per 1,000 more tokens, where more were used; `extra_tokens` is their
    mean a question.
    """

    before: str
    after: str
    metric: str
    old: float
    new: float
    difference: Estimate
    test: str
    p: float
    p_holm: float | None
    better: int
    worse: int
    fix: Estimate | None
    harm: Estimate | None
    ceiling: float
    detectable: float | None
    extra_tokens: float | None
    gain: Estimate | None


def compare(before: Arm, after: Arm, metrics: Sequence[str]) -> dict[str, Comparison]:
    """The comparison for each metric that the two share at least one graded question of."""
    by_questions: dict[Key, list[str]] = defaultdict(list)
    for metric in metrics:
        by_questions[tuple(sorted(before.scores(metric).keys() & after.scores(metric).keys()))].append(metric)
    found = {
        metric: result
        for ids, several in by_questions.items()
        if ids
        for metric, result in _compare(before, after, ids, several).items()
    }
    return {metric: found[metric] for metric in metrics if metric in found}


def _compare(before: Arm, after: Arm, ids: Key, metrics: Sequence[str]) -> dict[str, Comparison]:
    """All metrics over the same questions: one set of resamples serves them."""
    groups = [before.groups[name] for name in ids]
    old = np.column_stack([column(before.scores(metric), ids) for metric in metrics])
    new = np.column_stack([column(after.scores(metric), ids) for metric in metrics])
    extra = _extra_tokens(before, after, ids)
    columns = [new - old, np.ones((len(ids), 1)), *([extra[:, None]] if extra is not None else [])]
    sums = statistics.cluster_sums(np.column_stack(columns), groups)
    draws = statistics.bootstrap_sums(sums)
    flips = statistics.sign_flip(sums[:, : len(metrics)])
    return {
        metric: _Pair(
            before,
            after,
            metric,
            groups,
            old[:, number],
            new[:, number],
            sums[:, [number, len(metrics)]],
            draws[:, [number, len(metrics)]],
            float(flips[number]),
            None if extra is None else (float(extra.sum()), draws[:, -1]),
        ).comparison()
        for number, metric in enumerate(metrics)
    }


def _extra_tokens(before: Arm, after: Arm, ids: Key) -> Array | None:
    """More tokens than before, a question; `None` where they were not counted for all."""
    if not all(name in before.tokens and name in after.tokens for name in ids):
        return None
    return column(after.tokens, ids) - column(before.tokens, ids)


@dataclass(frozen=True)
class _Pair:
    """One metric's columns: by question, by cluster (differences, counts), and by resample."""

    before: Arm
    after: Arm
    metric: str
    groups: Sequence[str]
    old: Array
    new: Array
    sums: Array
    draws: Array
    flip: float
    extra: tuple[float, Array] | None

    def comparison(self) -> Comparison:
        change = self.new - self.old
        binary = self.before.is_binary(self.metric) and self.after.is_binary(self.metric)
        test, p = self._test(change)
        n = len(change)
        return Comparison(
            before=self.before.label,
            after=self.after.label,
            metric=self.metric,
            old=float(self.old.mean()),
            new=float(self.new.mean()),
            difference=self._estimate(float(change.mean()), self.draws[:, 0] / self.draws[:, 1]),
            test=test,
            p=p,
            p_holm=None,
            better=int((change > 0).sum()),
            worse=int((change < 0).sum()),
            fix=self._share(self.new, 1 - self.old) if binary else None,
            harm=self._share(1 - self.new, self.old) if binary else None,
            ceiling=float(np.maximum(self.old, self.new).mean()),
            detectable=statistics.detectable_difference(self.sums[:, 0], n, binary=binary),
            extra_tokens=None if self.extra is None else self.extra[0] / n,
            gain=self._gain(float(change.sum())),
        )

    def _estimate(self, value: float, draws: Array) -> Estimate:
        low, high = statistics.percentile_interval(draws, len(self.sums)) or (None, None)
        return Estimate(value, low, high, len(self.old), len(self.sums))

    def _test(self, change: Array) -> tuple[str, float]:
        """McNemar's where it holds: right or wrong, once a question, and no two questions related."""
        if len(self.sums) == len(change) and np.isin(change, (-1.0, 0.0, 1.0)).all():
            return "McNemar", statistics.mcnemar(int((change < 0).sum()), int((change > 0).sum()))
        return "sign flips", self.flip

    def _share(self, after: Array, before: Array) -> Estimate | None:
        """Of the questions `before`, the share that is `after`; repeated draws count in part."""
        found = statistics.proportion(before * after, before, self.groups)
        return found if found.n else None

    def _gain(self, change: float) -> Estimate | None:
        """Per 1,000 more tokens; none where it is not certain that more were used."""
        if self.extra is None:
            return None
        total, draws = self.extra
        spread = statistics.percentile_interval(draws, len(self.sums))
        if total <= 0 or spread is None or spread[0] <= 0 or (draws <= 0).any():
            return None
        return self._estimate(1000 * change / total, 1000 * self.draws[:, 0] / draws)


def corrected(found: Mapping[K, Comparison], family: Callable[[K], Hashable]) -> dict[K, Comparison]:
    """The same comparisons with Holm's p within each family."""
    families: dict[Hashable, list[K]] = defaultdict(list)
    for key in found:
        families[family(key)].append(key)
    adjusted = {
        key: p
        for keys in families.values()
        for key, p in zip(keys, statistics.holm([found[key].p for key in keys]), strict=True)
    }
    return {key: replace(comparison, p_holm=adjusted[key]) for key, comparison in found.items()}
