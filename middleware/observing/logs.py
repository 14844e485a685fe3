"""The log: one line for each request, as text or as JSON. Probes and scrapes are lines of level debug."""

from __future__ import annotations

import logging
import re
from datetime import UTC, datetime
from typing import Any

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
    if log.isEnabledFor(level):  # made here: `log.log` would walk the stack for where it was called
        record = logging.LogRecord(log.name, level, __file__, 0, "request", None, None)
        record.fields = told(seen)
        log.handle(record)


def told(seen: Observation) -> dict[str, Any]:
    """The fields of a request's line; what does not apply is left out."""
    usage = seen.usage
    first = seen.first_byte
    fields = {
        "id": seen.id,
        "client_id": seen.client_id,
        "key": seen.key,
        "method": seen.method,
        "path": seen.path[:MAX_PATH],
        "status": seen.status,
        "outcome": seen.outcome,
        "error": seen.error,
        "fault": seen.fault,
        "model": seen.model,
        "strategy": seen.strategy,
        "backend": seen.backend,
        "calls": len(seen.made) or None,
        "prompt_tokens": usage.prompt_tokens or None,
        "completion_tokens": usage.completion_tokens or None,
        "ms": round(seen.seconds * 1000, 1),
        "ttfb_ms": None if first is None else round(first * 1000, 1),
        "trace_id": seen.trace_id,
    }
    return {name: value for name, value in fields.items() if value not in ("", None)}


class TextLines(logging.Formatter):
    """Lines for people; a record's fields stand behind its words as NAME=VALUE."""

    def __init__(self) -> None:
        super().__init__(TEXT)

    def format(self, record: logging.LogRecord) -> str:
        """One record."""
        line = super().format(record)
        fields = getattr(record, "fields", None)
        return f"{line} {' '.join(f'{k}={_plain(v)}' for k, v in fields.items())}" if fields else line


def _plain(value: Any) -> str:
    """A value as it is, or in quotes where it could be taken for more than one."""
    text = str(value)
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


def configure(settings: ObservabilitySettings, level: str) -> None:
    """Write the log of this process to standard error, as the settings want it."""
    handler = logging.StreamHandler()
    handler.setFormatter(JsonLines() if settings.log_format == "json" else TextLines())
    logging.basicConfig(level=level.upper(), handlers=[handler])
