"""Answers onto the wire: whole or as server-sent events, and nothing once the client is gone."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping, MutableMapping, Sequence
from contextlib import suppress
from typing import Any, Protocol

import orjson

from veridical.middleware.errors import ClientDisconnected, error_object, error_response
from veridical.middleware.pipeline import Choice, Run
from veridical.middleware.sse import comment
from veridical.strategies.concurrency import concurrently
from veridical.strategies.thinking import begun_unseen, without_thinking_live
from veridical.strategies.types import Answer, Delta

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Headers = list[tuple[bytes, bytes]]

#: An extension of our server: has a function called when the client has gone. Unlike ASGI's `receive`, it
#: takes no task that waits for it.
WHEN_GONE = "veridical.when_gone"
#: A stream's status is sent once a backend has accepted a call, but not later than this.
STATUS_WAIT_S = 1.0
EVENT_STREAM: Headers = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),
]


class Wire(Protocol):
    """An API's shape of a run's answer: whole, or as the events of a stream."""

    async def whole(self, answers: Sequence[Answer]) -> dict[str, Any]:
        """The body of an answer that is not streamed."""
        ...

    def opening(self) -> bytes:
        """What a stream begins with."""
        ...

    def delta(self, index: int, delta: Delta) -> bytes:
        """A piece of choice `index`; may be nothing."""
        ...

    async def ending(self, finishes: Mapping[int, str]) -> bytes:
        """What closes a stream; `finishes` has each choice's finish reason."""
        ...

    def failure(self, error: Mapping[str, Any]) -> bytes:
        """What closes a stream that broke off; `error` is OpenAI's object."""
        ...


async def until_gone(scope: Scope, receive: Receive, work: Coroutine[Any, Any, None]) -> None:
    """Run `work`; a client that disconnects cancels it at once.

    Raises:
        ClientDisconnected: it did.
    """
    working = asyncio.current_task()
    gone = False

    def leave() -> None:
        nonlocal gone
        gone = True
        if working:
            working.cancel()

    async def watch() -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        leave()

    extension = scope.get("extensions", {}).get(WHEN_GONE)
    tell = extension["tell"] if extension else None
    watching = None if tell else asyncio.ensure_future(watch())
    if tell:
        tell(leave)
    try:
        await work
    except asyncio.CancelledError:
        if gone and working and not working.uncancel():  # by us, and by nobody else
            raise ClientDisconnected from None
        raise
    finally:
        if tell:
            tell(None)
        if watching:
            watching.cancel()


async def respond(send: Send, status: int, headers: Headers, body: bytes) -> None:
    """Send a whole response."""
    length = (b"content-length", str(len(body)).encode())
    await send({"type": "http.response.start", "status": status, "headers": [*headers, length]})
    await send({"type": "http.response.body", "body": body})


async def respond_whole(run: Run, wire: Wire, headers: Headers, send: Send) -> None:
    """Work on all choices at once and send the answer.

    Raises:
        VeridicalError: a choice could not be answered; nothing has been sent.
    """
    answers = await concurrently(run.whole, run.choices)
    body = orjson.dumps(await wire.whole(answers))
    await respond(send, 200, [*headers, (b"content-type", b"application/json")], body)


