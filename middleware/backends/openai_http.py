"""Any OpenAI-compatible server over HTTP, on the process's one aiohttp pool."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, TypeGuard

import aiohttp
import orjson

from veridical.middleware.backends.exchange import Exchange, Origin, Sessions, exchange
from veridical.middleware.backends.relay import Outgoing, Underway
from veridical.middleware.nesting import too_deep
from veridical.middleware.sse import EventReader
from veridical.strategies.backend import ChatRequest
from veridical.strategies.errors import (
    BackendError,
    BackendFailed,
    BackendTimeout,
    BackendUnreachable,
    InvalidRequest,
    refused_with,
)
from veridical.strategies.reply import Ending, Reply
from veridical.strategies.types import Answer, Delta, Params, Usage

#: Top-level fields of a completion that we make ourselves; the others are passed on.
OURS = frozenset({"id", "object", "created", "model", "choices", "usage", "timings", "veridical"})
#: Headers that may hold a client's key.
CREDENTIALS = frozenset(("authorization", "api-key", "x-api-key"))


@dataclass
class OpenAIBackend:
    """Speaks chat completions to `base_url()`, which may change when a supervised engine restarts.

    `supports` loses a member when the server turns out not to have it. `api_key` replaces the
    client's Authorization; without it the client's is forwarded if `forwards_authorization`.
    `closes_streams` says that the server ends the connection behind a stream without announcing
    it, as llama.cpp does: the next request on it would fail, so it is not used again.
    `speaks_responses` says whether it has the Responses API too; None: its first answer will tell.
    """

    session: Sessions
    base_url: Callable[[], str]
    api_key: str | None = field(default=None, repr=False)
    forwards_authorization: bool = False
    supports: set[str] = field(default_factory=lambda: {"json_schema", "n"})
    refuse: tuple[str, ...] = ()
    rename: Mapping[str, str] = field(default_factory=dict)
    connect_timeout_s: float = 10.0
    read_timeout_s: float = 300.0
    max_response_bytes: int = 64_000_000
    closes_streams: bool = False
    speaks_responses: bool | None = False
    _origin: tuple[str, Origin] | None = field(default=None, repr=False)

    @property
    def reader(self) -> OpenAIBackend:
        """By whose rules its answers are read: its own."""
        return self

    @cached_property
    def _timeout(self) -> aiohttp.ClientTimeout:
        return aiohttp.ClientTimeout(
            total=None, sock_connect=self.connect_timeout_s, sock_read=self.read_timeout_s
        )

    def adapted(self, params: Params) -> Params:
        """A strategy's own parameters as this server takes them."""
        return {self.rename.get(k, k): v for k, v in params.items() if k not in self.refuse}

    async def chat(self, request: ChatRequest) -> Reply:
        """Ask for one chat completion; a stream is returned once its status is known."""
        several = {"n": request.n} if request.n > 1 else {}
        body: dict[str, Any] = {
            **request.params,
            **several,
            "model": request.model,
            "messages": request.messages,
        }
        if request.stream:
            options = request.params.get("stream_options") or {}
            body |= {"stream": True, "stream_options": {**options, "include_usage": True}}
        response = await self.send(
            "POST", "/chat/completions", serialised(body), request.headers, stream=request.stream
        )
        try:
            if response.status >= 400:
                raise await self.refusal(response)
            if request.stream and response.content_type != "application/json":  # some never stream

                async def close() -> None:
                    response.close()

                return Reply(self._stream(response), close)
            return self.whole(await self.read_bytes(response), request.n)
        except BaseException:
            response.close()
            raise

    def whole(self, raw: bytes, n: int) -> Reply:
        """The reply that the bytes of an answer to a request for `n` choices are.

        Raises:
            BackendFailed: they are no chat completion.
        """
        answer, *others = _answers(_object(raw), n)
        if others and "n" not in self.supports:  # llama.cpp: see `send`
            answer = replace(answer, usage=None)
        return Reply.of(answer, tuple(others))

    def check_stream(self, raw: bytes) -> None:
        """See whether these bytes are a whole stream of a chat completion.

        Raises:
            BackendFailed: they are none, it was cut off, or an error came in it.
        """
        reader = EventReader(self.max_response_bytes)
        events = [*reader.feed(raw), *reader.end()]
        items = [item for data in events if data != b"[DONE]" for item in self._items(data)]
        finished = any(isinstance(item, Delta) and item.finish_reason for item in items)
        if not finished or events[-1] != b"[DONE]":
            raise BackendFailed("The backend's stream ended before its answer was complete.")

    async def send(
        self, method: str, path: str, body: bytes | None, headers: Mapping[str, str], *, stream: bool = False
    ) -> Exchange:
        """Send a request and return its response, status known and body still to be read.

        Raises:
            BackendTimeout: no connection or no byte in time.
            BackendUnreachable: no connection.
        """
        session = self.session(pooled=not (stream and self.closes_streams))
        base_url = self.base_url()
        if self._origin is None or self._origin[0] != base_url:
            self._origin = (base_url, Origin.of(base_url, session))
        with network_errors:
            response = await exchange(
                session, self._origin[1], method, path, self.headers(headers), body, self._timeout
            )
        if response.headers.get("Server") == "llama.cpp":
            self.closes_streams = True
            self.supports.discard("n")  # its usage counts the first choice only: ours would be wrong
        return response

    def sent(self, outgoing: Outgoing) -> Underway:
        """The same for as long as it is used, and closed behind that.

        Raises:
            BackendTimeout, BackendUnreachable: as `send`, on entering.
        """
        return Underway(self, outgoing)

    def headers(self, client: Mapping[str, str]) -> dict[str, str]:
        """What the server gets to see of the client's headers, with its own key if we hold one."""
        sent = {"content-type": "application/json", **client, "accept-encoding": "identity"}
        if self.api_key or not self.forwards_authorization:
            for name in CREDENTIALS:
                sent.pop(name, None)
        if self.api_key:
            sent["authorization"] = f"Bearer {self.api_key}"
        return sent

    async def models(self, headers: Mapping[str, str]) -> list[dict[str, Any]]:
        """The server's model objects.

        Raises:
            BackendError: it has no list, or does not answer.
        """
        response = await self.send("GET", "/models", None, headers)
        try:
            if response.status >= 400:
                raise await self.refusal(response)
            found = await self.read(response)
        finally:
            response.close()
        listed = found.get("data")
        if not isinstance(listed, list):
            raise BackendFailed("The backend's /models is no model list.")
        return [model for model in listed if isinstance(model, dict) and isinstance(model.get("id"), str)]

    async def read(self, response: Exchange) -> dict[str, Any]:
        """A JSON object from a bounded body.

        Raises:
            BackendFailed: it is too large or no JSON object.
        """
        return _object(await self.read_bytes(response))

    async def read_bytes(self, response: Exchange) -> bytes:
        """A bounded body.

        Raises:
            BackendFailed: it is too large, or breaks off.
        """
        parts: list[bytes] = []
        size = 0
        while part := response.rest() or await next_bytes(response):
            size += len(part)
            if size > self.max_response_bytes:
                response.close()
                raise BackendFailed(f"The backend's answer is over {self.max_response_bytes} bytes.")
            parts.append(part)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    async def refusal(self, response: Exchange) -> BackendError:
        """The error that an answer of 400 or above stands for; our key is taken out of its text."""
        try:
            found = (await self.read(response)).get("error")
        except BackendFailed:
            found = None
        body = self.redacted(found) if isinstance(found, Mapping) else None
        message = body.get("message") if body else self.redacted(found) if isinstance(found, str) else None
        return refusal_of(response, message if isinstance(message, str) else "", body)

    def redacted(self, value: Any) -> Any:
        """`value` without our key in any text: a backend's error may quote it."""
        return orjson.loads(self.unkeyed(orjson.dumps(value))) if self.api_key else value

    def unkeyed(self, raw: bytes) -> bytes:
        """`raw` without our key."""
        return raw.replace(self.api_key.encode(), b"[key]") if self.api_key else raw

    async def _stream(self, response: Exchange) -> AsyncGenerator[Delta | Ending, None]:
        reader = EventReader(self.max_response_bytes)
        spoken = finished = done = False
        try:
            while not done:
                chunk = await next_bytes(response)
                for data in reader.feed(chunk) if chunk else reader.end():
                    if data == b"[DONE]":
                        done = True
                        break
                    for item in self._items(data):
                        if isinstance(item, Delta):
                            spoken, finished = True, finished or item.finish_reason is not None
                        yield item
                if not chunk:
                    break
            if not spoken or not (finished or done):
                raise BackendFailed("The backend's stream ended before its answer was complete.")
            if done:
                await _drained(response)
        finally:
            response.close()  # after the end this gives the connection back to the pool

    def _items(self, data: bytes) -> list[Delta | Ending]:
        """The deltas and endings of one event's data."""
        try:
            chunk = orjson.loads(data)
        except orjson.JSONDecodeError:
            raise BackendFailed("The backend sent an event that is not JSON.") from None
        if not isinstance(chunk, dict) or too_deep(chunk, data):
            raise BackendFailed("The backend sent an event that is no chunk.")
        if error := chunk.get("error"):
            found = self.redacted(error)
            words = found.get("message") if isinstance(found, dict) else found
            raise BackendFailed(f"The backend's stream broke off: {words}")
        choices = chunk.get("choices") or []
        if not isinstance(choices, list) or not all(isinstance(choice, dict) for choice in choices):
            raise BackendFailed("The backend sent an event that is no chunk.")
        items: list[Delta | Ending] = [_delta(c) for c in choices if c.get("index", 0) == 0]
        usage = _usage(chunk)
        envelope = {key: value for key, value in chunk.items() if key not in OURS and value is not None}
        if usage or envelope:
            items.append(Ending(usage, envelope))
        return items


