"""What parent and worker say to each other: JSON, one message a line, over a socket pair."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from typing import Any

import orjson

#: A longer message is not one of ours.
LONGEST_BYTES = 1_000_000
#: Seconds that what nobody waits for may wait for company.
LATER_S = 0.01


class Line(asyncio.Protocol):
    """One end of a socket pair; made inside the running loop. `hear` gets each message of the other end.

    What is said within one turn of the loop is one write, and what is heard at once is answered in one: under
    load, a message costs its JSON and little more.
    """

    def __init__(self, hear: Callable[[Line, list[Any]], None]) -> None:
        self._hear = hear
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._begun = b""
        self._said: list[bytes] = []
        self._going: asyncio.Handle | None = None
        self._soon = False
        #: Done when the other end is gone.
        self.gone: asyncio.Future[None] = self._loop.create_future()

    @classmethod
    async def over(cls, end: socket.socket, hear: Callable[[Line, list[Any]], None]) -> Line:
        """The line over one end of the pair, which it owns from now on."""
        loop = asyncio.get_running_loop()
        _, line = await loop.create_connection(lambda: cls(hear), sock=end)
        return line

    def say(self, *message: Any, later: bool = False) -> None:
        """Send a message, `later` if there is no hurry. Once the other end is gone it is lost."""
        self._said.append(orjson.dumps(message))
        if later and self._going is None:
            self._going = self._loop.call_later(LATER_S, self._send)
        elif not later and not self._soon:
            if self._going is not None:
                self._going.cancel()
            self._soon = True
            self._going = self._loop.call_soon(self._send)

    def close(self) -> None:
        """Hang up, behind what has been said."""
        if self._going is not None:
            self._going.cancel()
        self._send()
        if self._transport is not None:
            self._transport.close()

    def _send(self) -> None:
        said, self._said = self._said, []
        self._going, self._soon = None, False
        if said and self._transport is not None and not self._transport.is_closing():
            self._transport.write(b"\n".join(said) + b"\n")

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Called by the loop."""
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        """Called by the loop."""
        *messages, self._begun = (self._begun + data).split(b"\n")
        if len(self._begun) > LONGEST_BYTES and self._transport is not None:
            self._transport.abort()
            return
        for message in messages:
            self._hear(self, orjson.loads(message))

    def connection_lost(self, exc: Exception | None) -> None:
        """Called by the loop."""
        if not self.gone.done():
            self.gone.set_result(None)
