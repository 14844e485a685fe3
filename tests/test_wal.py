"""A file of SQLite that another process has just begun to make: whoever opens it too waits."""

import asyncio
import sqlite3
import threading
import time

import pytest

from veridical.middleware.cache.disk import DiskStore
from veridical.middleware.state.sqlite import SQLite
from veridical.retrievers.cache import Shelf
from veridical.retrievers.wal import use_wal

HELD_S = 0.3


@pytest.fixture
def held(tmp_path):
    """A file that is being written to for a while, not yet ahead."""
    path = tmp_path / "file.sqlite"
    first = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    first.execute("BEGIN IMMEDIATE")
    letting_go = threading.Timer(HELD_S, lambda: first.execute("COMMIT"))
    letting_go.start()
    yield path
    letting_go.join()
    first.close()


def mode(path):
    with sqlite3.connect(path) as file:
        return file.execute("PRAGMA journal_mode").fetchone()


def test_the_state_waits(held):
    async def main():
        state = SQLite(held)
        await state.open()
        await state.close()

    asyncio.run(main())
    assert mode(held) == ("wal",)


def test_the_cache_of_answers_waits(held):
    async def main():
        store = DiskStore(held, 10_000, 60.0)
        assert await store.put("k", b"v")
        assert await store.get("k") == b"v"
        await store.close()

    asyncio.run(main())


def test_the_cache_of_searches_waits(held):
    shelf = Shelf(held, 10)
    shelf.put(b"k", b"v", 0.0, 1.0)
    assert shelf.get(b"k", 0.0) == b"v"
    shelf.close()


def test_a_file_that_stays_locked_is_not_waited_for_without_end(held):
    began = time.monotonic()
    with pytest.raises(sqlite3.OperationalError, match="locked"):
        use_wal(sqlite3.connect(held), 0.05)
    assert time.monotonic() - began >= 0.05


def test_what_is_no_database_is_told_at_once(tmp_path):
    path = tmp_path / "file"
    path.write_text("no database, but long enough to be looked at\n" * 40)
    with pytest.raises(sqlite3.DatabaseError):
        use_wal(sqlite3.connect(path), 60.0)
