"""Where responses are kept, so that a later request can continue or look at one."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Protocol


class ResponseStore(Protocol):
    """Bytes by key. What is put may be gone later: stores are bounded. Opened and closed with the server."""

    async def open(self) -> None:
        """Begin."""
        ...

    async def close(self) -> None:
        """End."""
        ...

    async def get(self, key: str) -> bytes | None:
        """What was put under `key`, or None."""
        ...

    async def put(self, key: str, value: bytes) -> bool:
        """Keep `value`; says whether there was room."""
        ...

    async def delete(self, key: str) -> bool:
        """Forget `key`; says whether there was anything."""
        ...


class MemoryStore:
    """In this process: at most `max_bytes`, the least recently used leaving first, none older than
    `ttl_s` seconds."""

    #: What an entry costs beside its value, roughly: key, tuple, links.
    OVERHEAD = 300

    def __init__(self, max_bytes: int, ttl_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._max, self._ttl, self._clock = max_bytes, ttl_s, clock
        self._kept: OrderedDict[str, tuple[float, bytes]] = OrderedDict()
        self._size = 0

    async def open(self) -> None:
        """See `ResponseStore`; there is nothing to do."""

    async def close(self) -> None:
        """See `ResponseStore`; there is nothing to do."""

    async def get(self, key: str) -> bytes | None:
        """See `ResponseStore`; a look counts as use, but does not lengthen its life."""
        at, value = self._kept.get(key, (0.0, None))
        if value is None:
            return None
        if self._clock() - at >= self._ttl:
            await self.delete(key)
            return None
        self._kept.move_to_end(key)
        return value

    async def put(self, key: str, value: bytes) -> bool:
        """See `ResponseStore`."""
        await self.delete(key)
        size = len(value) + self.OVERHEAD
        if size > self._max:
            return False
        while self._size + size > self._max:
            await self.delete(next(iter(self._kept)))
        self._kept[key] = (self._clock(), value)
        self._size += size
        return True

    async def delete(self, key: str) -> bool:
        """See `ResponseStore`."""
        _, value = self._kept.pop(key, (0.0, None))
        if value is None:
            return False
        self._size -= len(value) + self.OVERHEAD
        return True
