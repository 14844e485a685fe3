"""What these tests share: a log that is kept, and metrics read as Prometheus reads them."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from veridical.middleware.observing.logs import JsonLines, TextLines
from veridical.tests.proxy import Proxy, wait_until


@dataclass
class Log(logging.Handler):
    """Every record of every logger, and the lines that our formatters make of them."""

    records: list[logging.LogRecord] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__(logging.DEBUG)

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)

    @property
    def access(self) -> list[dict[str, Any]]:
        """The fields of the requests' lines so far."""
        return self.fields("veridical.access")

    def fields(self, logger: str) -> list[dict[str, Any]]:
        return [
            record.fields for record in self.records if record.name == logger and hasattr(record, "fields")
        ]

    def lines(self, count: int, logger: str = "veridical.access") -> list[dict[str, Any]]:
        """The fields of this many lines, once they are written: an answer is read before its line is."""
        wait_until(lambda: len(self.fields(logger)) >= count, 20)
        assert len(self.fields(logger)) == count
        return self.fields(logger)

    @property
    def text(self) -> str:
        """All lines, in both formats."""
        formats = (TextLines(), JsonLines())
        return "\n".join(each.format(record) for record in self.records for each in formats)

    __hash__ = logging.Handler.__hash__


@pytest.fixture
def log() -> Iterator[Log]:
    handler, root = Log(), logging.getLogger()
    level = root.level
    root.addHandler(handler)
    root.setLevel(logging.DEBUG)
    yield handler
    root.removeHandler(handler)
    root.setLevel(level)


@dataclass(frozen=True)
class Scrape:
    """One reading of /metrics."""

    raw: str

    def value(self, name: str, **labels: str) -> float:
        """The sum of the samples of this name that have these labels."""
        return sum(sample.value for sample in self.samples(name) if labels.items() <= sample.labels.items())

    def samples(self, name: str) -> list[Any]:
        families = text_string_to_metric_families(self.raw)
        return [sample for family in families for sample in family.samples if sample.name == name]

    def labels(self, name: str, label: str) -> set[str]:
        return {sample.labels[label] for sample in self.samples(name)}


def scraped(proxy: Proxy, running: int = 0) -> Scrape:
    """The metrics once no more than this many requests run beside the scrape itself."""
    until = time.monotonic() + 20
    while True:
        response = proxy.request("GET", "/metrics")
        assert response.status == 200, response.raw
        seen = Scrape(response.raw.decode())
        if seen.value("veridical_requests_running") == running + 1:
            return seen
        assert time.monotonic() < until, "requests do not end"
