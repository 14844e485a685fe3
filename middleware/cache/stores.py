"""Where the cache keeps bytes: in memory, in an SQLite file, or in Redis."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Protocol

from veridical.middleware.cache.settings import CacheSettings
from veridical.middleware.responses.store import MemoryStore
from veridical.strategies.errors import ConfigError


class StoreFailed(Exception):
    """A store did not do what it was asked; its text never holds an address or what is kept."""


class Store(Protocol):
    """Bytes by key, each until its time. What is put may be gone at any moment.

    Raises:
        StoreFailed: by every method but `close`.
    """

    async def get(self, key: str) -> bytes | None:
        """What was put under `key`, or None."""
        ...

    async def put(self, key: str, value: bytes) -> bool:
        """Keep `value`; says whether there was room."""
        ...

    async def close(self) -> None:
        """Let go of file or connections."""
        ...


class InMemory(MemoryStore):
    """In this process, and gone with it."""

    async def close(self) -> None:
        """Nothing to let go of."""


def make_store(settings: CacheSettings, redis_url: str | None) -> Store:
    """The store that the settings name; nothing is opened before its first use.

    Raises:
        ConfigError: the extra is not installed, or the URL cannot be read.
    """
    if settings.kind == "memory":
        return InMemory(settings.max_bytes, settings.ttl_s)
    if settings.kind == "disk":
        from veridical.middleware.cache.disk import DiskStore

        path = Path(os.path.expandvars(settings.path)).expanduser()
        return DiskStore(path, settings.max_bytes, settings.ttl_s)
    if redis_url is None:
        raise ConfigError("cache.kind = 'redis' needs cache.redis_url_env, the variable with its URL.")
    try:
        from veridical.middleware.cache.redis_store import RedisStore
    except ImportError:
        raise ConfigError("This needs the extra 'redis': pip install 'veridical[redis]'.") from None
    return RedisStore(redis_url, settings.ttl_s)