class EventStream:
    """Streams a run: its deltas as they come, heartbeats while it checks, one end.

    Producers, one for each choice, fill a bounded queue, so a slow client slows the backend down.
    """

    def __init__(self, run: Run, wire: Wire, headers: Headers, send: Send, heartbeat_s: float) -> None:
        self.run, self.wire, self.send, self.heartbeat_s = run, wire, send, heartbeat_s
        self.headers = headers
        self.queue: asyncio.Queue[tuple[int, Delta] | None] = asyncio.Queue(maxsize=64)
        self.finishes: dict[int, str] = {}
        self.open = False
        self.accepted = asyncio.Event()

    async def __call__(self) -> None:
        """Send the stream. A failure before the first byte is raised, one behind it becomes an event.

        Raises:
            VeridicalError: the run failed before anything was sent.
        """
        wants_progress = self.run.request.controls.progress == "reasoning"
        self.run.watch(self._progress if wants_progress else None, self.accepted.set)
        work = asyncio.ensure_future(self._produce())
        try:
            await self._wait_for_status(work)
            await self._start()
            async for frames in self._frames():
                await self._body(frames)
            await work
            await self._body(await self.wire.ending(self.finishes), last=True)
        except Exception as error:
            if not self.open:
                raise
            _, found = error_object(error)
            await self._body(self.wire.failure(found), last=True)
        finally:
            work.cancel()
            await asyncio.gather(work, return_exceptions=True)

    async def _wait_for_status(self, work: asyncio.Future[None]) -> None:
        """Until a backend accepts a call, or has words, or a second is over; a failure before keeps its
        status, one behind it becomes an event, however soon it comes."""
        accepted = asyncio.ensure_future(self.accepted.wait())
        try:
            await asyncio.wait((work, accepted), timeout=STATUS_WAIT_S, return_when=asyncio.FIRST_COMPLETED)
        finally:
            accepted.cancel()
            with suppress(asyncio.CancelledError):
                await accepted
        if work.done() and work.exception() and not self.accepted.is_set():
            await work

    async def _start(self) -> None:
        self.open = True
        await self.send(
            {"type": "http.response.start", "status": 200, "headers": [*self.headers, *EVENT_STREAM]}
        )
        await self._body(comment("veridical") + self.wire.opening())

    async def _body(self, data: bytes, *, last: bool = False) -> None:
        await self.send({"type": "http.response.body", "body": data, "more_body": not last})

    async def _frames(self) -> AsyncIterator[bytes]:
        """What is ready to send, as much at once as there is; a heartbeat where there is nothing."""
        while True:
            try:
                async with asyncio.timeout(self.heartbeat_s):
                    piece = await self.queue.get()
            except TimeoutError:
                yield comment("working")
                continue
            frames = []
            while piece is not None:
                frames.append(self.wire.delta(*piece))
                if self.queue.empty():
                    break
                piece = self.queue.get_nowait()
            if any(frames):
                yield b"".join(frames)
            if piece is None:
                return

    def _progress(self, index: int, words: str) -> None:
        """A step in words, as reasoning: under both names in use."""
        told = Delta({"reasoning_content": words + "\n", "reasoning": words + "\n"})
        with suppress(asyncio.QueueFull):  # a client that reads too slowly misses a step, not a word
            self.queue.put_nowait((index, told))

    async def _produce(self) -> None:
        try:
            await concurrently(self._choice, self.run.choices)
        except Exception:
            await self.queue.put(None)
            raise
        await self.queue.put(None)

    async def _choice(self, choice: Choice) -> None:
        live = self.run.live(choice)
        drafts = choice.trace.drafts
        words = without_thinking_live(live, lambda: any(begun_unseen(draft.answer) for draft in drafts))
        finish = "stop"
        try:
            async for delta in live if self.run.direct else words:
                finish = delta.finish_reason or finish
                await self.queue.put((choice.index, delta))
        finally:
            await live.aclose()
        self.finishes[choice.index] = finish


class Sending:
    """A `send` that remembers whether an answer has begun: a failure behind that cannot be told."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self.begun = False

    async def __call__(self, message: MutableMapping[str, Any]) -> None:
        """Send."""
        self.begun = True
        await self._send(message)


async def respond_failure(error: BaseException, headers: Headers, send: Sending) -> None:
    """Answer a request that failed; an answer that had begun is left without its end, at which the
    server breaks the connection."""
    if send.begun:
        error_object(error)  # which logs what is a fault of ours
    else:
        await respond_error(error, headers, send)


async def respond_error(error: BaseException, headers: Headers, send: Send) -> None:
    """Send the answer to a request that failed before anything was sent."""
    status, own, body = error_response(error)
    await respond(send, status, [*headers, *own], body)
