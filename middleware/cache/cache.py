"""The cache itself: a store that may fail at any moment, and what is on its way into it."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from contextlib import suppress
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any, TypeVar

from pydantic import BaseModel

from veridical.middleware.cache.entries import Entry, unpacked
from veridical.middleware.cache.flights import Flights
from veridical.middleware.cache.settings import CacheSettings
from veridical.middleware.cache.stores import Store, StoreFailed, make_store
from veridical.middleware.errors import log
from veridical.strategies.reply import Ending
from veridical.strategies.types import Delta

T = TypeVar("T")
#: Seconds for which a store that has failed is left alone: a silent one must not slow every request.
PAUSE_S = 2.0
#: Seconds that calls on their way get at the end.
LAST_S = 2.0


@dataclass(slots=True)
class Counts:
    """What the cache has done since the start: calls answered from it and not, answers put into it, and
    looks or puts that failed."""

    hits: int = 0
    misses: int = 0
    stores: int = 0
    errors: int = 0

    def answered(self, known: bool) -> None:
        """Count a call that the cache was asked for."""
        self.hits += known
        self.misses += not known


class Cache:
    """What backends have answered. No fault of the store reaches a request: it is counted, told once, and
    the backend asked.

    `identities` are hashes of the backends' settings by name: one that is set up otherwise is another.
    """

    def __init__(self, store: Store, identities: Mapping[str, str], *, sampled: bool = False) -> None:
        self.identities, self.sampled = identities, sampled
        self.counts = Counts()
        self.calls: Flights[Delta | Ending] = Flights()
        self.relays: Flights[MutableMapping[str, Any]] = Flights()
        self._store = store
        self._silent_until = 0.0

    async def look(self, key: str) -> Entry | None:
        """What is kept under `key`."""
        raw = await self._safely(lambda: self._store.get(key))
        if raw is None:
            return None
        try:
            return unpacked(raw)
        except ValueError:
            self.corrupt()
            return None

    async def keep(self, key: str, entry: Entry) -> None:
        """Keep an answer that is whole and sound."""
        if await self._safely(lambda: self._store.put(key, entry.packed())):
            self.counts.stores += 1

    def corrupt(self) -> None:
        """What lay under a key was no answer: it counts as nothing, and will be replaced."""
        self.counts.errors += 1
        log.warning("an entry of the cache cannot be read: the backend is asked")

    async def close(self) -> None:
        """Let what is on its way arrive, and let go of the store."""
        for flights in (self.calls, self.relays):
            await flights.close(LAST_S)
        with suppress(StoreFailed):
            await self._store.close()

    async def _safely(self, work: Callable[[], Awaitable[T]]) -> T | None:
        """Ask the store, unless it failed just now; say once that it fails, and that it works again."""
        if time.monotonic() < self._silent_until:
            return None
        try:
            found = await work()
        except StoreFailed as failure:
            self.counts.errors += 1
            if not self._silent_until:
                log.warning("the cache fails (%s): backends are asked", failure)
            self._silent_until = time.monotonic() + PAUSE_S
            return None
        if self._silent_until:
            log.warning("the cache works again")
            self._silent_until = 0.0
        return found


def make_cache(settings: CacheSettings, redis_url: str | None, identities: Mapping[str, str]) -> Cache | None:
    """The cache that the settings want, if any.

    Raises:
        ConfigError: its store cannot be made.
    """
    if settings.kind == "off":
        return None
    return Cache(make_store(settings, redis_url), identities, sampled=settings.sampled)


def identities_of(backends: Mapping[str, BaseModel], models: Mapping[str, BaseModel]) -> dict[str, str]:
    """What tells backends apart, and models of ours, which change with any backend that they may go to."""
    found = {name: _identity(name, each) for name, each in backends.items()}
    places = "\n".join(found.values())
    return found | {name: _identity(f"{name}\n{places}", each) for name, each in models.items()}


def _identity(name: str, settings: BaseModel) -> str:
    """A backend by its name and settings, which hold no secret."""
    return blake2b(f"{name}\n{settings.model_dump_json()}".encode(), digest_size=16).hexdigest()
