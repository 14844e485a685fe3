"""How a scripted upstream answers one request: soundly, with an error, broken, or in exact bytes."""

import asyncio
import json
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web


@dataclass
class Exchange:
    """One logged request. `gone` is set when the client closes before it has its whole answer."""

    method: str
    path: str
    headers: Mapping[str, str]
    raw: bytes
    at: float
    peer: Any = None
    target: str = ""
    step: str = ""
    body: dict[str, Any] = field(default_factory=dict)
    gone: threading.Event = field(default_factory=threading.Event)
    answered: bool = False

    @property
    def prompt(self) -> str:
        """All text of the request's messages."""
        return "\n".join(map(text_of, self.body["messages"]))


def text_of(message: Mapping[str, Any]) -> str:
    content = message.get("content")
    if isinstance(content, list):
        return "\n".join(part.get("text", "") for part in content)
    return content or ""


class Answer(ABC):
    """How one chat request is answered."""

    @abstractmethod
    async def give(self, exchange: Exchange, out: "Out") -> None: ...


@dataclass(frozen=True)
class Say(Answer):
    """A sound answer. Streamed, it goes out as `deltas`, or its message in pieces of `cut` characters."""

    text: str | None = ""
    prompt_tokens: int = 7
    completion_tokens: int = 3
    delay: float = 0.0
    cut: int = 9
    deltas: Sequence[Mapping[str, Any]] | None = None
    message: Mapping[str, Any] = field(default_factory=dict)
    logprobs: Any = None
    finish: str = "stop"
    usage: bool = True
    extra: Mapping[str, Any] = field(default_factory=dict)

    async def give(self, exchange: Exchange, out: "Out") -> None:
        await asyncio.sleep(self.delay)
        if exchange.body.get("stream"):
            await out.events(self.chunks(exchange.body))
        else:
            await out.whole(200, json.dumps(self.completion(exchange.body), ensure_ascii=False).encode())

    def completion(self, body: Mapping[str, Any]) -> dict[str, Any]:
        message = {"role": "assistant", "content": self.text, **self.message}
        choice = {"index": 0, "message": message, "logprobs": self.logprobs, "finish_reason": self.finish}
        usage = {"usage": self._usage()} if self.usage else {}
        return {**_head(body, "chat.completion"), "choices": [choice], **usage, **self.extra}

    def _usage(self) -> dict[str, int]:
        total = self.prompt_tokens + self.completion_tokens
        return {
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": self.completion_tokens,
            "total_tokens": total,
        }

    def pieces(self) -> list[Mapping[str, Any]]:
        if self.deltas is not None:
            return list(self.deltas)
        text = self.text or ""
        first = {"role": "assistant", "content": "", **self.message}
        return [first, *({"content": text[i : i + self.cut]} for i in range(0, len(text), self.cut))]

    def chunks(self, body: Mapping[str, Any]) -> list[dict[str, Any]]:
        head = {**_head(body, "chat.completion.chunk"), **self.extra}
        choices = [{"index": 0, "delta": piece, "finish_reason": None} for piece in self.pieces()]
        if self.logprobs:
            choices[-1]["logprobs"] = self.logprobs
        choices.append({"index": 0, "delta": {}, "finish_reason": self.finish})
        chunks = [{**head, "choices": [choice]} for choice in choices]
        if self.usage and (body.get("stream_options") or {}).get("include_usage"):
            chunks.append({**head, "choices": [], "usage": self._usage()})
        return chunks


def _head(body: Mapping[str, Any], kind: str) -> dict[str, Any]:
    return {"id": "chatcmpl-up", "object": kind, "created": 1700000000, "model": body.get("model")}


@dataclass(frozen=True)
class Held(Answer):
    """An answer that waits until the test releases it."""

    answer: Answer
    release: threading.Event

    async def give(self, exchange: Exchange, out: "Out") -> None:
        while not self.release.is_set():  # noqa: ASYNC110 - it is set in the test's thread
            await asyncio.sleep(0.01)
        await self.answer.give(exchange, out)


