"""Progress with the time left and the running score: bars on a terminal, lines in a log."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import rich.progress
from rich.console import Console

from veridical.evals.recording import Cell
from veridical.evals.records import Record

#: Seconds between two lines where there is no terminal.
LINE_EVERY_S = 15.0


@dataclass
class Tally:
    """The running mean of a cell's headline metric."""

    total: int
    done: int = 0
    failed: int = 0
    unparsable: int = 0
    values: dict[str, list[float]] = field(default_factory=dict)
    metrics: Sequence[str] = ()

    def add(self, record: Record) -> None:
        """Count one record."""
        self.done += 1
        self.failed += not record.graded
        self.unparsable += not record.parsed
        if len(record.scores) > len(self.metrics):  # an abstention lacks the headline
            self.metrics = list(record.scores)
        for name, value in record.scores.items():
            self.values.setdefault(name, []).append(value)

    def __str__(self) -> str:
        values = self.values[self.metrics[0]] if self.metrics else []
        parts = [f"{self.metrics[0]} {sum(values) / len(values):.3f}" if values else "no score yet"]
        parts += [f"{self.unparsable} unparsable"] if self.unparsable else []
        parts += [f"{self.failed} failed"] if self.failed else []
        return ", ".join(parts)


@dataclass(frozen=True)
class Progress:
    """Shows cells on a console, which is best standard error."""

    console: Console = field(default_factory=lambda: Console(stderr=True))

    def say(self, line: str) -> None:
        """One line between cells."""
        self.console.print(line, markup=False, highlight=False, soft_wrap=True)

    @contextmanager
    def cell(self, cell: Cell, total: int, finished: Sequence[Record]) -> Iterator[Callable[[Record], None]]:
        """Follow one cell; `finished` are the records of earlier runs. Call what it yields per record."""
        tally = Tally(total)
        for record in finished:
            tally.add(record)
        follow = self._bar if self.console.is_terminal else self._lines
        with follow(cell, tally) as show:
            yield show
        kept = f" ({len(finished)} from before)" if finished else ""
        self.say(f"{cell}: {tally.done}/{total}{kept}, {tally}")

    @contextmanager
    def _bar(self, cell: Cell, tally: Tally) -> Iterator[Callable[[Record], None]]:
        columns = (
            rich.progress.TextColumn("{task.description}"),
            rich.progress.BarColumn(),
            rich.progress.MofNCompleteColumn(),
            rich.progress.TimeElapsedColumn(),
            rich.progress.TimeRemainingColumn(),
            rich.progress.TextColumn("{task.fields[score]}"),
        )
        with rich.progress.Progress(*columns, console=self.console, transient=True) as bars:
            name = str(cell).replace("[", "\\[")
            bar = bars.add_task(name, total=tally.total, completed=tally.done, score=str(tally))

            def show(record: Record) -> None:
                tally.add(record)
                bars.update(bar, completed=tally.done, score=str(tally))

            yield show

    @contextmanager
    def _lines(self, cell: Cell, tally: Tally) -> Iterator[Callable[[Record], None]]:
        start, before = time.monotonic(), tally.done
        last = start

        def show(record: Record) -> None:
            nonlocal last
            tally.add(record)
            now = time.monotonic()
            if now - last >= LINE_EVERY_S:
                last = now
                left = (now - start) / (tally.done - before) * (tally.total - tally.done)
                self.say(f"{cell}: {tally.done}/{tally.total}, {tally}, {_spelled(left)} left")

        yield show


def _spelled(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}"
