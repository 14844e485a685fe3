"""Equal calls run once: a backend that holds a backend, for the length of one run of a strategy."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass, field

from veridical.strategies.backend import Backend, ChatRequest
from veridical.strategies.reply import Ending, Reply
from veridical.strategies.trace import chain
from veridical.strategies.types import Delta, Params


@dataclass(frozen=True)
class Result:
    """What an equal call has brought, and how deep in the chain of calls it stood."""

    items: Sequence[Delta | Ending]
    depth: int


@dataclass
class _Results:
    """Results by their draw, on the way or there. A draw is hashed once there is another to compare it
    with: a strategy of one call needs no hash."""

    _first: tuple[ChatRequest, asyncio.Future[Result]] | None = None
    _known: dict[bytes, asyncio.Future[Result]] = field(default_factory=dict)

    def of(self, request: ChatRequest) -> asyncio.Future[Result] | None:
        """The result of a request's draw."""
        if self._first is not None:
            first, held = self._first
            self._known[first.draw], self._first = held, None
        return self._known.get(request.draw) if self._known else None

    def hold(self, request: ChatRequest, held: asyncio.Future[Result]) -> None:
        """Keep a result of which there was none."""
        if self._first is None and not self._known:
            self._first = (request, held)
        else:
            self._known[request.draw] = held

    def forget(self, request: ChatRequest) -> None:
        """Drop a request's result."""
        if self._first is not None and self._first[0] is request:
            self._first = None
        else:
            del self._known[request.draw]


@dataclass
class Sharing:
    """Lets calls of equal model, messages, parameters and sample number share one result.

    Equal means the same draw: two places of a strategy that ask the same thing at the same
    sample number get the same answer, whatever the temperature. Independent samples have
    numbers of their own and are never merged. A whole answer is shared while it is on its way;
    a stream only once it has arrived, since it moves no faster than its reader, who may wait
    for us. A failure is passed to those who wait, then forgotten.
    """

    backend: Backend
    _results: _Results = field(default_factory=_Results, repr=False)

    @property
    def supports(self) -> set[str]:
        """What the wrapped backend supports."""
        return self.backend.supports

    def adapted(self, params: Params) -> Params:
        """As the wrapped backend has it."""
        return self.backend.adapted(params)

    def holds(self, request: ChatRequest) -> bool:
        """Whether the request would share a call that has run or is running."""
        return self._results.of(request) is not None

    async def chat(self, request: ChatRequest) -> Reply:
        """Answer, with the result of an equal call where there is one; its reply is then `shared`."""
        while (held := self._results.of(request)) is not None:
            try:
                result = await asyncio.shield(held)
            except asyncio.CancelledError:
                if not held.cancelled():
                    raise  # we are
                continue  # the one who asked is: ask again
            reply = Reply(result.items)
            reply.shared = result.depth
            return reply
        if request.stream:
            reply = await self.backend.chat(request)
            kept = Reply(self._kept(reply, request, chain.get()), reply.aclose)
            kept.cached = reply.cached
            return kept
        return await self._whole(request)

    async def _whole(self, request: ChatRequest) -> Reply:
        held: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
        self._results.hold(request, held)
        try:
            reply = await self.backend.chat(request)
            await reply.read()
        except BaseException as error:
            self._results.forget(request)
            if isinstance(error, Exception):
                held.set_exception(error)
                held.exception()  # nobody may be waiting
            else:
                held.cancel()
            raise
        held.set_result(Result(reply.items, chain.get()))
        return reply

    async def _kept(
        self, reply: Reply, request: ChatRequest, depth: int
    ) -> AsyncGenerator[Delta | Ending, None]:
        """The stream as it comes; once it is whole, later calls may have it."""
        async for delta in reply:
            yield delta
        yield reply.items[-1]
        if self._results.of(request) is None:
            held: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
            held.set_result(Result(reply.items, depth))
            self._results.hold(request, held)