@dataclass(frozen=True)
class Halfway(Answer):
    """A streamed answer that goes out up to its last words, which wait until the test releases them."""

    answer: Say
    release: threading.Event

    async def give(self, exchange: Exchange, out: "Out") -> None:
        *begin, words, end = self.answer.chunks(exchange.body)
        await out.begin()
        for chunk in begin:
            await out.write(sse(chunk))
        while not self.release.is_set():  # noqa: ASYNC110 - it is set in the test's thread
            await asyncio.sleep(0.01)
        for chunk in (words, end):
            await out.write(sse(chunk))
        await out.write(b"data: [DONE]\n\n")


@dataclass(frozen=True)
class Fail(Answer):
    """An error answer. `error` replaces OpenAI's shape."""

    status: int
    message: str = "the upstream says no"
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes | None = None

    async def give(self, exchange: Exchange, out: "Out") -> None:
        found = {"message": self.message, "type": "upstream_error", "param": "model", "code": "from_upstream"}
        raw = self.body if self.body is not None else json.dumps({"error": found}).encode()
        await out.whole(self.status, raw, headers=self.headers)


@dataclass(frozen=True)
class Whole(Answer):
    """Exactly these bytes; `length` declares another size, so that the body breaks off."""

    raw: bytes
    status: int = 200
    content_type: str = "application/json"
    length: int | None = None
    headers: Mapping[str, str] = field(default_factory=dict)

    async def give(self, exchange: Exchange, out: "Out") -> None:
        await out.whole(self.status, self.raw, self.content_type, headers=self.headers, length=self.length)


class Cut:
    """Among `Pieces`: the connection breaks here."""


@dataclass(frozen=True)
class Pieces(Answer):
    """An event stream of exactly these pieces: bytes, each its own write, seconds of silence, or a `Cut`."""

    parts: Sequence[bytes | float | Cut]
    content_type: str = "text/event-stream"

    async def give(self, exchange: Exchange, out: "Out") -> None:
        await out.begin(self.content_type)
        for part in self.parts:
            if isinstance(part, Cut):
                out.abort()
                return
            if isinstance(part, bytes):
                await out.write(part)
            await asyncio.sleep(0.003 if isinstance(part, bytes) else part)


#: What a step is answered with: one answer for all, one after the other (the last stays), or by request.
Script = Answer | list[Answer] | Callable[[Exchange], Answer]


class Out:
    """The answering side of one exchange."""

    def __init__(self, request: web.Request) -> None:
        self.request = request
        self.response: web.StreamResponse | None = None

    async def whole(
        self,
        status: int,
        raw: bytes,
        content_type: str = "application/json",
        *,
        headers: Mapping[str, str] | None = None,
        length: int | None = None,
    ) -> None:
        self.response = web.StreamResponse(status=status, headers=headers)
        self.response.content_type = content_type
        self.response.content_length = len(raw) if length is None else length
        await self.response.prepare(self.request)
        if self.request.method != "HEAD":
            await self.response.write(raw)
        if length is not None:
            self.abort()

    async def begin(self, content_type: str = "text/event-stream") -> None:
        self.response = web.StreamResponse()
        self.response.content_type = content_type
        await self.response.prepare(self.request)

    async def events(self, chunks: Sequence[Mapping[str, Any]]) -> None:
        await self.begin()
        for chunk in chunks:
            await self.write(sse(chunk))
            await asyncio.sleep(0)
        await self.write(b"data: [DONE]\n\n")

    async def write(self, data: bytes) -> None:
        assert self.response is not None
        await self.response.write(data)

    def abort(self) -> None:
        assert self.request.transport is not None
        self.request.transport.close()


def sse(data: Any) -> bytes:
    """One event, as OpenAI writes it."""
    return b"data: " + json.dumps(data, ensure_ascii=False).encode() + b"\n\n"
