"""One chat request on the bare socket, and a sound answer to it: what faults are made of.

The model behind it says something that fits whatever it is asked: a value of the schema, else a sentence
that tells one prompt from another, and is always the same for the same prompt.
"""

import json
import socket
import struct
import zlib
from asyncio import StreamReader, StreamWriter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from veridical.tests.answers import text_of
from veridical.tests.clients.servers import made

JSON, EVENTS = "application/json", "text/event-stream"
USAGE = {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10}
DONE = b"data: [DONE]\n\n"


@dataclass
class Call:
    """A chat request that came, on the socket on which it came."""

    reader: StreamReader
    writer: StreamWriter
    headers: Mapping[str, str]
    body: Mapping[str, Any]
    extra: bytes = field(default=b"")

    @property
    def streamed(self) -> bool:
        return bool(self.body.get("stream"))

    def text(self) -> str:
        last = text_of(self.body["messages"][-1])
        wanted = self.body.get("response_format") or {}
        if wanted.get("type") == "json_schema":
            return json.dumps(made(wanted["json_schema"]["schema"], ""))
        return f"The capital of Australia is Canberra, says answer {100 + zlib.crc32(last.encode()) % 900}."

    def completion(self, **message: Any) -> dict[str, Any]:
        said = {"role": "assistant", "content": self.text(), **message}
        choices = [
            {"index": index, "message": said, "finish_reason": "stop"}
            for index in range(self.body.get("n") or 1)
        ]
        return {**self._head("chat.completion"), "choices": choices, "usage": USAGE}

    def chunks(self) -> list[dict[str, Any]]:
        """Role, words, finish reason, usage."""
        text, head = self.text(), self._head("chat.completion.chunk")
        deltas = [{"role": "assistant", "content": ""}, *({"content": part} for part in cut(text, 12))]
        said = [{**head, "choices": [{"index": 0, "delta": delta}]} for delta in deltas]
        last = {**head, "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}
        return [*said, last, {**head, "choices": [], "usage": USAGE}]

    def _head(self, kind: str) -> dict[str, Any]:
        return {"id": "chatcmpl-up", "object": kind, "created": 1, "model": self.body["model"]}

    async def write(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def begin(self, media: str, status: str = "200 OK", length: int | None = None) -> None:
        """Status and headers; chunked where no length is given."""
        size = f"Content-Length: {length}" if length is not None else "Transfer-Encoding: chunked"
        head = f"HTTP/1.1 {status}\r\nContent-Type: {media}\r\n{size}\r\n".encode()
        await self.write(head + self.extra + b"\r\n")

    async def chunk(self, data: bytes) -> None:
        await self.write(b"%x\r\n%b\r\n" % (len(data), data))

    async def whole(self, raw: bytes, media: str = JSON, status: str = "200 OK") -> None:
        await self.begin(media, status, len(raw))
        await self.write(raw)

    async def events(self, parts: Sequence[bytes], media: str = EVENTS) -> None:
        await self.begin(media)
        for part in parts:
            await self.chunk(part)
        await self.write(b"0\r\n\r\n")

    async def answer(self, media: str | None = None) -> None:
        """Soundly."""
        if self.streamed:
            await self.events([*map(sse, self.chunks()), DONE], media or EVENTS)
        else:
            await self.whole(raw_json(self.completion()), media or JSON)

    async def same(self, found: Mapping[str, Any]) -> None:
        """One object, as the body or as the only event."""
        if self.streamed:
            await self.events([sse(found), DONE])
        else:
            await self.whole(raw_json(found))

    def reset(self) -> None:
        """Break the connection with a RST."""
        found: socket.socket = self.writer.get_extra_info("socket")
        found.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()


def cut(text: str, size: int) -> list[str]:
    return [text[at : at + size] for at in range(0, len(text), size)]


def raw_json(found: Any) -> bytes:
    return json.dumps(found, ensure_ascii=False).encode()


def sse(found: Any) -> bytes:
    return b"data: " + raw_json(found) + b"\n\n"
