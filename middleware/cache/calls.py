"""Single calls of a backend, kept: a backend that holds a backend."""

from __future__ import annotations

from dataclasses import dataclass

from veridical.middleware.cache.asking import Caching
from veridical.middleware.cache.entries import BYTES, Entry, entry_of, items_of
from veridical.middleware.cache.flights import Flight
from veridical.middleware.routing import Mounted
from veridical.strategies.backend import Backend, ChatRequest
from veridical.strategies.errors import BackendFailed
from veridical.strategies.reply import Ending, Reply
from veridical.strategies.types import Delta, Params


@dataclass(frozen=True)
class Cached:
    """Answers calls from the cache where it has them; equal ones that run at once run once.

    A strategy's options, prompts and passages are all in the messages of its calls, so that nothing but
    the call needs to be equal. Streams are kept when they are complete, and given back delta by delta.
    """

    backend: Backend
    mounted: Mounted
    caching: Caching

    @property
    def supports(self) -> set[str]:
        """What the wrapped backend supports."""
        return self.backend.supports

    def adapted(self, params: Params) -> Params:
        """As the wrapped backend has it."""
        return self.backend.adapted(params)

    async def chat(self, request: ChatRequest) -> Reply:
        """Answer; the reply's `cached` says whether the backend had to be asked for us."""
        if not self.caching.takes(request.params):
            return await self.backend.chat(request)
        cache, key = self.caching.cache, self.caching.key(self.mounted, request)
        asked = False

        async def work(flight: Flight[Delta | Ending]) -> None:
            nonlocal asked
            entry = None if self.caching.refresh else await cache.look(key)
            if entry is not None and (items := self._kept(entry, request)):
                flight.add(*items)
                flight.land()
                return
            asked = True
            await self._ask(request, flight)
            try:
                fresh = entry_of(flight.items)
            except TypeError:  # a plug-in's backend answers with what is no JSON: it is not kept
                return
            await cache.keep(key, fresh)

        flight = await cache.calls.join(key, work, whole=not request.stream, alone=self.caching.refresh)
        cache.counts.answered(not asked)
        reply = Reply(list(flight.items)) if flight.landed else Reply(flight.read(), flight.leave)
        reply.cached = not asked
        return reply

    def _kept(self, entry: Entry, request: ChatRequest) -> list[Delta | Ending] | None:
        """What an entry holds; a body that was relayed is read as the backend's answer."""
        try:
            if entry.kind == BYTES:
                http = self.mounted.http
                return None if http is None else http.reader.whole(entry.data, request.n).items
            return items_of(entry.data)
        except (ValueError, BackendFailed):
            self.caching.cache.corrupt()
            return None

    async def _ask(self, request: ChatRequest, flight: Flight[Delta | Ending]) -> None:
        reply = await self.backend.chat(request)
        flight.begin()
        try:
            async for delta in reply:
                flight.add(delta)
            flight.add(reply.items[-1])
        finally:
            await reply.aclose()
        flight.land()
