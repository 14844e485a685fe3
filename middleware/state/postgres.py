"""State in PostgreSQL, for several replicas (extra `postgres`)."""

from __future__ import annotations

import asyncio
import itertools
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import lru_cache
from typing import Any

import asyncpg

from veridical.middleware.errors import StateUnavailable
from veridical.middleware.state.database import Statement, Value, migrate
from veridical.strategies.errors import ConfigError

#: The roots of the driver's errors; a connection that dies in the middle of a statement may raise any.
_DRIVER = (asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError)
#: Seconds for a connection, and for one statement.
TIMEOUT_S = 10.0


class PostgreSQL:
    """A `Database` at a `postgresql://` URL. Statements are not prepared by name, so that a pooler such
    as PgBouncer may stand between."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._pool: Any = None

    async def open(self) -> None:
        """Connect, and bring the schema up to date."""
        try:
            async with _told():
                self._pool = await asyncpg.create_pool(
                    self._url,
                    min_size=0,
                    max_size=4,
                    timeout=TIMEOUT_S,
                    command_timeout=TIMEOUT_S,
                    statement_cache_size=0,
                    reset=_left_as_it_is,
                )
            await migrate(self)
        except ConfigError:
            await self.close()
            raise
        except (ValueError, OverflowError, StateUnavailable) as error:
            await self.close()
            found = str(error) if isinstance(error, StateUnavailable) else "its URL cannot be read"
            raise ConfigError(f"The state database cannot be used: {found}.") from None

    async def close(self) -> None:
        """Close the connections; one that does not end in time is cut."""
        if self._pool is None:
            return
        pool, self._pool = self._pool, None
        try:
            async with _told(), asyncio.timeout(TIMEOUT_S):
                await pool.close()
        except StateUnavailable:
            pool.terminate()

    async def fetch(self, sql: str, *values: Value) -> list[tuple[Any, ...]]:
        """The rows of a query."""
        async with _told():
            return [tuple(row) for row in await self._pool.fetch(numbered(sql), *values)]

    async def write(self, *statements: Statement) -> None:
        """Execute the statements in one transaction."""
        async with _told(), self._pool.acquire() as connection, connection.transaction():
            for sql, rows in statements:
                await connection.executemany(numbered(sql), rows)


async def _left_as_it_is(connection: Any) -> None:
    """Between two uses there is nothing to reset: no statement of ours changes the session."""


@lru_cache(maxsize=64)
def numbered(sql: str) -> str:
    """`sql` with PostgreSQL's numbered parameters in the place of `?`."""
    numbers = itertools.count(1)
    return re.sub(r"\?", lambda _: f"${next(numbers)}", sql)


@asynccontextmanager
async def _told() -> AsyncIterator[None]:
    """Turn the driver's and the socket's errors into ours, by kind: their texts may hold the address."""
    try:
        yield
    except (*_DRIVER, OSError, TimeoutError) as error:
        raise StateUnavailable(f"PostgreSQL: {type(error).__name__}") from None
