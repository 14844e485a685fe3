"""A disk cache in front of a remote retriever.

SQLite from the standard library: one file that several processes may share, transactions, and values that
are plain JSON. (`diskcache`, the usual library, stores pickles: who can write to its folder can run code.)
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import sqlite3
import threading
import time
import weakref
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import orjson
from langchain_core.callbacks import Callbacks
from langchain_core.documents import Document
from pydantic import Field, PrivateAttr

from veridical.retrievers.base import Retriever
from veridical.retrievers.errors import RetrieverMisconfigured
from veridical.retrievers.wal import use_wal

log = logging.getLogger(__name__)

#: Seconds to wait for another process that writes.
BUSY_S = 2.0
#: As a path: a cache that ends with the process.
MEMORY = ":memory:"

_SCHEMA = (
    "CREATE TABLE IF NOT EXISTS answers (key BLOB PRIMARY KEY, expires REAL NOT NULL, value BLOB NOT NULL)",
    "CREATE INDEX IF NOT EXISTS by_expiry ON answers (expires)",
)


class Shelf:
    """Bytes under keys in an SQLite file, each until its time. Safe to use from many threads and processes.

    A file that is made here can be read by its owner alone.
    A cache must not stop a search: after an error of the file, `get` finds nothing and `put` does
    nothing, with a warning in the log. A file that is no cache is refused when it is opened.
    """

    def __init__(self, path: Path, capacity: int) -> None:
        self.path, self.capacity = path, capacity
        self._lock = threading.Lock()
        try:
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            if str(path) != MEMORY:  # what people asked about can be told from it: it is theirs alone
                path.touch(mode=0o600)
            self._file = sqlite3.connect(path, timeout=BUSY_S, check_same_thread=False, isolation_level=None)
            weakref.finalize(self, self._file.close)
            use_wal(self._file, BUSY_S)
            self._file.execute("PRAGMA synchronous=NORMAL")
            for statement in _SCHEMA:
                self._file.execute(statement)
        except (OSError, sqlite3.Error) as error:
            raise RetrieverMisconfigured(f"{path} cannot be used as a cache: {error}") from error

    def get(self, key: bytes, now: float) -> bytes | None:
        """What lies under `key`, if its time is not over."""
        rows = self._run("SELECT value FROM answers WHERE key = ? AND expires > ?", key, now)
        return rows[0][0] if rows else None

    def put(self, key: bytes, value: bytes, now: float, expires: float) -> None:
        """Keep `value`; what has expired goes, and the nearest to it where there are too many."""
        self._run("INSERT OR REPLACE INTO answers VALUES (?, ?, ?)", key, expires, value)
        self._run("DELETE FROM answers WHERE expires <= ?", now)
        over = (
            "DELETE FROM answers WHERE key IN (SELECT key FROM answers ORDER BY expires LIMIT "
            "max(0, (SELECT count(*) FROM answers) - ?))"
        )
        self._run(over, self.capacity)

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._file.close()

    def _run(self, statement: str, *values: Any) -> list[tuple[Any, ...]]:
        try:
            with self._lock:
                return self._file.execute(statement, values).fetchall()
        except sqlite3.Error as error:
            log.warning("The cache %s is passed by: %s", self.path, error)
            return []


class _Flight:
    """A fetch in an event loop that several callers wait for; it is cancelled when the last of them goes."""

    def __init__(self, task: asyncio.Task[bytes]) -> None:
        self.task = task
        self.waiting = 0

    async def join(self) -> bytes:
        self.waiting += 1
        try:
            return await asyncio.shield(self.task)
        finally:
            self.waiting -= 1
            if not self.waiting:
                self.task.cancel()


class CachedRetriever(Retriever):
    """Keeps what `retriever` found in the SQLite file `path` for `ttl` seconds, at most `capacity` answers.

    Equal searches that run at once in this process become one (single flight). Failures are shared by
    those who wait, and not kept; neither are empty results, since a source may know more the next time.
    Put it around each remote source, not around a hybrid: what a hybrid finds while a part is down is
    worth less than it looks.
    """

    name: str | None = "cached"
    retriever: Retriever
    path: Path
    ttl: float = Field(default=7 * 24 * 3600.0, gt=0)
    capacity: int = Field(default=50_000, ge=1)
    clock: Callable[[], float] = Field(default=time.time, exclude=True, repr=False)
    _shelf: Shelf = PrivateAttr()
    _flights: dict[tuple[int, bytes], _Flight] = PrivateAttr(default_factory=dict)
    _threads: dict[bytes, Future[bytes]] = PrivateAttr(default_factory=dict)
    _lock: threading.Lock = PrivateAttr(default_factory=threading.Lock)

    def model_post_init(self, context: Any) -> None:
        """Open the file."""
        super().model_post_init(context)
        self._shelf = Shelf(self.path, self.capacity)

    @property
    def identity(self) -> str:
        """That of the retriever: the cache changes no result."""
        return self.retriever.identity

    def close(self) -> None:
        """Close the file."""
        self._shelf.close()

    async def aclose(self) -> None:
        """Close the retriever and the file."""
        await self.retriever.aclose()
        self.close()

    async def afind(self, query: str, k: int, callbacks: Callbacks = None) -> list[Document]:
        """What is kept, or what the retriever finds."""
        key = self._key(query, k)
        kept = await asyncio.to_thread(self._shelf.get, key, self.clock())
        if kept is not None:
            return _unpack(kept)
        place = (id(asyncio.get_running_loop()), key)
        flight = self._flights.get(place)
        if flight is None:
            task = asyncio.create_task(self._fetch(key, query, k, callbacks))
            flight = self._flights[place] = _Flight(task)
        try:
            return _unpack(await flight.join())
        finally:
            if not flight.waiting and self._flights.get(place) is flight:
                del self._flights[place]  # who comes now must not join what is being cancelled

    async def _fetch(self, key: bytes, query: str, k: int, callbacks: Callbacks) -> bytes:
        found = _pack(await self.retriever.ainvoke(query, {"callbacks": callbacks}, k=k))
        await asyncio.to_thread(self._keep, key, found)
        return found

    def find(self, query: str, k: int, callbacks: Callbacks = None) -> list[Document]:
        """As `afind`, from any thread."""
        key = self._key(query, k)
        kept = self._shelf.get(key, self.clock())
        if kept is not None:
            return _unpack(kept)
        with self._lock:
            flight = self._threads.get(key)
            leads = flight is None
            if flight is None:
                flight = self._threads[key] = Future()
        if leads:
            self._fly(flight, key, query, k, callbacks)
        return _unpack(flight.result())

    def _fly(self, flight: Future[bytes], key: bytes, query: str, k: int, callbacks: Callbacks) -> None:
        try:
            found = _pack(self.retriever.invoke(query, {"callbacks": callbacks}, k=k))
            self._keep(key, found)
            flight.set_result(found)
        except BaseException as error:  # those who wait must hear of it, whatever it is
            flight.set_exception(error)
            raise
        finally:
            with self._lock:
                del self._threads[key]

    def _keep(self, key: bytes, found: bytes) -> None:
        if found != b"[]":
            now = self.clock()
            self._shelf.put(key, found, now, now + self.ttl)

    def _key(self, query: str, k: int) -> bytes:
        what = orjson.dumps([self.retriever.identity, k, " ".join(query.split())])
        return hashlib.sha256(what).digest()


def _pack(found: list[Document]) -> bytes:
    return orjson.dumps([[doc.id, doc.page_content, doc.metadata] for doc in found], default=str)


def _unpack(kept: bytes) -> list[Document]:
    return [Document(text, id=name, metadata=metadata) for name, text, metadata in orjson.loads(kept)]
