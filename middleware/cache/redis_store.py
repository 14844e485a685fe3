"""The cache in Redis (extra `redis`), shared by every replica that names the same."""

from __future__ import annotations

import redis.asyncio
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from veridical.middleware.cache.stores import StoreFailed
from veridical.strategies.errors import ConfigError

#: Seconds that Redis gets to answer.
TIMEOUT_S = 1.0


class RedisStore:
    """A `Store` at a `redis://` URL. How much it keeps, and what leaves first, is Redis's own matter
    (`maxmemory`, `maxmemory-policy`).

    Raises:
        ConfigError: the URL cannot be read.
    """

    def __init__(self, url: str, ttl_s: float) -> None:
        self._ttl_ms = max(1, round(ttl_s * 1000))
        try:
            self._redis = redis.asyncio.from_url(
                url,
                socket_timeout=TIMEOUT_S,
                socket_connect_timeout=TIMEOUT_S,
                retry=Retry(NoBackoff(), 0),
            )
        except ValueError:
            raise ConfigError("The URL of the cache's Redis cannot be read.") from None

    async def get(self, key: str) -> bytes | None:
        """See `Store`."""
        try:
            found = await self._redis.get(_name(key))
        except (RedisError, OSError, TimeoutError) as error:
            raise StoreFailed(f"Redis: {type(error).__name__}") from None
        return found if isinstance(found, bytes) else None

    async def put(self, key: str, value: bytes) -> bool:
        """See `Store`."""
        try:
            return bool(await self._redis.set(_name(key), value, px=self._ttl_ms))
        except (RedisError, OSError, TimeoutError) as error:
            raise StoreFailed(f"Redis: {type(error).__name__}") from None

    async def close(self) -> None:
        """See `Store`."""
        await self._redis.aclose()


def _name(key: str) -> str:
    return f"veridical:answer:{key}"
