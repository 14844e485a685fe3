"""Drawing SVG: a canvas, axes, and labels that keep out of each other's way."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from itertools import pairwise
from xml.etree import ElementTree as ET

WIDTH = 420
LETTER = 6.4
"""Width of a letter at the labels' size, near enough to keep labels apart."""
ROW = 34
COLOURS = """
svg { font: 11px system-ui, sans-serif; --ink: #1c2530; --muted: #66717e; --line: #d5dbe1; --paper: #fff;
  --accent: #1f6feb; --good: #1a7f4b; --bad: #c2410c }
@media (prefers-color-scheme: dark) { svg {
  --ink: #e6eaee; --muted: #9aa5b1; --line: #38424d; --paper: #14191f;
  --accent: #6ea8fe; --good: #4cc38a; --bad: #ff9560 } }
"""
DRAWING = """
.figure text { fill: var(--ink); font-size: 11.5px;
  paint-order: stroke; stroke: var(--paper); stroke-width: 3px }
.figure .faint { fill: var(--muted) }
.figure .grid { stroke: var(--line) }
.figure .whisker { stroke: var(--muted); opacity: .55 }
.figure .zero { stroke: var(--muted) }
.figure .front { stroke: var(--accent); fill: none; stroke-width: 1.5; stroke-dasharray: 4 3 }
.figure .leader { stroke: var(--muted); stroke-width: .7 }
.figure .dot { fill: var(--accent); stroke: var(--paper); stroke-width: 1.5 }
.figure .hollow { fill: var(--paper); stroke: var(--muted); stroke-width: 1.5 }
.figure .good { fill: var(--good); stroke: var(--good) }
.figure .bad { fill: var(--bad); stroke: var(--bad) }
.figure .open { fill: var(--paper); stroke: var(--muted); stroke-width: 1.5 }
.figure line.open { stroke-width: 1.5 }
"""


class Canvas:
    """An SVG of one height, and the few shapes that are drawn on it."""

    def __init__(self, height: float, description: str, width: float = WIDTH) -> None:
        self._root = ET.Element(
            "svg",
            {
                "xmlns": "http://www.w3.org/2000/svg",
                "class": "figure",
                "viewBox": f"0 0 {width:g} {height:g}",
                "role": "img",
                "aria-label": description,
            },
        )

    def line(self, x1: float, y1: float, x2: float, y2: float, kind: str) -> None:
        """A straight line; `kind` is its class in the style."""
        self._add("line", kind, x1=x1, y1=y1, x2=x2, y2=y2)

    def circle(self, x: float, y: float, r: float, kind: str, title: str = "") -> None:
        """A dot, with words for whoever points at it."""
        self._add("circle", kind, cx=x, cy=y, r=r, title=title)

    def path(self, points: Iterable[tuple[float, float]], kind: str) -> None:
        """A line through points."""
        words = " L".join(f"{x:.1f} {y:.1f}" for x, y in points)
        ET.SubElement(self._root, "path", {"class": kind, "d": f"M{words}"})

    def text(self, x: float, y: float, words: str, *, anchor: str = "start", kind: str = "") -> None:
        """One line of words; `y` is where they stand on."""
        attributes = {"x": f"{x:.1f}", "y": f"{y:.1f}", "text-anchor": anchor}
        ET.SubElement(self._root, "text", attributes | ({"class": kind} if kind else {})).text = words

    def _add(self, shape: str, kind: str, *, title: str = "", **place: float) -> None:
        attributes = {"class": kind} | {name: f"{value:.1f}" for name, value in place.items()}
        element = ET.SubElement(self._root, shape, attributes)
        if title:
            ET.SubElement(element, "title").text = title

    def __str__(self) -> str:
        return ET.tostring(self._root, encoding="unicode")


class Linear:
    """A value's place on an axis from `start` to `end`, with a little room at both ends."""

    def __init__(self, low: float, high: float, start: float, end: float, *, tight: bool = False) -> None:
        room = 0 if tight else 0.06 * (high - low) or 0.05
        self.low, self.high, self.start, self.end = low - room, high + room, start, end

    def __call__(self, value: float) -> float:
        """Where it stands."""
        return self.start + (value - self.low) / (self.high - self.low) * (self.end - self.start)

    def ticks(self, factor: float) -> list[float]:
        """Round numbers, four to eight of them; `factor` is what the values are shown multiplied by."""
        low, high = self.low * factor, self.high * factor
        power = 10 ** math.floor(math.log10(high - low))
        step = next(power * m for m in (0.1, 0.2, 0.5, 1, 2) if (high - low) / (power * m) <= 7)
        return [k * step / factor for k in range(math.ceil(low / step), math.floor(high / step) + 1)]


class Log(Linear):
    """The same for the logarithm."""

    def __init__(self, low: float, high: float, start: float, end: float) -> None:
        super().__init__(math.log(low), math.log(high), start, end)

    def __call__(self, value: float) -> float:
        """Where it stands."""
        return super().__call__(math.log(value))

    def ticks(self, factor: float = 1) -> list[float]:
        """1, 2 and 5 times powers of ten; only the powers where these would be more than eight."""
        powers = range(-1, 9)
        low, high = math.exp(self.low), math.exp(self.high)
        fine = [float(m) * 10**k for k in powers for m in (1, 2, 5) if low <= m * 10**k <= high]
        return fine if len(fine) <= 8 else [tick for tick in fine if math.log10(tick).is_integer()]


def steps(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """A staircase: to get the next better score, go all the way to its cost."""
    stairs = list(points[:1])
    for (_, before), (left, top) in pairwise(points):
        stairs += [(left, before), (left, top)]
    return stairs


Box = tuple[float, float, float, float]


def labels(spots: Sequence[tuple[float, float]], words: Sequence[str]) -> list[tuple[float, float, str]]:
    """A free place near each spot, the nearest first: beside, above and below, up to six lines away."""
    taken: list[Box] = [(x - 6, y - 6, x + 6, y + 6) for x, y in spots]
    found = []
    for (x, y), text in zip(spots, words, strict=True):
        options = [
            (x + dx, y + 4 + dy, anchor)
            for dy in sorted(range(-84, 85, 14), key=lambda d: (abs(d), d))
            for dx, anchor in ((9, "start"), (-9, "end"))
        ]
        boxes = [(option, _box(*option, len(text) * LETTER)) for option in options]
        inside = [(option, box) for option, box in boxes if _fits(box)]
        option, box = min(inside or boxes, key=lambda pair: sum(_overlap(pair[1], other) for other in taken))
        taken.append(box)
        found.append(option)
    return found


def _box(x: float, y: float, anchor: str, width: float) -> Box:
    left = x if anchor == "start" else x - width
    return (left, y - 10, left + width, y + 3)


def _fits(box: Box) -> bool:
    return box[0] >= 40 and box[2] <= WIDTH and box[1] >= 10 and box[3] <= 268


def _overlap(a: Box, b: Box) -> float:
    return max(0.0, min(a[2], b[2]) - max(a[0], b[0])) * max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
