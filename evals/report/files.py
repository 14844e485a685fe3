"""The report for programs: one flat row for each task, setting, model, strategy and metric."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, fields
from typing import Any

import orjson

from veridical.evals import statistics
from veridical.evals.report.origin import Origin
from veridical.evals.report.pairs import Comparison
from veridical.evals.report.summary import ArmSummary, BenchSummary, Cost, Counts
from veridical.evals.statistics import Estimate

PLACES = 6
"""Digits kept behind the point: more than any of it means, fewer than machines differ in."""
_ESTIMATES = ("difference", "fix", "harm", "gain")
_PLAIN = ("test", "p", "p_holm", "better", "worse", "ceiling", "detectable", "extra_tokens")
_COMPARED = (
    "compared_to", "paired_n",
    *(f"{name}{end}" for name in _ESTIMATES for end in ("", "_low", "_high")), *_PLAIN,
)  # fmt: skip


def rows(benches: Iterable[BenchSummary]) -> Iterator[dict[str, Any]]:
    """The rows, each with the same keys; what is not known is None."""
    for bench in benches:
        for arm in bench.arms:
            for metric in bench.metrics:
                if metric in arm.results:
                    yield _row(bench, arm, metric)


def _row(bench: BenchSummary, arm: ArmSummary, metric: str) -> dict[str, Any]:
    score, comparison = arm.results[metric].score, arm.results[metric].comparison
    return {
        "task": bench.task,
        "setting": bench.setting,
        "model": bench.model,
        "strategy": arm.strategy,
        "variant": arm.variant,
        "metric": metric,
        "headline": metric == bench.headline,
        "n": score.n,
        "clusters": score.clusters,
        "value": score.value,
        "low": score.low,
        "high": score.high,
        **_compared(comparison),
        **asdict(arm.cost),
        "dominated_by": arm.point.dominated_by if arm.point else None,
        "reads_scorer_source": arm.reads_scorer_source,
        **asdict(arm.counts),
    }


def _compared(c: Comparison | None) -> dict[str, Any]:
    if c is None:
        return dict.fromkeys(_COMPARED)
    found: dict[str, Any] = {"compared_to": c.before, "paired_n": c.difference.n}
    for name in _ESTIMATES:
        found |= _estimate(name, getattr(c, name))
    return found | {name: getattr(c, name) for name in _PLAIN}


def _estimate(name: str, found: Estimate | None) -> dict[str, float | None]:
    low, high = (found.low, found.high) if found else (None, None)
    return {name: found.value if found else None, f"{name}_low": low, f"{name}_high": high}


def table(benches: Sequence[BenchSummary]) -> str:
    """`report.csv`."""
    columns = [
        *("task", "setting", "model", "strategy", "variant", "metric", "headline"),
        *("n", "clusters", "value", "low", "high", *_COMPARED),
        *(field.name for field in fields(Cost)),
        *("dominated_by", "reads_scorer_source"),
        *(field.name for field in fields(Counts)),
    ]
    out = io.StringIO()
    writer = csv.DictWriter(out, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rounded(row) for row in rows(benches))
    return out.getvalue()


def summary(benches: Sequence[BenchSummary], origin: Origin, baseline: str) -> bytes:
    """`summary.json`: the rows, and what does not fit in a row."""
    content = {
        "judge": origin.judge_line,
        "baseline": baseline,
        "alpha": statistics.ALPHA,
        "power": statistics.POWER,
        "resamples": statistics.RESAMPLES,
        "seed": statistics.SEED,
        "rows": list(rows(benches)),
        "benches": [
            {
                "task": bench.task,
                "setting": bench.setting,
                "model": bench.model,
                "headline": bench.headline,
                "controls": [asdict(control) | {"equal": control.equal} for control in bench.controls],
                "oracle": asdict(bench.oracle) if bench.oracle else None,
                "calibration": {
                    arm.label: {"metric": arm.calibration_metric, **asdict(arm.calibration)}
                    for arm in bench.arms
                    if arm.calibration
                },
                "tags": [asdict(tagged) for tagged in bench.tags],
                "letters": [asdict(letters) for letters in bench.letters],
            }
            for bench in benches
        ],
    }
    return orjson.dumps(rounded(content), option=orjson.OPT_INDENT_2) + b"\n"


def rounded(value: Any) -> Any:
    """The same to six places, so that machines which sum in another order write the same bytes."""
    if isinstance(value, float):
        return None if math.isnan(value) else round(value, PLACES) + 0.0
    if isinstance(value, Mapping):
        return {key: rounded(inner) for key, inner in value.items()}
    return [rounded(inner) for inner in value] if isinstance(value, list | tuple) else value
