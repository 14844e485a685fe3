"""docs/benchmarks.md from the figures in benchmarks/results/ and the words in benchmarks/page.md."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from measuring import HERE, RESULTS

PAGE = HERE.parent / "docs" / "benchmarks.md"
OURS, REFERENCE, FLOOR, PEER = "veridical", "Starlette + aiohttp", "raw ASGI + aiohttp", "LiteLLM"
KEYED = "veridical, keys"
NOT_YET = "Not measured yet."
Found = Mapping[str, Any]


def write() -> None:
    """Put every section's tables into their places."""
    words = (HERE / "page.md").read_text(encoding="utf-8")
    PAGE.write_text(re.sub(r"\{\{ (\w+) \}\}", lambda place: PARTS[place[1]](), words), encoding="utf-8")


def found(section: str) -> Found | None:
    """A section's figures, if it has been run."""
    file = RESULTS / f"{section}.json"
    return json.loads(file.read_text()) if file.exists() else None


def table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """A Markdown table."""
    head = list(head)
    lines = [head, ["---"] * len(head), *map(list, rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def where(at: Found) -> str:
    """The machine that the figures are of."""
    versions = ", ".join(f"{name} {version}" for name, version in at["versions"].items())
    return (
        f"{at['processor']}, {at['cores']} cores, {at['system']}, Python {at['python']}; {versions}. "
        f"{at['day']}; load average before the run {at['load_before']:.1f}."
    )


def number(value: float | None, form: str = ".2f") -> str:
    """A figure, or a dash."""
    return "–" if value is None else f"{value:,{form}}"


def passthrough() -> str:
    """A table for each cell."""
    figures = found("passthrough")
    if figures is None:
        return NOT_YET
    rounds, starts = figures["rounds"], figures.get("starts", 1)
    words = f"Medians of {rounds} rounds of each of {starts} starts of all processes."
    parts = [where(figures["machine"]), words]
    for cell, targets in figures["cells"].items():
        streams = "stream" in cell
        head = ["", "CPU µs a request", "÷ probe", "added p50, ms", "requests/s", "÷ probe"]
        head += ["added time to first event, ms", "events/s", "÷ probe"] * streams
        rows = []
        for name, one in targets.items():
            row = [name, number(one["cpu_us"], ".0f"), number(one["cpu_us_ratio"]), number(one["added_ms"])]
            row += [number(one["rps"], ".0f"), number(one["rps_ratio"])]
            if streams:
                row += [number(one["added_first_ms"]), number(one["events_s"], ".0f")]
                row += [number(one["events_s_ratio"])]
            rows.append(row)
        parts.append(f"**{cell}**\n\n{table(head, rows)}")
    return "\n\n".join(parts)


def _ratio(cell: str, figure: str, over: str = REFERENCE, ours: str = OURS) -> Callable[[], float | None]:
    def value() -> float | None:
        figures = found("passthrough")
        targets = figures["cells"].get(cell) if figures else None
        if not targets or over not in targets:
            return None
        if over == REFERENCE and f"{figure}_ratio" in targets[ours]:  # of pairs of one round, as the tables
            return float(targets[ours][f"{figure}_ratio"])
        ratio: float = targets[ours][figure] / targets[over][figure]
        return ratio

    return value


def _of(section: str, *path: str) -> Callable[[], float | None]:
    def value() -> float | None:
        figure: Any = found(section)
        for key in path:
            figure = figure.get(key) if figure is not None else None
        return figure

    return value


def _worst(figure: str, *keys: str) -> Callable[[], float | None]:
    def value() -> float | None:
        figures = found("strategies")
        if figures is None:
            return None
        each = [one[figure][keys[0]] if keys else one[figure] for one in figures["strategies"].values()]
        return float(max(each))

    return value


def _growth() -> float | None:
    figures = found("footprint")
    if figures is None:
        return None
    ours = figures["memory"][OURS]
    return float(ours["after_mb"] - ours["warm_mb"])


def _workers(cells: str, over: str = "one") -> Callable[[], float | None]:
    def value() -> float | None:
        figures = found("workers")
        if figures is None:
            return None
        told = figures["cells"].items()
        return max(
            one["two"]["cpu_ratio"] / one[over]["cpu_ratio"] for cell, one in told if cell.startswith(cells)
        )

    return value


#: Row, how it is read, must, stretch; "most" where less is better.
ROWS: tuple[tuple[str, Callable[[], float | None], str, float, float], ...] = (
    ("CPU a passed-on request, c=16 ÷ probe", _ratio("whole, 16", "cpu_us"), "most", 1.3, 1.0),
    ("the same, with a key that has limits", _ratio("whole, 16", "cpu_us", ours=KEYED), "most", 1.3, 1.0),
    ("added p50, c=1 ÷ probe", _ratio("whole, 1", "added_ms"), "most", 1.5, 1.0),
    ("requests/s, c=16 ÷ probe", _ratio("whole, 16", "rps"), "least", 0.75, 1.0),
    ("requests/s, c=16 ÷ LiteLLM", _ratio("whole, 16", "rps", PEER), "least", 30, 30),
    (
        "added time to first event, c=1 ÷ probe",
        _ratio("paced stream, 1", "added_first_ms"),
        "most",
        1.3,
        1.3,
    ),
    (
        "added time to first event, 32 paced ÷ probe",
        _ratio("paced stream, 32", "added_first_ms"),
        "most",
        1.3,
        1.3,
    ),
    ("the same ÷ raw probe", _ratio("paced stream, 32", "added_first_ms", FLOOR), "most", 9e9, 1.0),
    ("events/s, 16 streams ÷ probe", _ratio("stream, 16", "events_s"), "least", 0.8, 1.0),
    ("memory after load, MB", _of("footprint", "memory", OURS, "after_mb"), "most", 85, 65),
    ("memory growth over 20,000 requests, MB", _growth, "most", 2, 0),
    ("cold start to the first 200, s", _of("footprint", "start_s", OURS), "most", 0.9, 0.55),
    ("core install, MB", _of("footprint", "install_mb"), "most", 120, 80),
    ("strategy alone: wall ÷ critical path, worst", _worst("alone"), "most", 1.05, 1.02),
    ("32 at once ÷ bare loop, worst", _worst("crowds", "32"), "most", 1.15, 1.07),
    ("CPU of an inner call, ms, worst", _worst("cpu_ms"), "most", 1.0, 0.5),
    ("first byte of a streamed strategy, s, worst", _worst("first_byte_s"), "most", 0.05, 0.05),
    ("CPU a request, two workers ÷ one, worst", _workers("whole"), "most", 1.15, 1.0),
    ("the same, 32 paced streams", _workers("paced"), "most", 1.15, 1.0),
    ("the same, ÷ one worker with 16, as each of two has", _workers("paced", "half"), "most", 1.15, 1.0),
    ("the same, 16 streams as fast as they go", _workers("stream"), "most", 1.15, 1.0),
)


def goals() -> str:
    """Each row with what it must reach, and whether it does."""
    rows = []
    for name, read, kind, must, stretch in ROWS:
        value = read()
        sign = "≤" if kind == "most" else "≥"
        meets = [
            "–" if value is None else "yes" if (value <= goal if kind == "most" else value >= goal) else "no"
            for goal in (must, stretch)
        ]
        wanted = "–" if must > 1e9 else f"{sign} {must:g}"
        rows.append(
            [name, wanted, f"{sign} {stretch:g}", number(value), meets[0] if must < 1e9 else "–", meets[1]]
        )
    return table(["row", "must", "stretch", "here", "must met", "stretch met"], rows)


def footprint() -> str:
    """Start, memory, disk."""
    figures = found("footprint")
    if figures is None:
        return NOT_YET
    rows = [
        [
            name,
            number(figures["start_s"][name]),
            *(number(each[key], ".1f") for key in ("started_mb", "warm_mb", "after_mb")),
        ]
        for name, each in figures["memory"].items()
    ]
    head = ["", "start to first 200, s", "memory after the start, MB", "after a warm-up", "after 20,000 more"]
    disk = f"The core and what it needs take {number(figures.get('install_mb'), '.0f')} MB on disk."
    return "\n\n".join([where(figures["machine"]), table(head, rows), disk])


def workers() -> str:
    """One against two."""
    figures = found("workers")
    if figures is None:
        return NOT_YET

    def told(one: Mapping[str, Mapping[str, float]], each: str) -> str:
        return ", ".join(number(one[count][each], ".1f") for count in ("one", "half", "two", "apart"))

    rows = [
        [
            cell,
            *(number(one[count]["cpu_us"], ".0f") for count in ("one", "two")),
            *(number(one[count]["cpu_ratio"]) for count in ("two", "half", "apart")),
            *(number(one[count]["rps"], ".0f") for count in ("one", "two")),
            *(f"{one[count]['generator_share']:.0%}" for count in ("one", "two")),
            *(told(one, each) for each in ("calls", "preempted")),
        ]
        for cell, one in figures["cells"].items()
    ]
    head = ["", "CPU µs, one", "two", "two ÷ one", "half ÷ one", "apart ÷ one", "requests/s, one", "two"]
    head += ["generator's share of a core, one", "two"]
    each = "one, half, two, apart"
    head += [f"reads and writes a request: {each}", f"times taken off a core: {each}"]
    memory = figures["memory_mb"]
    words = f"Memory of all processes: {memory['one']:.0f} MB with one, {memory['two']:.0f} MB with two."
    return "\n\n".join([where(figures["machine"]), table(head, rows), words])


def strategies() -> str:
    """One row for each."""
    figures = found("strategies")
    if figures is None:
        return NOT_YET
    sizes = sorted(next(iter(figures["strategies"].values()))["crowds"], key=int)
    head = ["strategy", "calls", "depth", "alone", "streamed", *(f"{n} at once" for n in sizes)]
    head += ["CPU ms a call", "one by one", "first byte, s"]
    rows = [
        [
            f"`{name}`".replace("|", "\\|"),
            str(one["calls"]),
            str(one["depth"]),
            number(one["alone"], ".3f"),
            number(one["streamed"], ".3f"),
            *(number(one["crowds"][size], ".3f") for size in sizes),
            number(one["cpu_ms"]),
            number(one.get("cpu_one_by_one_ms")),
            number(one["first_byte_s"], ".3f"),
        ]
        for name, one in figures["strategies"].items()
    ]
    return "\n\n".join([where(figures["machine"]), table(head, rows)])


def printed(section: str) -> Callable[[], str]:
    """What a section has printed."""
    file = RESULTS / f"{section}.md"
    return lambda: file.read_text(encoding="utf-8").strip() if file.exists() else NOT_YET


PARTS: Mapping[str, Callable[[], str]] = {
    "goals": goals,
    "passthrough": passthrough,
    "footprint": footprint,
    "workers": workers,
    "strategies": strategies,
    "retrieval": printed("retrieval"),
    "recall": printed("recall"),
}

if __name__ == "__main__":
    write()
