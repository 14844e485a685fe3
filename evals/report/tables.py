"""The report's tables, as text that Markdown and HTML then only arrange."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from veridical.evals.report.pairs import Comparison
from veridical.evals.report.summary import ArmSummary, BenchSummary
from veridical.evals.report.wording import (
    MISSING,
    estimated,
    interval,
    number,
    p_value,
    percent_points,
    value,
)
from veridical.evals.statistics import FEWEST_CHANGES

Row = tuple[str, ...]

FEWEST_TAGGED = 10


@dataclass(frozen=True)
class Table:
    """A heading, columns of which those in `words` hold words and the others figures, and rows."""

    heading: str
    columns: Row
    rows: tuple[Row, ...]
    words: tuple[int, ...] = (0,)
    note: str = ""


def main_table(bench: BenchSummary) -> Table:
    """The headline metric: score, difference to the baseline, what was fixed and harmed, and its cost."""
    metric, base = bench.headline or "score", bench.baseline or "baseline"
    columns = (
        "Strategy", "n", f"{metric} [95 %]", f"against {base} [95 %]", "p", "p, Holm", "fixed", "harmed",
        "calls", "tokens", "s, p50", "s, p95", "per 1,000 tokens", "remarks",
    )  # fmt: skip
    rows = tuple(_main_row(bench, place, arm) for place, arm in enumerate(bench.arms, 1))
    return Table("", columns, rows, words=(0, len(columns) - 1))


def _main_row(bench: BenchSummary, place: int, arm: ArmSummary) -> Row:
    percent = bench.headline in bench.percent
    result = arm.results.get(bench.headline or "")
    c = result.comparison if result else None
    cost = arm.cost
    return (
        f"{place} {arm.label}",
        str(result.score.n) if result else "0",
        estimated(result.score, percent) if result else MISSING,
        *(_difference(c, percent) if c else (MISSING,) * 5),
        number(cost.calls),
        number(cost.tokens, places=0),
        number(cost.seconds_p50),
        number(cost.seconds_p95),
        percent_points(c.gain.value, percent) + interval(c.gain, percent, signed=True)
        if c and c.gain
        else MISSING,
        "; ".join(_remarks(bench, arm, c)),
    )


def _difference(c: Comparison, percent: bool) -> Row:
    return (
        percent_points(c.difference.value, percent) + interval(c.difference, percent, signed=True),
        p_value(c.p),
        p_value(c.p_holm),
        estimated(c.fix, True) if c.fix else MISSING,
        estimated(c.harm, True) if c.harm else MISSING,
    )


def _remarks(bench: BenchSummary, arm: ArmSummary, c: Comparison | None) -> Iterator[str]:
    if arm.label == bench.baseline:
        yield "baseline"
    if arm.reads_scorer_source:
        yield "reads the scorer's own source"
    if arm.point and arm.point.dominated_by:
        yield f"dominated by {arm.point.dominated_by}"
    if c and (changed := c.better + c.worse) < FEWEST_CHANGES:
        yield f"answers that changed in score: {changed or 'none'}; trust p, not the interval"
    if c and c.difference.n < (result := arm.results[c.metric]).score.n:
        yield f"{c.difference.n} of {result.score.n} questions paired"


def control_table(bench: BenchSummary) -> Table | None:
    """Each strategy against votes over as many plain answers."""
    percent = bench.headline in bench.percent
    rows = tuple(
        (
            control.comparison.after,
            number(control.calls),
            control.comparison.before + ("" if control.equal else " (nearest, not equal)"),
            number(control.control_calls),
            str(control.comparison.difference.n),
            *_difference(control.comparison, percent)[:3],
        )
        for control in bench.controls
    )
    columns = (
        "Strategy",
        "calls",
        "control",
        "its calls",
        "n",
        f"{bench.headline}: difference [95 %]",
        "p",
        "p, Holm",
    )
    return Table("At the same number of calls", columns, rows, words=(0, 2)) if rows else None


COMPARED = ("metric", "n", "A", "B", "B - A", "p", "p, Holm", "fixed", "harmed", "unseen below")


def compared_row(c: Comparison) -> Row:
    """One comparison of `veridical eval compare`, under the columns COMPARED."""
    percent = max(abs(c.old), abs(c.new)) <= 1
    scores = (value(c.old, percent), value(c.new, percent))
    return (
        c.metric,
        str(c.difference.n),
        *scores,
        *_difference(c, percent),
        value(c.detectable, percent),
    )


def metrics_table(bench: BenchSummary) -> Table | None:
    """Every metric but the headline."""
    rows = tuple(
        (metric, f"{place} {arm.label}", *_metric_row(arm, metric, metric in bench.percent))
        for metric in bench.metrics[1:]
        for place, arm in enumerate(bench.arms, 1)
        if metric in arm.results
    )
    columns = (
        "Metric",
        "Strategy",
        "n",
        "value [95 %]",
        "difference [95 %]",
        "p",
        "p, Holm",
        "fixed",
        "harmed",
    )
    return Table("Other metrics", columns, rows, words=(0, 1)) if rows else None


def _metric_row(arm: ArmSummary, metric: str, percent: bool) -> Row:
    result = arm.results[metric]
    c = result.comparison
    compared = _difference(c, percent) if c else (MISSING,) * 5
    return (str(result.score.n), estimated(result.score, percent), *compared)


def cost_table(bench: BenchSummary) -> Table:
    """Where the tokens go."""
    rows = tuple(
        (
            f"{place} {arm.label}",
            number(arm.cost.calls),
            number(arm.cost.depth),
            number(arm.cost.prompt_tokens, places=0),
            number(arm.cost.cached_tokens, places=0),
            number(arm.cost.completion_tokens, places=0),
        )
        for place, arm in enumerate(bench.arms, 1)
    )
    columns = ("Strategy", "calls", "longest chain", "prompt tokens", "of these cached", "completion tokens")
    return Table("Cost of an answer", columns, rows, note="Means over all answers.")


def counts_table(bench: BenchSummary) -> Table:
    """What became of every question."""
    percent = bench.headline in bench.percent
    rows = tuple(
        (
            f"{place} {arm.label}",
            *(
                str(n)
                for n in (c.asked, c.graded, c.ungraded, c.unparsable, c.degraded, c.abstained, c.missing)
            ),
            MISSING if arm.pessimistic is None else value(arm.pessimistic, percent),
        )
        for place, arm in enumerate(bench.arms, 1)
        for c in (arm.counts,)
    )
    columns = (
        "Strategy", "answers", "graded", "ungraded", "unparsable", "degraded", "abstained", "never asked",
        f"{bench.headline} if ungraded were 0",
    )  # fmt: skip
    note = "Ungraded answers are in no score; unparsable ones are, and so are degraded ones: the best draft."
    return Table("What became of the questions", columns, rows, note=note)


def tags_table(bench: BenchSummary) -> Table | None:
    """The headline metric by tag."""
    percent = bench.headline in bench.percent
    rows = tuple(
        (
            found.tag,
            found.label,
            str(found.score.n),
            estimated(found.score, percent),
            percent_points(found.difference.value, percent) + interval(found.difference, percent, signed=True)
            if found.difference
            else MISSING,
        )
        for found in bench.tags
        if found.score.n >= FEWEST_TAGGED
    )
    columns = ("Tag", "Strategy", "n", f"{bench.headline} [95 %]", f"against {bench.baseline} [95 %]")
    note = (
        "A breakdown to look at, not a test: nothing here is corrected for the number of looks. "
        f"Tags with fewer than {FEWEST_TAGGED} questions are in summary.json only."
    )
    return Table("By tag", columns, rows, words=(0, 1), note=note) if rows else None


def letters_table(bench: BenchSummary) -> Table | None:
    """Which letters were answered."""
    rows = tuple(
        (found.label, str(found.n), number(found.first, True), str(found.pairs), number(found.same, True))
        for found in bench.letters
    )
    columns = ("Strategy", "letters given", "A, %", "questions in two orders", "same letter twice, %")
    note = "Who answers with the same letter in both orders is right once, whatever the question."
    return Table("Letter bias", columns, rows, note=note) if rows else None


def calibration_table(bench: BenchSummary) -> Table | None:
    """Whether confidence tells right from wrong."""
    rows = tuple(
        (
            f"{place} {arm.label}",
            arm.calibration_metric or MISSING,
            str(c.n),
            f"{value(c.ece, True)} [{value(c.ece_low, True)}, {value(c.ece_high, True)}]",
            *(number(figure, places=3) for figure in (c.brier, c.auroc, c.aurc, c.aurc_best)),
            *(value(share, True) for share in c.accuracy_at.values()),
        )
        for place, arm in enumerate(bench.arms, 1)
        if (c := arm.calibration)
    )
    columns = (
        "Strategy", "of", "n", "ECE, % [95 %]", "Brier", "AUROC", "AURC", "best AURC",
        "right in top 50 %", "right in top 80 %",
    )  # fmt: skip
    return Table("Confidence", columns, rows, words=(0, 1)) if rows else None


def further_tables(bench: BenchSummary) -> list[Table]:
    """All but the first two."""
    made: Iterable[Table | None] = (
        calibration_table(bench),
        letters_table(bench),
        tags_table(bench),
        metrics_table(bench),
        cost_table(bench),
        counts_table(bench),
    )
    return [table for table in made if table]
