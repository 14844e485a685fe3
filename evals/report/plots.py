"""The figures, as SVG written by hand: text stays text, colours follow the page's light or dark theme,
and the bytes depend on nothing but the figures.

Drawn 420 units wide, so that on a phone the words keep their size.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from veridical.evals.report.drawing import COLOURS, DRAWING, ROW, WIDTH, Canvas, Linear, Log, labels, steps
from veridical.evals.report.summary import ArmSummary, BenchSummary
from veridical.evals.report.wording import axis_number, interval, number, percent_points, shortened
from veridical.evals.statistics import ALPHA


@dataclass(frozen=True)
class Figure:
    """A picture and what it shows, in words."""

    kind: str
    caption: str
    svg: str

    def standalone(self) -> str:
        """The same as a file of its own."""
        style = f"<style>{COLOURS}{DRAWING}</style>"
        return '<?xml version="1.0" encoding="UTF-8"?>\n' + self.svg.replace(">", f">{style}", 1) + "\n"


def figures(bench: BenchSummary) -> list[Figure]:
    """What can be drawn of a bench: each is left out where its figures are missing."""
    drawn = (forest(bench), pareto(bench), *reliability(bench))
    return [figure for figure in drawn if figure]


def forest(bench: BenchSummary) -> Figure | None:
    """The paired differences to the baseline with their intervals, one row a strategy."""
    rows = [
        (place, arm, result.comparison)
        for place, arm in enumerate(bench.arms, 1)
        if (result := arm.results.get(bench.headline or "")) and result.comparison
    ]
    if not rows or bench.headline is None:
        return None
    percent = bench.headline in bench.percent
    ends = [
        end
        for *_, c in rows
        for end in (c.difference.low, c.difference.high, c.difference.value, 0.0)
        if end is not None
    ]
    scale = Linear(min(ends), max(ends), 12, WIDTH - 12)
    height = ROW * len(rows) + 38
    canvas = Canvas(height, f"Paired differences to {bench.baseline}, {bench.title}")
    for tick in scale.ticks(100 if percent else 1):
        canvas.line(scale(tick), 6, scale(tick), height - 32, "zero" if tick == 0 else "grid")
        canvas.text(
            scale(tick), height - 19, axis_number(tick, percent, signed=True), anchor="middle", kind="faint"
        )
    unit = "percentage points" if percent else bench.headline
    canvas.text(
        WIDTH / 2,
        height - 4,
        f"{bench.headline}: difference to {bench.baseline}, {unit}",
        anchor="middle",
        kind="faint",
    )
    for row, (place, arm, c) in enumerate(rows):
        y = 8 + ROW * row
        found = c.p_holm is not None and c.p_holm < ALPHA
        kind = ("good" if c.difference.value > 0 else "bad") if found else "open"
        canvas.text(2, y + 9, shortened(f"{place} {arm.label}", 42))
        words = percent_points(c.difference.value, percent) + interval(c.difference, percent, signed=True)
        canvas.text(WIDTH - 2, y + 9, words, anchor="end")
        low, high = c.difference.low, c.difference.high
        if low is not None and high is not None:
            canvas.line(scale(low), y + 20, scale(high), y + 20, kind)
        canvas.circle(scale(c.difference.value), y + 20, 4, kind)
    return Figure(
        "forest",
        "Paired differences with 95 % intervals. Filled: still there after Holm's correction.",
        str(canvas),
    )


def pareto(bench: BenchSummary) -> Figure | None:
    """Score against tokens, logarithmic; the front is dashed, what is dominated is hollow."""
    placed = [
        (place, arm, arm.point)
        for place, arm in enumerate(bench.arms, 1)
        if arm.point and arm.point.tokens > 0
    ]
    if len(placed) < 2 or bench.headline is None:
        return None
    percent = bench.headline in bench.percent
    whiskers = [_whisker(bench, arm) for _, arm, _ in placed]
    ends = [end for pair in whiskers for end in pair]
    x = Log(min(p.tokens for *_, p in placed), max(p.tokens for *_, p in placed), 40, WIDTH - 14)
    y = Linear(min(ends), max(ends), 268, 14)
    canvas = Canvas(308, f"{bench.headline} against tokens a question, {bench.title}")
    for tick in y.ticks(100 if percent else 1):
        canvas.line(40, y(tick), WIDTH - 6, y(tick), "grid")
        canvas.text(35, y(tick) + 4, axis_number(tick, percent), anchor="end", kind="faint")
    for tick in x.ticks():
        canvas.line(x(tick), 268, x(tick), 273, "zero")
        canvas.text(x(tick), 285, f"{tick:,.0f}", anchor="middle", kind="faint")
    canvas.text(WIDTH / 2, 302, "tokens a question, all calls (logarithmic)", anchor="middle", kind="faint")
    canvas.text(2, 8, f"{bench.headline}{', %' if percent else ''}", kind="faint")
    front = sorted((p.tokens, p.score) for *_, p in placed if p.dominated_by is None)
    canvas.path(steps([(x(tokens), y(score)) for tokens, score in front]), "front")
    spots = [(x(p.tokens), y(p.score)) for *_, p in placed]
    for (low, high), (left, _) in zip(whiskers, spots, strict=True):
        canvas.line(left, y(low), left, y(high), "whisker")
    words = [shortened(f"{place} {arm.label}", 26) for place, arm, _ in placed]
    for (place, arm, p), (left, top), name, (at, base, anchor) in zip(
        placed, spots, words, labels(spots, words), strict=True
    ):
        if math.hypot(at - left, base - 4 - top) > 16:
            canvas.line(left, top, at, base - 4, "leader")
        canvas.circle(left, top, 5, "hollow" if p.dominated_by else "dot", f"{place} {arm.label}")
        canvas.text(at, base, name, anchor=anchor, kind="faint" if p.dominated_by else "")
    return Figure(
        "pareto",
        "Score against tokens. Filled: nothing scores as well for fewer tokens. Hollow: dominated. "
        "Whiskers: 95 % interval of the paired difference.",
        str(canvas),
    )


def _whisker(bench: BenchSummary, arm: ArmSummary) -> tuple[float, float]:
    """The ends of a point's whisker: the interval of the difference, put on the baseline's score."""
    point, result = arm.point, arm.results.get(bench.headline or "")
    if point is None:
        raise ValueError("an arm without a point has no whisker")
    c = result.comparison if result else None
    if c is None or c.difference.low is None or c.difference.high is None:
        return point.score, point.score
    base = point.score - c.difference.value
    return base + c.difference.low, base + c.difference.high


def reliability(bench: BenchSummary) -> list[Figure]:
    """For each strategy that states a confidence: accuracy against it, in bins of equal mass."""
    return [_reliability(place, arm) for place, arm in enumerate(bench.arms, 1) if arm.calibration]


def _reliability(place: int, arm: ArmSummary) -> Figure:
    found = arm.calibration
    if found is None:
        raise ValueError("an arm without confidence has no reliability diagram")
    canvas = Canvas(250, f"Reliability of {arm.label}", 230)
    x, y = Linear(0, 1, 30, 214, tight=True), Linear(0, 1, 208, 24, tight=True)
    for tick in (0.0, 0.5, 1.0):
        canvas.line(30, y(tick), 214, y(tick), "grid")
        canvas.text(26, y(tick) + 4, f"{100 * tick:.0f}", anchor="end", kind="faint")
        canvas.text(x(tick), 222, f"{100 * tick:.0f}", anchor="middle", kind="faint")
    canvas.line(x(0), y(0), x(1), y(1), "zero")
    canvas.text(2, 10, shortened(f"{place} {arm.label}", 34))
    canvas.text(122, 238, "confidence, %; upwards: right, %", anchor="middle", kind="faint")
    for point in found.bins:
        canvas.line(x(point.confidence), y(point.low), x(point.confidence), y(point.high), "whisker")
    for point in found.bins:
        size = 2.5 + 6 * math.sqrt(point.n / found.n)
        canvas.circle(x(point.confidence), y(point.accuracy), size, "dot", f"n = {point.n}")
    ece = " to ".join(number(end, percent=True) for end in (found.ece_low, found.ece_high))
    caption = f"{arm.label}: calibration error {number(found.ece, percent=True)} ({ece}), n = {found.n}."
    return Figure("reliability", caption, str(canvas))
