"""The state database, SQLite and PostgreSQL alike: schema, keys, usage, and faults that name no secret."""

import asyncio
import subprocess
import sys
from dataclasses import replace

import pytest

from veridical.middleware.access.key_store import KeyStore
from veridical.middleware.access.keys import ApiKey, made
from veridical.middleware.access.usage import Ledger, Line, Spending, UsageStore
from veridical.middleware.errors import StateUnavailable
from veridical.middleware.state import database as module
from veridical.middleware.state.sqlite import SQLite
from veridical.strategies.errors import ConfigError, NotFound
from veridical.tests.access.conftest import opened

KEY = ApiKey("", "älice", "", ("m*", "b/x"), ("cove",), 1, 2, 3_000_000_000, True, 0, 4_000_000_000)


def test_a_key_comes_back_as_it_went_in(connect):
    async def run():
        database = await opened(connect)
        store = KeyStore(database)
        assert (await store.mark(), await store.all()) == ((0, 0), [])
        _, key = made(KEY)
        _, plain = made(ApiKey("", "bob", ""))
        await store.add(key)
        await store.add(replace(plain, created_at=key.created_at + 1))
        assert await store.all() == [key, replace(plain, created_at=key.created_at + 1)]
        before = await store.mark()
        await store.revoke(key.id)
        assert await store.mark() != before
        first = (await store.all())[0].revoked_at
        await store.revoke(key.id)
        assert (await store.all())[0].revoked_at == first is not None
        with pytest.raises(NotFound):
            await store.revoke("nobody")
        await database.close()

    asyncio.run(run())


def test_usage_adds_up_from_several_writers_at_once(connect):
    line, other = Line("k", "2026-03-01", "m", "direct"), Line("j", "2026-03-02", "m", "cove")

    async def run():
        databases = await asyncio.gather(*(opened(connect) for _ in range(4)))
        stores = [UsageStore(database) for database in databases]
        each = {line: Spending(1, 2, 3, 4, 5), other: Spending(1, 1, 3_000_000_000, 1, 0)}
        adds = [store.add(f"w{w}", n, each) for w, store in enumerate(stores) for n in range(5)]
        await asyncio.gather(*adds)
        found = dict(await stores[0].read("2026-03-01", "2026-03-31", key_id=None, limit=9))
        assert found[line] == Spending(20, 40, 60, 80, 100)
        assert await stores[0].spent("2026-03-02") == {"j": 60_000_000_020}
        assert await stores[0].read("2026-03-02", "2026-03-31", key_id="k", limit=9) == []
        for database in databases:
            await database.close()

    asyncio.run(run())


def test_a_write_is_done_whole_or_not_at_all(connect):
    async def run():
        database = await opened(connect)
        store = UsageStore(database)
        broken = {Line("k", "d", "m", "s"): Spending(1), Line("z", "d", None, "s"): Spending(1)}
        with pytest.raises(StateUnavailable):
            await store.add("w", 1, broken)
        assert await store.read("", "z", key_id=None, limit=9) == []
        assert not await store.has("w", 1)
        await store.add("w", 1, {Line("k", "d", "m", "s"): Spending(1)})
        assert await store.has("w", 1)
        await database.close()

    asyncio.run(run())


@pytest.mark.parametrize("arrives", [False, True])
def test_a_batch_counts_once_whether_its_commit_was_seen_or_not(connect, monkeypatch, arrives):
    async def run():
        database = await opened(connect)
        ledger, line = Ledger(UsageStore(database)), Line("k", "d", "m", "s")
        write = database.write

        async def break_off(*statements):
            if arrives:
                await write(*statements)
            raise StateUnavailable("gone")

        for _ in range(2):
            monkeypatch.setattr(database, "write", break_off)
            ledger.add(line, Spending(1, 1, 10, 5))
            with pytest.raises(StateUnavailable):
                await ledger.flush()
            ledger.add(line, Spending(1, 1, 10, 5))
            monkeypatch.setattr(database, "write", write)
            await ledger.flush()
        assert await ledger.store.read("", "z", key_id=None, limit=9) == [(line, Spending(4, 4, 40, 20))]
        await database.close()

    asyncio.run(run())


def test_a_schema_is_brought_up_to_date_once_however_many_start(connect, monkeypatch):
    async def run():
        databases = await asyncio.gather(*(opened(connect) for _ in range(4)))
        later = (*module.MIGRATIONS, ("CREATE TABLE later (x BIGINT)", "INSERT INTO later VALUES (7)"))
        monkeypatch.setattr(module, "MIGRATIONS", later)
        databases += await asyncio.gather(*(opened(connect) for _ in range(4)))
        assert await databases[0].fetch("SELECT x FROM later") == [(7,)]
        versions = await databases[0].fetch("SELECT version FROM schema_versions ORDER BY version")
        assert versions == [(number,) for number in range(1, len(later) + 1)]
        for database in databases:
            await database.close()

    asyncio.run(run())


def test_a_migration_that_fails_leaves_the_schema_as_it_was(connect, monkeypatch):
    async def run():
        await (await opened(connect)).close()
        broken = (*module.MIGRATIONS, ("CREATE TABLE half (x BIGINT)", "CREATE NONSENSE"))
        monkeypatch.setattr(module, "MIGRATIONS", broken)
        with pytest.raises(ConfigError):
            await opened(connect)
        monkeypatch.undo()
        database = await opened(connect)
        with pytest.raises(StateUnavailable):
            await database.fetch("SELECT x FROM half")
        await database.close()

    asyncio.run(run())


def test_a_schema_of_a_newer_version_is_not_touched(connect, monkeypatch):
    async def run():
        database = await opened(connect)
        await database.write(("INSERT INTO schema_versions VALUES (?, ?)", [(99, 0)]))
        await database.close()
        with pytest.raises(ConfigError, match=f"schema 99; this version knows {len(module.MIGRATIONS)}"):
            await opened(connect)

    asyncio.run(run())


def test_a_file_that_cannot_be_used_is_named(tmp_path):
    (tmp_path / "text").write_text("this is no database, but long enough to be looked at" * 20)
    for path in (tmp_path / "text", tmp_path / "text" / "below"):
        with pytest.raises(ConfigError, match=r"The state file .*text.* cannot be used"):
            asyncio.run(opened(lambda path=path: SQLite(path)))


@pytest.mark.parametrize(
    "change",
    [("pg-secret", "pg-wrong"), ("127.0.0.1:", "127.0.0.1:1"), ("tester:", "t:x:"), ("127.0.0.1", "[")],
)
def test_a_server_that_cannot_be_used_is_told_without_its_secret(postgres, change):
    from veridical.middleware.state.postgres import PostgreSQL

    with pytest.raises(ConfigError) as told:
        asyncio.run(opened(lambda: PostgreSQL(postgres.url.replace(*change))))
    assert "The state database cannot be used" in told.value.message
    assert "pg-" not in told.value.message


def test_a_server_without_keys_loads_no_database():
    program = (
        "import sys; from veridical.server import create_app;"
        "from veridical.middleware.config import Settings; create_app(Settings());"
        " print(*({'sqlite3', 'asyncpg', 'redis'} & sys.modules.keys()))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []
