"""The log: one line for each request, as text or as JSON. Probes and scrapes are lines of level debug."""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, TextIO

import orjson

from veridical.middleware.observing.observation import Observation
from veridical.middleware.observing.settings import ObservabilitySettings

log = logging.getLogger("veridical.access")
_PROBES = frozenset({"/health", "/ready", "/metrics"})
TEXT = "%(asctime)s %(levelname)s %(name)s: %(message)s"
#: ASCII without spaces, quotes and "=".
_SAFE = re.compile(r"[!#-<>-~]+")
#: Longest path that is logged; of a longer one its beginning.
MAX_PATH = 200


def write(seen: Observation) -> None:
    """Write the line of a request that is over."""
    level = logging.INFO
    if seen.path in _PROBES:
        level = logging.DEBUG
    elif seen.outcome == "error" and seen.status >= 500:
        level = logging.WARNING
    if log.isEnabledFor(level):
        log.handle(RequestRecord(level, told(seen)))


class RequestRecord(logging.LogRecord):
    """The record of a request's line. What the usual one looks up for each (file, thread, process, task) is
    not in the line, and takes longer than the rest of it."""

    def __init__(self, level: int, fields: Mapping[str, Any]) -> None:
        at = time.time()
        self.__dict__.update(_SAME)
        self.levelno, self.levelname = level, logging.getLevelName(level)
        self.created, self.msecs = at, at % 1 * 1000
        self.fields = fields


_SAME = logging.LogRecord(log.name, logging.INFO, __file__, 0, "request", None, None).__dict__


def told(seen: Observation) -> dict[str, Any]:
    """The fields of a request's line; what does not apply is left out."""
    calls = prompt = completion = 0
    for call in seen.calls:
        if not call.shared:
            calls += 1
            if call.usage:
                prompt += call.usage.prompt_tokens
                completion += call.usage.completion_tokens
    named = (
        ("id", seen.id),
        ("client_id", seen.client_id),
        ("key", seen.key),
        ("method", seen.method),
        ("path", seen.path[:MAX_PATH]),
        ("status", seen.status),
        ("outcome", seen.outcome),
        ("error", seen.error),
        ("fault", seen.fault),
        ("model", seen.model),
        ("strategy", seen.strategy),
        ("backend", seen.backend),
        ("calls", calls),
        ("prompt_tokens", prompt),
        ("completion_tokens", completion),
    )
    fields: dict[str, Any] = {name: value for name, value in named if value}
    fields["ms"] = round(seen.seconds * 1000, 1)
    if seen.first_byte is not None:
        fields["ttfb_ms"] = round(seen.first_byte * 1000, 1)
    if seen.trace_id:
        fields["trace_id"] = seen.trace_id
    return fields


class TextLines(logging.Formatter):
    """Lines for people; a record's fields stand behind its words as NAME=VALUE."""

    def __init__(self) -> None:
        super().__init__(TEXT)
        self._second, self._shown = 0, ""

    def formatTime(self, record: logging.LogRecord, datefmt: str | None = None) -> str:  # noqa: N802
        """The local time; that of a second is made once."""
        if self._second != (second := int(record.created)):
            self._second, self._shown = second, super().formatTime(record, "%Y-%m-%d %H:%M:%S")
        return f"{self._shown},{record.msecs:03.0f}"

    def format(self, record: logging.LogRecord) -> str:
        """One record."""
        fields = getattr(record, "fields", None)
        if not fields:
            return super().format(record)
        words = _shown(fields)
        return f"{self.formatTime(record)} {record.levelname} {record.name}: {record.msg} {words}"


def _shown(fields: Mapping[str, Any]) -> str:
    """Fields as NAME=VALUE, a value in quotes where it could be taken for more than one. One look at the
    whole tells that none could, as is usual."""
    words = _form(tuple(fields)) % tuple(fields.values())
    plain = words.isascii() and words.isprintable() and '"' not in words and "= " not in f"{words} "
    if plain and words.count("=") == len(fields) == words.count(" ") + 1:
        return words
    return " ".join([f"{name}={_plain(str(value))}" for name, value in fields.items()])


@lru_cache(maxsize=256)
def _form(names: tuple[str, ...]) -> str:
    return " ".join([f"{name}=%s" for name in names])


def _plain(text: str) -> str:
    return text if _SAFE.fullmatch(text) else orjson.dumps(text).decode()


class JsonLines(logging.Formatter):
    """One JSON object a line: time, level, logger, message, and a record's fields."""

    def format(self, record: logging.LogRecord) -> str:
        """One record."""
        line = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **getattr(record, "fields", {}),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return orjson.dumps(line, default=str).decode()


class _Lines(logging.StreamHandler[TextIO]):
    """To standard error, which flushes itself at the end of each line."""

    def flush(self) -> None:
        """Nothing is left to flush."""


def configure(settings: ObservabilitySettings, level: str) -> None:
    """Write the log of this process to standard error, as the settings want it."""
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False  # no line tells them
    handler = _Lines()
    handler.setFormatter(JsonLines() if settings.log_format == "json" else TextLines())
    logging.basicConfig(level=level.upper(), handlers=[handler])
