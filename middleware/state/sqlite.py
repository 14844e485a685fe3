"""State in a file: SQLite in WAL mode, on a thread of its own so that no request waits for the disk."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

from veridical.middleware.errors import StateUnavailable
from veridical.middleware.state.database import Statement, Value, migrate
from veridical.retrievers.wal import use_wal
from veridical.strategies.errors import ConfigError

T = TypeVar("T")
#: Seconds to wait for another process that writes.
BUSY_S = 5.0


class SQLite:
    """A `Database` in the file at `path`, which only its owner may read.

    Every commit is flushed to the disk (`synchronous=FULL`): what is written survives a power cut.
    Several processes of one machine may share the file; it must not lie on a network file system.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._thread = ThreadPoolExecutor(1, "veridical-state")
        self._connection: sqlite3.Connection | None = None

    async def open(self) -> None:
        """Make the file where there is none, and bring its schema up to date."""
        try:
            self._connection = await self._run(self._connect)
            await migrate(self)
        except ConfigError:
            await self.close()
            raise
        except (OSError, StateUnavailable) as error:
            await self.close()
            raise ConfigError(f"The state file {self.path} cannot be used: {error}.") from None

    async def close(self) -> None:
        """Close the file."""
        if self._connection is not None:
            await self._run(self._connection.close)
            self._connection = None
        self._thread.shutdown()

    async def fetch(self, sql: str, *values: Value) -> list[tuple[Any, ...]]:
        """The rows of a query."""
        return await self._run(lambda: self._open_connection.execute(sql, values).fetchall())

    async def write(self, *statements: Statement) -> None:
        """Execute the statements in one transaction."""
        await self._run(lambda: self._commit(statements))

    def _commit(self, statements: tuple[Statement, ...]) -> None:
        connection = self._open_connection
        connection.execute("BEGIN IMMEDIATE")
        try:
            for sql, rows in statements:
                connection.executemany(sql, rows)
            connection.execute("COMMIT")
        except BaseException:
            connection.execute("ROLLBACK")
            raise

    @property
    def _open_connection(self) -> sqlite3.Connection:
        if self._connection is None:
            raise sqlite3.ProgrammingError("the state file is closed")
        return self._connection

    def _connect(self) -> sqlite3.Connection:
        self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.path.touch(mode=0o600)
        connection = sqlite3.connect(self.path, timeout=BUSY_S, isolation_level=None)
        use_wal(connection, BUSY_S)
        connection.execute("PRAGMA synchronous = FULL")
        return connection

    async def _run(self, work: Callable[[], T]) -> T:
        try:
            return await asyncio.get_running_loop().run_in_executor(self._thread, work)
        except sqlite3.Error as error:
            raise StateUnavailable(f"{type(error).__name__}: {error}") from None
