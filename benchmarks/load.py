"""A load generator for one chat endpoint: keep-alive connections that each send one request after the other.

    python benchmarks/load.py URL --connections 16 --seconds 2 [--stream [--paced]] [--pid PID]

Prints a line of JSON: requests per second, times in milliseconds, events per second, and the processor time
that the process PID and its children took for a request. That is the steady figure on a shared machine.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import time
from dataclasses import dataclass, field
from typing import Any, cast
from urllib.parse import urlsplit

import uvloop
from measuring import cpu_s

QUESTION = "When was the Eiffel Tower finished, and how tall is it? Answer in two sentences."
TIMEOUT_S = 60.0


@dataclass
class Seen:
    """What came back, in seconds."""

    took: list[float] = field(default_factory=list)
    first: list[float] = field(default_factory=list)
    events: int = 0
    failed: int = 0


class Connection(asyncio.Protocol):
    """Sends the same request again and again, and reads just enough to know when its answer is over."""

    def __init__(self, request: bytes, streams: bool) -> None:
        self.request, self.streams = request, streams
        self.transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)  # uvloop's has no such base class

    def connection_lost(self, error: Exception | None) -> None:
        self.transport = None
        if not self.over.done():
            self.over.set_exception(ConnectionError("closed"))

    async def ask(self, seen: Seen) -> None:
        """One request."""
        assert self.transport is not None
        self.data, self.first, self.events = b"", 0.0, 0
        self.over = asyncio.get_running_loop().create_future()
        began = time.perf_counter()
        self.transport.write(self.request)
        await asyncio.wait_for(self.over, TIMEOUT_S)
        seen.took.append(time.perf_counter() - began)
        if self.streams:
            seen.first.append(self.first - began)
            seen.events += self.events

    def data_received(self, data: bytes) -> None:
        if self.streams:
            if not self.first and b"data:" in data:
                self.first = time.perf_counter()
            self.events += data.count(b"data: {")
            self.data = (self.data + data)[-64:] if self.data else data
            if self.data.endswith(b"\r\n0\r\n\r\n"):
                self.end(b" 200 " in data[:15] or bool(self.first))
            return
        self.data += data
        head, found, body = self.data.partition(b"\r\n\r\n")
        if found:
            _, _, rest = head.lower().partition(b"content-length:")
            if rest and len(body) >= int(rest.split(b"\r\n")[0]):
                self.end(b" 200 " in head[:15])

    def end(self, well: bool) -> None:
        """The answer is whole."""
        if not self.over.done():
            if well:
                self.over.set_result(None)
            else:
                self.over.set_exception(ValueError("not answered with 200"))


def request_for(url: str, key: str, model: str, *, stream: bool, paced: bool) -> bytes:
    """The bytes of a chat request."""
    parts = urlsplit(url)
    body: dict[str, Any] = {
        "model": model,
        "messages": [
            {"role": "system", "content": "You are a helpful assistant."},
            {"role": "user", "content": QUESTION},
        ],
        "temperature": 0.2,
        "max_tokens": 256,
    }
    body |= {"stream": True} if stream else {}
    body |= {"user": "paced"} if paced else {}
    raw = json.dumps(body).encode()
    lines = [
        f"POST {parts.path} HTTP/1.1",
        f"host: {parts.netloc}",
        "content-type: application/json",
        f"authorization: Bearer {key}",
        f"content-length: {len(raw)}",
    ]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + raw


async def run(options: argparse.Namespace) -> dict[str, float]:
    """Keep all connections busy for as long as is asked for, and say what came of it."""
    parts = urlsplit(options.url)
    request = request_for(options.url, options.key, options.model, stream=options.stream, paced=options.paced)
    seen = Seen()
    before, began = cpu_s(options.pid) if options.pid else 0.0, time.perf_counter()

    async def keep_asking() -> None:
        connection = Connection(request, options.stream)
        while time.perf_counter() < began + options.seconds:
            try:
                if connection.transport is None:
                    loop = asyncio.get_running_loop()
                    await loop.create_connection(lambda: connection, parts.hostname, parts.port)
                await connection.ask(seen)
            except (OSError, ValueError, TimeoutError):
                seen.failed += 1
                if connection.transport:
                    connection.transport.abort()
                    connection.transport = None
        if connection.transport:
            connection.transport.close()

    mine = os.times()
    await asyncio.gather(*(keep_asking() for _ in range(options.connections)))
    took, spent = time.perf_counter() - began, os.times()
    own = spent.user + spent.system - mine.user - mine.system
    found = {"requests": len(seen.took), "failed": seen.failed, "generator_share": own / took}
    if not seen.took:
        return found
    found |= {
        "rps": len(seen.took) / took,
        "p50_ms": 1e3 * statistics.median(seen.took),
        "p99_ms": 1e3 * sorted(seen.took)[int(0.99 * len(seen.took))],
    }
    if options.stream:
        found |= {"first_ms": 1e3 * statistics.median(seen.first), "events_s": seen.events / took}
    if options.pid:
        found["cpu_us"] = 1e6 * (cpu_s(options.pid) - before) / len(seen.took)
    return found


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("url")
    parser.add_argument("--connections", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--stream", action="store_true")
    parser.add_argument("--paced", action="store_true", help="an event every 10 ms")
    parser.add_argument("--model", default="m")
    parser.add_argument("--key", default="sk-benchmark")
    parser.add_argument("--pid", type=int)
    print(json.dumps(uvloop.run(run(parser.parse_args()))))


if __name__ == "__main__":
    main()
