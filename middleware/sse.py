"""Server-sent events on the wire: bytes in, event data out, and back."""

from __future__ import annotations

from typing import Any

import orjson

from veridical.strategies.errors import BackendFailed

DONE = b"data: [DONE]\n\n"


class EventReader:
    """Splits a byte stream into the data of its events, however the network cut it.

    Lines end in LF, CRLF or CR; comments and fields other than `data` are skipped; several data
    lines of one event are joined by LF (WHATWG HTML, "Server-sent events").
    """

    def __init__(self, max_event_bytes: int = 64_000_000) -> None:
        self._max = max_event_bytes
        self._begun: list[bytes] = []  # a line without its end
        self._begun_size = 0
        self._data: list[bytes] = []
        self._size = 0

    def feed(self, chunk: bytes) -> list[bytes]:
        """The data of every event that `chunk` completes.

        Raises:
            BackendFailed: one event is larger than the limit.
        """
        self._begun.append(chunk)
        self._begun_size += len(chunk)
        if b"\n" not in chunk and b"\r" not in chunk and not self._begun[0].endswith(b"\r"):
            return self._bounded([])  # one long line is joined once, not again with every chunk
        text = b"".join(self._begun)
        held = b""
        if text.endswith(b"\r"):  # it may be the first half of a CRLF
            text, held = text[:-1], b"\r"
        if b"\r" in text:
            text = text.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        *lines, rest = text.split(b"\n")
        self._begun = [rest + held] if rest or held else []
        self._begun_size = len(rest) + len(held)
        return self._bounded([event for line in lines if (event := self._line(line)) is not None])

    def _bounded(self, events: list[bytes]) -> list[bytes]:
        if self._begun_size > self._max:
            raise BackendFailed(f"The backend sent an event of over {self._max} bytes.")
        return events

    def _line(self, line: bytes) -> bytes | None:
        if not line:
            if not self._data:
                return None
            event, self._data, self._size = b"\n".join(self._data), [], 0
            return event
        if line.startswith(b"data:"):
            value = line[6:] if line.startswith(b"data: ") else line[5:]
            self._size += len(value)
            if self._size > self._max:
                raise BackendFailed(f"The backend sent an event of over {self._max} bytes.")
            self._data.append(value)
        return None

    def end(self) -> list[bytes]:
        """The last event, where the stream ended without the blank line that closes it."""
        return self.feed(b"\n\n") if self._begun or self._data else []


def event(data: Any) -> bytes:
    """One event that carries `data` as JSON."""
    return b"data: " + orjson.dumps(data) + b"\n\n"


def comment(words: str) -> bytes:
    """A comment, which clients skip: it keeps the connection alive."""
    return f": {words}\n\n".encode()
