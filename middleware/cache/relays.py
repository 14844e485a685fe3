"""Relayed answers, kept as the bytes that they are."""

from __future__ import annotations

import time
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, MutableMapping
from typing import Any

from veridical.middleware.access.metering import Meter
from veridical.middleware.access.tally import Tally
from veridical.middleware.backends.openai_http import OpenAIBackend
from veridical.middleware.cache.asking import Caching
from veridical.middleware.cache.entries import BYTES, Entry
from veridical.middleware.cache.flights import Flight
from veridical.middleware.protocol import ChatBody
from veridical.middleware.responding import Headers, Send
from veridical.middleware.routing import Route
from veridical.strategies.backend import ChatRequest
from veridical.strategies.errors import BackendError, BackendFailed

#: On a relayed answer that may be kept: whether it was known (`hit`) or a backend was asked (`miss`).
HEADER = b"x-veridical-cache"

Sent = MutableMapping[str, Any]


class _Refused(Exception):
    """The backend answered with an error: `messages` are what goes to the client."""

    def __init__(self, messages: list[Sent]) -> None:
        super().__init__()
        self.messages = messages


class Relay:
    """A chat that is relayed unless its answer is known. `ask` relays it to whatever it is given.

    A whole answer is sent once it is all there, so that one that breaks off becomes a plain error.
    """

    def __init__(
        self,
        caching: Caching,
        route: Route,
        http: OpenAIBackend,
        request: ChatBody,
        client: dict[str, str],
        ask: Callable[[Send], Awaitable[object]],
    ) -> None:
        self._caching, self._http, self._request, self._ask = caching, http, request, ask
        draw = ChatRequest(route.model, request.messages, request.params, headers=client, n=request.n)
        stream = ["stream", request.body.get("stream_options")] if request.stream else None
        self._key = caching.key(route.mounted, draw, stream)
        self._asked = False

    async def __call__(self, headers: Headers, send: Send, meter: Meter | None) -> None:
        """Send the answer. What was not asked of a backend costs the client's key nothing.

        Raises:
            BackendError: no answer began; nothing has been sent.
        """
        cache, tally = self._caching.cache, Tally(send)
        try:
            flight = await cache.relays.join(
                self._key, self._work, whole=not self._request.stream, alone=self._caching.refresh
            )
            try:
                cache.counts.answered(not self._asked)
                told = [*headers, (HEADER, b"miss" if self._asked else b"hit")]
                await _pass(flight.read(), told, tally)
            finally:
                await flight.leave()
        except _Refused as refused:
            await _pass(_each(refused.messages), headers, tally)
        except BackendError as error:
            tally.failed(error)
            raise
        finally:
            if meter and self._asked:
                meter.spend(tally.spending(self._request.measured))

    async def _work(self, flight: Flight[Sent]) -> None:
        cache = self._caching.cache
        entry = None if self._caching.refresh else await cache.look(self._key)
        if entry is not None and entry.kind == BYTES:
            flight.add(*_messages(entry))
            flight.land()
            return
        self._asked = True
        raw, content_type = await self._record(flight)
        sound = self._is_sound(raw)
        flight.land()
        if sound:
            await cache.keep(self._key, Entry(BYTES, time.time(), raw, content_type))

    async def _record(self, flight: Flight[Sent]) -> tuple[bytes, str]:
        """Relay into the flight; what has come, and as what.

        Raises:
            _Refused: an error came.
            BackendFailed: more came than is read into memory, or a whole answer broke off.
        """
        refusal: list[Sent] = []
        parts: list[bytes] = []
        size, kind, ended = 0, "", False

        async def record(message: Sent) -> None:
            nonlocal size, kind, ended
            if message["type"] == "http.response.start":
                kind = _content_type(message)
            if refusal or message.get("status", 200) >= 400:
                refusal.append(message)
                return
            parts.append(message.get("body", b""))
            ended = message["type"] == "http.response.body" and not message.get("more_body")
            size += len(parts[-1])
            if size > self._http.max_response_bytes:
                raise BackendFailed(f"The backend's answer is over {self._http.max_response_bytes} bytes.")
            flight.add(message)
            flight.begin()

        await self._ask(record)
        if refusal:
            raise _Refused(refusal)
        if not ended:
            raise BackendFailed("The backend's answer broke off.")
        return b"".join(parts), kind

    def _is_sound(self, raw: bytes) -> bool:
        """Whether these bytes are a whole answer: an error in a 200, say, is none."""
        try:
            if self._request.stream and not raw.lstrip().startswith(b"{"):  # some never stream
                self._http.check_stream(raw)
            else:
                self._http.whole(raw, self._request.n)
        except BackendFailed:
            return False
        return True


async def _pass(messages: AsyncIterable[Sent], headers: Headers, send: Send) -> None:
    """Send messages on, with our headers in the place of the backend's of the same name."""
    ours = {name for name, _ in headers}
    async for message in messages:
        if message["type"] == "http.response.start":
            theirs = [each for each in message["headers"] if each[0] not in ours]
            message = {**message, "headers": [*theirs, *headers]}
        await send(message)


async def _each(messages: list[Sent]) -> AsyncIterator[Sent]:
    for message in messages:
        yield message


def _messages(entry: Entry) -> list[Sent]:
    headers = [
        (b"content-type", entry.content_type.encode("latin-1")),
        (b"content-length", b"%d" % len(entry.data)),
        (b"age", b"%d" % max(0, time.time() - entry.at)),
    ]
    return [
        {"type": "http.response.start", "status": 200, "headers": headers},
        {"type": "http.response.body", "body": entry.data},
    ]


def _content_type(start: Sent) -> str:
    kinds = (value for name, value in start["headers"] if name == b"content-type")
    return next(kinds, b"application/json").decode("latin-1")
