"""What the tables come to, in sentences."""

from __future__ import annotations

from collections import defaultdict

from veridical.evals.report.pairs import Comparison
from veridical.evals.report.summary import BenchSummary
from veridical.evals.report.wording import estimated, percent_points, value
from veridical.evals.statistics import ALPHA

UNGRADED = 0.05
"""A larger share of ungraded answers than this gets a warning."""


def verdict(bench: BenchSummary) -> str:
    """What the headline comparisons add up to."""
    if bench.headline is None:
        return "Nothing was graded."
    if bench.baseline is None:
        return "There is no baseline here: scores only, no differences."
    if not bench.compared:
        return f"Only {bench.baseline} was run: there is nothing to compare it to."
    clear = [c for c in bench.compared if c.p_holm is not None and c.p_holm < ALPHA]
    better = _named([c for c in clear if c.difference.value > 0], bench)
    worse = _named([c for c in clear if c.difference.value < 0], bench)
    return (
        f"Compared with {bench.baseline} by {bench.headline}: {better} better, {worse} worse, "
        f"{len(bench.compared) - len(clear)} not told apart at this size (Holm-corrected p < {ALPHA})."
    )


def _named(found: list[Comparison], bench: BenchSummary) -> str:
    percent = bench.headline in bench.percent
    names = ", ".join(f"{c.after} {percent_points(c.difference.value, percent)}" for c in found)
    return f"{len(found)} ({names})" if found else "none"


def control_verdict(bench: BenchSummary) -> str:
    """How many strategies beat as many plain calls."""
    equal = sum(control.equal for control in bench.controls)
    if not equal:
        return ""
    better = [
        c.comparison.after
        for c in bench.controls
        if c.equal and c.comparison.difference.value > 0 and (c.comparison.p_holm or 0) < ALPHA
    ]
    named = f"{len(better)} ({', '.join(better)})" if better else "none"
    return f"Better than votes over as many plain answers, after Holm's correction: {named} of {equal}."


def power(bench: BenchSummary) -> str:
    """What the size of the run hides."""
    percent = bench.headline in bench.percent
    by_size: dict[int, list[float]] = defaultdict(list)
    for c in bench.compared:
        if c.detectable is not None:
            by_size[c.difference.n].append(c.detectable)
    unit = " points" if percent else ""
    parts = [
        f"with n = {n} a difference below {_range(sizes, percent)}{unit} cannot be seen"
        for n, sizes in sorted(by_size.items(), reverse=True)
    ]
    if not parts:
        return ""
    said = "; ".join(parts)
    size = "80 % power at p < 0.05 uncorrected, judged by how often answers changed here"
    return f"{said[0].upper()}{said[1:]} ({size})."


def _range(sizes: list[float], percent: bool) -> str:
    low, high = value(min(sizes), percent), value(max(sizes), percent)
    return low if low == high else f"{low} to {high}"


def oracle(bench: BenchSummary) -> str:
    """The upper bound in a sentence."""
    if bench.oracle is None:
        return ""
    percent = bench.headline in bench.percent
    found = bench.oracle
    against = (
        ""
        if found.baseline is None
        else f", where {bench.baseline} alone has {value(found.baseline, percent)}"
    )
    return (
        f"Oracle: the best of the {found.strategies} strategies for each of the {found.score.n} questions "
        f"that all answered would give {estimated(found.score, percent)}{against}. It is an upper bound that "
        "rises with the number of strategies, even of ones that guess."
    )


def warnings(bench: BenchSummary) -> list[str]:
    """What a reader must know before trusting a row."""
    lost = [arm for arm in bench.arms if arm.counts.ungraded > UNGRADED * arm.counts.asked]
    found = [
        f"{arm.label}: {arm.counts.ungraded} of {arm.counts.asked} answers are ungraded and not in its score."
        for arm in lost
    ]
    copying = ", ".join(arm.label for arm in bench.arms if arm.reads_scorer_source)
    if copying:
        found.append(f"Reads what the scorer checks against, so is scored partly for copying: {copying}.")
    return found
