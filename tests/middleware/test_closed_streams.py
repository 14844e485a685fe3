"""A server that ends its connection behind a stream without saying so, as llama.cpp does."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterator

import pytest

from veridical.middleware.config import Settings
from veridical.tests.proxy import running_proxy

HEAD = b"HTTP/1.1 200 OK\r\nServer: llama.cpp\r\nConnection: keep-alive\r\n"
CHUNK = b'data: {"choices": [{"index": 0, "delta": {"content": "hi"}, "finish_reason": "stop"}]}\n\n'
WHOLE = {
    "choices": [{"index": 0, "message": {"role": "assistant", "content": "hi"}, "finish_reason": "stop"}]
}


async def _serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while head := await reader.readuntil(b"\r\n\r\n"):
            length = next(int(v) for k, v in _fields(head) if k == b"content-length")
            body = json.loads(await reader.readexactly(length))
            if body.get("stream"):
                data = CHUNK + b"data: [DONE]\n\n"
                framed = b"%x\r\n%b\r\n0\r\n\r\n" % (len(data), data)
                writer.write(
                    HEAD + b"Content-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n" + framed
                )
                await writer.drain()
                return
            raw = json.dumps(WHOLE).encode()
            writer.write(
                HEAD + b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(raw) + raw
            )
    except asyncio.IncompleteReadError:
        return
    finally:
        writer.close()


def _fields(head: bytes) -> Iterator[tuple[bytes, bytes]]:
    for line in head.split(b"\r\n")[1:]:
        name, _, value = line.partition(b":")
        yield name.lower(), value.strip()


@pytest.fixture
def port() -> Iterator[int]:
    loop = asyncio.new_event_loop()
    server = loop.run_until_complete(asyncio.start_server(_serve, "127.0.0.1", 0))
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    yield server.sockets[0].getsockname()[1]
    loop.call_soon_threadsafe(server.close)
    loop.call_soon_threadsafe(loop.stop)
    thread.join(5)
    loop.close()


def test_a_request_right_behind_a_stream_does_not_meet_a_closed_connection(port: int) -> None:
    backend = {"type": "http", "base_url": f"http://127.0.0.1:{port}/v1", "models": ["m1"]}
    with running_proxy(Settings.model_validate({"backends": {"up": backend}})) as proxy:
        assert proxy.chat().status == 200
        for _ in range(30):
            assert proxy.chat(stream=True).events[-1] == "[DONE]"
            assert proxy.chat().status == 200
