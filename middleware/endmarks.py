"""How a relayed stream that is whole ends, by API: one that stops short must not look complete."""

from __future__ import annotations

import re
from typing import Any, Protocol

import orjson

from veridical.middleware.sse import event

_TERMINAL = re.compile(rb'"type"\s*:\s*"(?:response\.(?:completed|incomplete|failed)|error)"')
_HEAD_BYTES = 400
_TAIL_BYTES = 4096


class EndMark(Protocol):
    """Watches a stream pass."""

    def feed(self, events: bytes) -> None:
        """See events that are sent on."""
        ...

    def ended(self, rest: bytes) -> bool:
        """Whether the stream may end here, with an unended event `rest` behind it."""
        ...

    def failure(self, error: dict[str, Any]) -> bytes | None:
        """The event to end a broken stream with; None where the API has none: the connection breaks."""
        ...


class ChatEnd:
    """Chat and text completions: [DONE], or a finish reason shortly before the end."""

    def __init__(self) -> None:
        self._tail = b""

    def feed(self, events: bytes) -> None:
        """See `EndMark`."""
        self._tail = (self._tail + events)[-_TAIL_BYTES:]

    def ended(self, rest: bytes) -> bool:
        """See `EndMark`."""
        return b"[DONE]" in self._tail + rest or b'"finish_reason":"' in self._tail.replace(b" ", b"")

    def failure(self, error: dict[str, Any]) -> bytes | None:
        """See `EndMark`."""
        return b"\n\n" + event({"error": error})


class ResponsesEnd:
    """Responses: the last event is a terminal one. It holds the whole response, so its head is kept."""

    def __init__(self) -> None:
        self._head = b""

    def feed(self, events: bytes) -> None:
        """See `EndMark`."""
        at = (b"\n" + events).rfind(b"\ndata:")
        if at >= 0:
            self._head = events[at : at + _HEAD_BYTES]

    def ended(self, rest: bytes) -> bool:
        """See `EndMark`."""
        self.feed(rest)
        return _TERMINAL.search(self._head) is not None

    def failure(self, error: dict[str, Any]) -> bytes | None:
        """See `EndMark`."""
        words = {name: error.get(name) for name in ("code", "message", "param")}
        return (
            b"\n\nevent: error\ndata: " + orjson.dumps({"type": "error", **words, "error": error}) + b"\n\n"
        )


class NoEnd:
    """Any other stream: its end is known by the connection alone."""

    def feed(self, events: bytes) -> None:
        """See `EndMark`."""

    def ended(self, rest: bytes) -> bool:
        """See `EndMark`."""
        return True

    def failure(self, error: dict[str, Any]) -> bytes | None:
        """See `EndMark`."""
        return None
