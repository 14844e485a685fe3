"""A client's connection: how large a request's head may be, and how long sending and reading may take.

uvicorn bounds none of these, so that a client could hold a connection, a run or memory for as long as it
likes. What is refused here never reaches the app; it is answered in OpenAI's shape where it can be.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import orjson
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from veridical.middleware.errors import error_type
from veridical.middleware.responding import WHEN_GONE

#: A body may take longer than `receive_timeout_s` if it keeps coming, by a second for so many bytes.
SLOWEST_BYTES_PER_S = 10_000


@dataclass(frozen=True, slots=True)
class ConnectionLimits:
    """What one connection may take; times in seconds. `connections` bounds how many there are."""

    connections: int = 4096
    head_bytes: int = 64_000
    receive_timeout_s: float = 30.0
    send_timeout_s: float = 60.0


class Joined:
    """A transport on which the head of an answer and what follows at once are one write: one system call,
    and one packet for the client to wake up for. A head that nothing follows goes out alone."""

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport, self._loop = transport, loop
        self._head: bytes | None = None
        self._begins = False

    def begin(self) -> None:
        """What is written next is a head."""
        self._begins = True

    def write(self, data: bytes) -> None:
        """Write, a head with what comes before the loop's next turn."""
        if self._begins:
            self._begins, self._head = False, data
            self._loop.call_soon(self._flush)
            return
        if self._head is not None:
            data, self._head = self._head + data, None
        self._transport.write(data)

    def close(self) -> None:
        """Close behind what is written."""
        self._flush()
        self._transport.close()

    def is_closing(self) -> bool:
        """Whether it is."""
        return self._transport.is_closing()

    def _flush(self) -> None:
        if self._head is not None:
            head, self._head = self._head, None
            self._transport.write(head)


class Connection(HttpToolsProtocol):
    """uvicorn's connection, within limits.

    A request must have come whole, and a new connection's first one begun, within `receive_timeout_s`
    (and the time that a body needs at the slowest rate); an answer must be read without a rest of
    `send_timeout_s`. Else the connection ends, and with it the request's work.
    """

    def __init__(self, *args: Any, limits: ConnectionLimits, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.limits = limits
        self._begun = 0  # requests, on this connection
        self._in_head = self._in_request = False
        self._head_bytes = 0
        self._since, self._received = 0.0, 0
        self._receiving: asyncio.TimerHandle | None = None
        self._sending: asyncio.TimerHandle | None = None
        self._joined: Joined | None = None
        self._when_gone: Callable[[], None] | None = None
        self._refusal = (400, "invalid_http", "The request is not valid HTTP.")

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Take a connection, unless there are too many."""
        super().connection_made(transport)
        self._joined = Joined(transport, self.loop)
        if len(self.connections) > self.limits.connections:
            self._refuse(503, "too_many_connections", "The proxy has too many connections.")
        else:
            self._await_request()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget it."""
        super().connection_lost(exc)
        self._whole()
        self._forget_sending()
        if self._when_gone is not None:
            self._when_gone()

    def when_gone(self, call: Callable[[], None] | None) -> None:
        """Call this when the client is gone, in place of what was said before."""
        self._when_gone = call

    # Receiving.

    def data_received(self, data: bytes) -> None:
        """Parse what came, as far as it stays within the limits."""
        begun, was_in_head = self._begun, self._in_head
        self._received += len(data)
        super().data_received(data)
        if was_in_head and self._in_head and begun == self._begun:
            self._head_bytes += len(data)  # what came with the head's beginning is looked at when it is whole
            if self._head_bytes > self.limits.head_bytes:
                self._refuse(*self._head_too_large())
        if self._receiving is None and self._is_idle():  # bytes that are no request yet
            self._await_request()

    def on_message_begin(self) -> None:
        """A request begins: it has its time from here."""
        super().on_message_begin()
        self._begun += 1
        self._in_head = self._in_request = True
        self._head_bytes = 0
        self._await_request()

    def on_headers_complete(self) -> None:
        """The head is whole: answer, unless it is too large.

        Raises:
            ValueError: it is; the parser takes that as the request's end.
        """
        self._in_head = False
        size = len(self.url) + sum(len(name) + len(value) + 4 for name, value in self.headers)
        if size > self.limits.head_bytes:
            self._refusal = self._head_too_large()
            raise ValueError
        self.scope["extensions"] = {WHEN_GONE: {"tell": self.when_gone}}
        super().on_headers_complete()
        if self._joined is not None and self.cycle is not None:
            self._joined.begin()
            self.cycle.transport = self._joined  # type: ignore[assignment]

    def on_message_complete(self) -> None:
        """The request is whole."""
        self._whole()
        self._in_request = False
        super().on_message_complete()

    def _await_request(self) -> None:
        self._whole()
        self._since, self._received = self.loop.time(), 0
        self._receiving = self.loop.call_later(self.limits.receive_timeout_s, self._late)

    def _whole(self) -> None:
        if self._receiving:
            self._receiving.cancel()
            self._receiving = None

    def _late(self) -> None:
        """End a connection whose request does not come, unless it is we who do not read."""
        allowed = self.limits.receive_timeout_s + self._received / SLOWEST_BYTES_PER_S
        left = self._since + allowed - self.loop.time()
        if left > 0 or self.flow.read_paused:
            self._receiving = self.loop.call_later(max(left, 1.0), self._late)
        elif self._in_request:
            self._refuse(408, "request_timeout", "The request did not come in time.")
        else:
            self._close()

    def _is_idle(self) -> bool:
        cycle: Any = self.cycle  # none before the first request, whatever its annotation says
        return cycle is None or bool(cycle.response_complete)

    # Refusing.

    def send_400_response(self, msg: str) -> None:
        """Answer what cannot be parsed, in place of uvicorn's plain text."""
        self._refuse(*self._refusal)

    def _head_too_large(self) -> tuple[int, str, str]:
        words = f"The request's head is over {self.limits.head_bytes} bytes."
        return 431, "request_header_fields_too_large", words

    def _refuse(self, status: int, code: str, message: str) -> None:
        """Say why and close; in the middle of another answer, only close."""
        self._whole()
        if self._is_idle() or not self.cycle.response_started:
            error = {"message": message, "type": error_type(status), "param": None, "code": code}
            body = orjson.dumps({"error": error})
            head = b"content-type: application/json\r\nconnection: close\r\ncontent-length: %d\r\n\r\n"
            self.transport.write(STATUS_LINE[status] + head % len(body) + body)
        self._close()

    # Sending.

    def pause_writing(self) -> None:
        """The client does not read what is sent: it has its time from here."""
        super().pause_writing()
        self._expect_reading()

    def resume_writing(self) -> None:
        """It reads."""
        super().resume_writing()
        if not self.transport.is_closing():  # what is left then must be read in time too
            self._forget_sending()

    def on_response_complete(self) -> None:
        """The answer is written: its last part must be read in time too where the connection closes."""
        super().on_response_complete()
        if self.transport.is_closing():
            self._expect_reading()

    def timeout_keep_alive_handler(self) -> None:
        """No further request came."""
        self._close()

    def _close(self) -> None:
        self.transport.close()
        self._expect_reading()

    def _forget_sending(self) -> None:
        if self._sending:
            self._sending.cancel()
            self._sending = None

    def _expect_reading(self) -> None:
        if self._sending is None:
            self._sending = self.loop.call_later(self.limits.send_timeout_s, self.transport.abort)