def refusal_of(response: Exchange, message: str = "", body: Mapping[str, Any] | None = None) -> BackendError:
    """The error that a status of 400 or above stands for, with what is known of its body."""
    status, retry_after = response.status, response.headers.get("Retry-After")
    words = message or f"The backend answered {status}."
    return refused_with(status)(words, status=status, body=body, retry_after=retry_after)


async def next_bytes(response: Exchange) -> bytes:
    """The next bytes of a body; empty at its end.

    Raises:
        BackendError: it broke off, or nothing came in time.
    """
    with network_errors:
        return await response.content.readany()


async def _drained(response: Exchange) -> None:
    """Wait a moment for the body to end behind [DONE], so that its connection can be used again."""
    with suppress(TimeoutError, BackendError):
        async with asyncio.timeout(0.1):
            while await next_bytes(response):
                pass


def serialised(body: Mapping[str, Any]) -> bytes:
    """A request body as JSON bytes.

    Raises:
        InvalidRequest: it is nested too deeply to be written, though it could be read.
    """
    try:
        return orjson.dumps(body)
    except orjson.JSONEncodeError:
        raise InvalidRequest("The body is nested too deeply.") from None


def _object(raw: bytes) -> dict[str, Any]:
    """A body that must be a JSON object."""
    try:
        found = orjson.loads(raw)
    except orjson.JSONDecodeError:
        raise BackendFailed("The backend's answer is not JSON.") from None
    if not isinstance(found, dict) or too_deep(found, raw):
        raise BackendFailed("The backend's answer is not a JSON object, or nested too deeply.")
    return found


