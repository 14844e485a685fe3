"""The cache in a file: SQLite, on a thread of its own so that no request waits for another's disk."""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from veridical.middleware.cache.stores import StoreFailed
from veridical.retrievers.wal import use_wal

T = TypeVar("T")
#: Seconds to wait for another process that writes.
BUSY_S = 1.0
#: What is left after a clearing, as a share of the bound: there is one in every tenth of it, not at each put.
CLEARED = 0.9

_TABLE = """CREATE TABLE IF NOT EXISTS answers
    (key TEXT PRIMARY KEY, expires REAL NOT NULL, size INTEGER NOT NULL, value BLOB NOT NULL)"""
_INDEX = "CREATE INDEX IF NOT EXISTS answers_expires ON answers (expires, size)"
_CLEAR = """DELETE FROM answers WHERE key IN (SELECT key FROM
    (SELECT key, SUM(size) OVER (ORDER BY expires DESC, key) AS up_to FROM answers) WHERE up_to > ?)"""


class DiskStore:
    """A `Store` in the file at `path`, which only its owner may read; several processes may share it.

    It holds at most `max_bytes` of answers; where that is passed the oldest leave. It must not lie on a
    network file system.
    """

    def __init__(
        self, path: Path, max_bytes: int, ttl_s: float, clock: Callable[[], float] = time.time
    ) -> None:
        self.path, self._max, self._ttl, self._clock = path, max_bytes, ttl_s, clock
        self._thread = ThreadPoolExecutor(1, "veridical-cache")
        self._file: sqlite3.Connection | None = None
        self._size = 0

    async def get(self, key: str) -> bytes | None:
        """See `Store`."""
        return await self._run(lambda: self._get(key))

    async def put(self, key: str, value: bytes) -> bool:
        """See `Store`."""
        return len(value) <= self._max and await self._run(lambda: self._put(key, value))

    async def close(self) -> None:
        """See `Store`."""
        await asyncio.get_running_loop().run_in_executor(self._thread, self._shut)
        self._thread.shutdown()

    def _get(self, key: str) -> bytes | None:
        found = self._opened().execute(
            "SELECT value FROM answers WHERE key = ? AND expires > ?", (key, self._clock())
        )
        row = found.fetchone()
        return None if row is None else bytes(row[0])

    def _put(self, key: str, value: bytes) -> bool:
        file = self._opened()
        file.execute(
            "INSERT OR REPLACE INTO answers VALUES (?, ?, ?, ?)",
            (key, self._clock() + self._ttl, len(value), value),
        )
        self._size += len(value)
        if self._size > self._max:  # as far as this process knows: others may have put, or cleared
            file.execute("DELETE FROM answers WHERE expires <= ?", (self._clock(),))
            self._size = _total(file)
            if self._size > self._max:
                file.execute(_CLEAR, (int(self._max * CLEARED),))
                self._size = _total(file)
        return True

    def _opened(self) -> sqlite3.Connection:
        if self._file is None:
            self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            self.path.touch(mode=0o600)  # SQLite gives its other files the same rights
            self._file = sqlite3.connect(self.path, timeout=BUSY_S, isolation_level=None)
            use_wal(self._file, BUSY_S)
            for statement in ("PRAGMA synchronous = NORMAL", _TABLE, _INDEX):
                self._file.execute(statement)
            self._size = _total(self._file)
        return self._file

    def _shut(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    async def _run(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._told, work)

    def _told(self, work: Callable[[], T]) -> T:
        try:
            return work()
        except (OSError, sqlite3.Error) as error:
            self._shut()  # the next use opens it anew
            raise StoreFailed(f"{self.path.name}: {type(error).__name__}") from None


def _total(file: sqlite3.Connection) -> int:
    return int(file.execute("SELECT COALESCE(SUM(size), 0) FROM answers").fetchone()[0])
