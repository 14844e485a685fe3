"""A backend that costs next to nothing: one short answer, or a stream of 50 events. For benchmarks only.

    python benchmarks/fast_upstream.py --port 9110

A stream comes as fast as it can; with `"user": "paced"` in the request an event every 10 ms.
"""

from __future__ import annotations

import argparse
import asyncio
import json
from typing import Any, cast

EVENTS = 50
GAP_S = 0.01
WORDS = "The Eiffel Tower in Paris was finished in 1889 and is 330 metres tall. " * 4
USAGE = {"prompt_tokens": 40, "completion_tokens": 60, "total_tokens": 100}


def head(kind: bytes, more: bytes) -> bytes:
    """A response's head."""
    return b"HTTP/1.1 200 OK\r\ncontent-type: " + kind + b"\r\n" + more + b"\r\n\r\n"


def whole(found: dict[str, Any]) -> bytes:
    """A JSON response."""
    body = json.dumps(found).encode()
    return head(b"application/json", b"content-length: %d" % len(body)) + body


def chunk(data: bytes) -> bytes:
    """One event as a chunk of HTTP."""
    event = b"data: " + data + b"\n\n"
    return b"%x\r\n%s\r\n" % (len(event), event)


def delta(fields: dict[str, Any], finish: str | None = None) -> bytes:
    """One event of a chat's stream."""
    choice = {"index": 0, "delta": fields, "finish_reason": finish}
    told = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "m"}
    return chunk(json.dumps({**told, "choices": [choice]}).encode())


MESSAGE = {"role": "assistant", "content": WORDS}
ANSWER = whole(
    {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1,
        "model": "m",
        "choices": [{"index": 0, "message": MESSAGE, "finish_reason": "stop"}],
        "usage": USAGE,
    }
)
MODELS = whole({"object": "list", "data": [{"id": "m", "object": "model", "created": 1, "owned_by": "me"}]})
STREAM = head(b"text/event-stream", b"transfer-encoding: chunked")
PIECES = [
    delta({"role": "assistant", "content": ""}),
    *(delta({"content": f"word{n} "}) for n in range(EVENTS - 2)),
    delta({}, "stop"),
]
END = chunk(b"[DONE]") + b"0\r\n\r\n"


class Connection(asyncio.Protocol):
    """One client's connection."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)  # uvloop's has no such base class
        self.data, self.streaming = b"", set[asyncio.Task[None]]()

    def connection_lost(self, error: Exception | None) -> None:
        for task in self.streaming:
            task.cancel()

    def data_received(self, data: bytes) -> None:
        self.data += data
        while (end := self.data.find(b"\r\n\r\n")) >= 0:
            start = self.data[:end].lower()
            _, found, rest = start.partition(b"content-length:")
            length = int(rest.split(b"\r\n")[0]) if found else 0
            if len(self.data) < end + 4 + length:
                return
            body, self.data = self.data[end + 4 : end + 4 + length], self.data[end + 4 + length :]
            self.answer(start, body)

    def answer(self, start: bytes, body: bytes) -> None:
        """Answer one request."""
        if start.startswith(b"get"):
            self.transport.write(MODELS)
        elif b'"stream":true' not in body.replace(b" ", b""):
            self.transport.write(ANSWER)
        else:
            task = asyncio.get_running_loop().create_task(self.stream(GAP_S if b'"paced"' in body else 0))
            self.streaming.add(task)
            task.add_done_callback(self.streaming.discard)

    async def stream(self, gap_s: float) -> None:
        """Send the events, each in a write of its own."""
        self.transport.write(STREAM)
        for piece in PIECES:
            self.transport.write(piece)
            await asyncio.sleep(gap_s)
        self.transport.write(END)


async def main() -> None:
    """Serve until ended."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, default=9110)
    port = parser.parse_args().port
    server = await asyncio.get_running_loop().create_server(Connection, "127.0.0.1", port, backlog=1024)
    await server.serve_forever()


if __name__ == "__main__":
    import uvloop

    uvloop.run(main())
