"""Responses in the state's database: they outlive the process, and every replica finds them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from contextlib import suppress

from veridical.middleware.config import Settings
from veridical.middleware.errors import StateUnavailable, log
from veridical.middleware.responses.store import MemoryStore, ResponseStore
from veridical.middleware.state.database import Database

#: Seconds between looks for responses that must leave.
PRUNE_S = 30.0
#: The part of `max_bytes` after which a process that puts looks earlier.
PRUNE_AFTER = 0.05

_PUT = """INSERT INTO responses (key, value, size, created_at) VALUES (?, ?, ?, ?)
    ON CONFLICT (key) DO UPDATE
    SET value = excluded.value, size = excluded.size, created_at = excluded.created_at"""
_GET = "SELECT value FROM responses WHERE key = ? AND created_at > ?"
_DELETE = "DELETE FROM responses WHERE key = ?"
_DELETE_OLD = "DELETE FROM responses WHERE created_at <= ?"
#: The newest that fit stay. The sum runs over an index alone, from the newest to the oldest.
_DELETE_SURPLUS = """DELETE FROM responses WHERE key IN (
    SELECT key FROM (
        SELECT key, SUM(size) OVER (ORDER BY created_at DESC, key DESC) AS upto FROM responses
    ) AS summed WHERE upto > ?)"""


class DatabaseStore:
    """At most `max_bytes`, the oldest leaving first, none older than `ttl_s` seconds.

    What must leave is deleted in the background, by every replica: until then the database may hold more,
    by a twentieth for each. A response that is too old is not found from its last second on, whether it has
    been deleted or not.
    """

    #: What a row costs beside its value, roughly: key, numbers, index.
    OVERHEAD = 300

    def __init__(
        self, database: Database, max_bytes: int, ttl_s: float, clock: Callable[[], float] = time.time
    ) -> None:
        self._database, self._max, self._ttl, self._clock = database, max_bytes, ttl_s, clock
        self._put_since = 0
        self._full = asyncio.Event()
        self._pruning: asyncio.Task[None] | None = None

    async def open(self) -> None:
        """Begin to delete what must leave. The database is open already."""
        self._pruning = asyncio.create_task(self._prune_on())

    async def close(self) -> None:
        """Stop deleting."""
        if self._pruning is not None:
            self._pruning.cancel()
            with suppress(asyncio.CancelledError):
                await self._pruning

    async def get(self, key: str) -> bytes | None:
        """See `ResponseStore`.

        Raises:
            StateUnavailable: the database failed.
        """
        rows = await self._database.fetch(_GET, key, int(self._clock() - self._ttl))
        return bytes(rows[0][0]) if rows else None

    async def put(self, key: str, value: bytes) -> bool:
        """See `ResponseStore`. A database that fails has no room: the answer is made, and goes out."""
        size = len(value) + self.OVERHEAD
        if size > self._max:
            return False
        try:
            await self._database.write((_PUT, [(key, value, size, int(self._clock()))]))
        except StateUnavailable as error:
            log.warning("a response is not kept (%s)", error.message)
            return False
        self._put_since += size
        if self._put_since > self._max * PRUNE_AFTER:
            self._full.set()
        return True

    async def delete(self, key: str) -> bool:
        """See `ResponseStore`.

        Raises:
            StateUnavailable: the database failed.
        """
        if await self.get(key) is None:
            return False
        await self._database.write((_DELETE, [(key,)]))
        return True

    async def prune(self) -> None:
        """Delete what is too old or too much.

        Raises:
            StateUnavailable: the database failed.
        """
        oldest = int(self._clock() - self._ttl)
        await self._database.write((_DELETE_OLD, [(oldest,)]), (_DELETE_SURPLUS, [(self._max,)]))

    async def _prune_on(self) -> None:
        while True:
            self._put_since = 0
            self._full.clear()
            try:
                await self.prune()
            except StateUnavailable as error:  # also where two replicas delete the same at once
                log.warning("old responses could not be deleted (%s); the next try comes", error.message)
            with suppress(TimeoutError):
                async with asyncio.timeout(PRUNE_S):
                    await self._full.wait()


def response_store(settings: Settings, database: Database | None) -> ResponseStore:
    """Where responses are kept with these settings; `database` is opened before it, by who has it."""
    kept = settings.responses
    if database is not None and settings.keeps_responses_in_database:
        return DatabaseStore(database, kept.max_bytes, kept.ttl_s)
    return MemoryStore(kept.max_bytes, kept.ttl_s)