def _delta(choice: Mapping[str, Any]) -> Delta:
    """The delta in a chunk's choice."""
    fields = choice.get("delta") or {}
    finish = choice.get("finish_reason")
    if not _is_message(fields) or not isinstance(finish, str | None):
        raise BackendFailed("The backend sent an event that is no chunk.")
    return Delta(fields, finish, choice.get("logprobs"))


def _answers(found: Mapping[str, Any], n: int) -> list[Answer]:
    """The answers in a chat completion's first n choices; the first carries what holds for all of them."""
    choices = found.get("choices")
    if not isinstance(choices, list) or not choices:
        raise BackendFailed("The backend's answer is no chat completion.")
    first, *others = choices[:n]
    envelope = {key: value for key, value in found.items() if key not in OURS}
    return [_answer(first, _usage(found), envelope), *map(_answer, others)]


def _answer(choice: Any, usage: Usage | None = None, envelope: Mapping[str, Any] | None = None) -> Answer:
    message = choice.get("message") if isinstance(choice, dict) else None
    finish = choice.get("finish_reason") if isinstance(choice, dict) else None
    if not isinstance(choice, dict) or not _is_message(message) or not isinstance(finish, str | None):
        raise BackendFailed("The backend's answer is no chat completion.")
    return Answer(message, finish or "stop", choice.get("logprobs"), usage, envelope or {})


def _usage(found: Mapping[str, Any]) -> Usage | None:
    """The token counts of a completion or a last chunk, where it has them.

    llama.cpp before it wrote `prompt_tokens_details` told the cached tokens in `timings` only.
    """
    usage, timings = found.get("usage"), found.get("timings")
    if not isinstance(usage, dict) or not usage:
        return None
    if isinstance(timings, dict):
        usage = {"prompt_tokens_details": {"cached_tokens": timings.get("cache_n")}, **usage}
    return Usage.from_wire(usage)


def _is_message(found: Any) -> TypeGuard[Mapping[str, Any]]:
    """Whether what strategies read of a message or a delta has the shape that they rely on."""
    if not isinstance(found, dict) or not isinstance(found.get("content"), str | list | None):
        return False
    calls = found.get("tool_calls") or []
    return isinstance(calls, list) and all(
        isinstance(call, dict) and isinstance(call.get("index", 0), int) and call.get("index", 0) >= 0
        for call in calls
    )


class _NetworkErrors:
    """Turns aiohttp's and the socket's errors into ours; addresses stay out of the message. A class, since
    it stands around every read of every relayed body, where a generator would cost more than the read."""

    def __enter__(self) -> None: ...

    def __exit__(self, kind: object, error: BaseException | None, at: object) -> None:
        match error:
            case None:
                return
            case aiohttp.ConnectionTimeoutError() | aiohttp.SocketTimeoutError() | TimeoutError():
                raise BackendTimeout("The backend did not answer in time.") from error
            case aiohttp.ClientConnectorError():
                raise BackendUnreachable("The backend cannot be reached.") from error
            case aiohttp.ClientError() | OSError():
                words = f"The connection to the backend broke ({type(error).__name__})."
                raise BackendFailed(words) from error


network_errors = _NetworkErrors()
