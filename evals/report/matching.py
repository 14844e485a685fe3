"""What `veridical eval compare` compares: two folders, or two strategies of one."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from veridical.evals.report.arms import Arm, Bench, benches
from veridical.evals.report.pairs import Comparison, compare, corrected
from veridical.evals.report.reading import CannotReport, read


@dataclass(frozen=True)
class Matched:
    """One comparison and the bench that it was made on; `model` names both where they differ."""

    task: str
    setting: str
    model: str
    comparison: Comparison


@dataclass(frozen=True)
class _Pair:
    task: str
    setting: str
    model: str
    before: Arm
    after: Arm
    metrics: tuple[str, ...]


def strategies(folder: Path, before: str, after: str) -> list[Matched]:
    """Two strategies of one folder, on every bench where both answered.

    Raises:
        CannotReport: a strategy is not in the folder (names those that are), or they share no question.
    """
    found = benches(read(folder))
    for name in (before, after):
        labels = sorted({arm.label for bench in found for arm in bench.arms})
        if name not in labels:
            raise CannotReport(f"no strategy {name!r} in {folder}; there are: {', '.join(labels)}")
    return _compared(
        _Pair(bench.task, bench.setting, bench.model, old, new, bench.metrics)
        for bench in found
        for old in bench.arms
        for new in bench.arms
        if (old.label, new.label) == (before, after)
    )


def folders(before: Path, after: Path) -> list[Matched]:
    """The strategies that two folders share, on the tasks that they share.

    Where a task and setting was run with one model in each folder, the two are compared even if they
    differ; likewise where each has one strategy.

    Raises:
        CannotReport: a folder has no records, or they share nothing.
    """
    old, new = benches(read(before)), benches(read(after))
    return _compared(pair for one in old for other in _partners(one, old, new) for pair in _arms(one, other))


def _partners(bench: Bench, old: Sequence[Bench], new: Sequence[Bench]) -> list[Bench]:
    """The benches of the other folder that this one can be compared with."""
    theirs, ours = (
        [b for b in several if (b.task, b.setting) == (bench.task, bench.setting)] for several in (new, old)
    )
    same = [other for other in theirs if other.model == bench.model]
    return same or (theirs if len(theirs) == len(ours) == 1 else [])


def _arms(one: Bench, other: Bench) -> Iterator[_Pair]:
    model = one.model if one.model == other.model else f"{one.model} → {other.model}"
    named = {arm.label: arm for arm in other.arms}
    pairs = [(arm, named[arm.label]) for arm in one.arms if arm.label in named]
    if not pairs and len(one.arms) == len(other.arms) == 1:
        pairs = [(one.arms[0], other.arms[0])]
    for old, new in pairs:
        yield _Pair(one.task, one.setting, model, old, new, one.metrics)


def _compared(pairs: Iterable[_Pair]) -> list[Matched]:
    """All metrics of all pairs; Holm's families are a task's comparisons in one metric."""
    found = {
        (number, metric): (pair, comparison)
        for number, pair in enumerate(pairs)
        for metric, comparison in compare(pair.before, pair.after, pair.metrics).items()
    }
    if not found:
        raise CannotReport("the two share no graded question of a task")
    better = corrected(
        {key: comparison for key, (_, comparison) in found.items()},
        family=lambda key: (found[key][0].task, key[1]),
    )
    return [Matched(p.task, p.setting, p.model, better[key]) for key, (p, _) in found.items()]
