"""What parent and worker say to each other: JSON, one message a line, over a socket pair."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from typing import Any

import orjson

#: A longer message is not one of ours.
LONGEST_BYTES = 1_000_000


class Line:
    """One end of a socket pair; made inside the running loop."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer

    @classmethod
    async def over(cls, end: socket.socket) -> Line:
        """The line over one end of the pair, which it owns from now on."""
        return cls(*await asyncio.open_connection(sock=end, limit=LONGEST_BYTES))

    def say(self, *message: Any) -> None:
        """Send a message; nobody waits for it, and once the other end is gone it is lost."""
        if not self._writer.is_closing():
            self._writer.write(orjson.dumps(message) + b"\n")

    async def heard(self) -> AsyncIterator[list[Any]]:
        """What the other end says, until it is gone."""
        try:
            while line := await self._reader.readline():
                yield orjson.loads(line)
        except ConnectionError:
            return

    def close(self) -> None:
        """Hang up."""
        self._writer.close()
