"""The stores by themselves: bounds, rights, time, and every way in which one may fail."""

import asyncio
import os
import sqlite3
import stat
from types import MappingProxyType

import pytest
from hypothesis import given
from hypothesis import strategies as st

from veridical.middleware.cache.disk import DiskStore
from veridical.middleware.cache.entries import BYTES, Entry, entry_of, items_of, unpacked
from veridical.middleware.cache.stores import StoreFailed
from veridical.strategies.errors import ConfigError
from veridical.strategies.reply import Ending
from veridical.strategies.types import Answer, Delta, Usage
from veridical.tests.answers import Say
from veridical.tests.conftest import settings_before
from veridical.tests.proxy import running_proxy, wait_until


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def both_failed(cache, asked):
    """Wait until the last of `asked` questions has looked and kept in vain: a twin before that joins it."""
    wait_until(lambda: cache.counts.errors == 2 * asked)


def run(store, *steps):
    """Each step's result; a step is `put` or `get` with its arguments."""

    async def main():
        found = []
        try:
            for name, *values in steps:
                found.append(await getattr(store, name)(*values))
        finally:
            await store.close()
        return found

    return asyncio.run(main())


def test_a_file_keeps_within_its_bound_and_the_oldest_leave(tmp_path):
    clock = Clock()
    store = DiskStore(tmp_path / "a" / "b.sqlite", 10_000, 60, clock)

    async def main():
        for number in range(200):
            clock.now += 0.01
            assert await store.put(f"k{number}", bytes(200))
        assert await store.get("k199") == bytes(200)
        assert await store.get("k0") is None
        assert not await store.put("huge", bytes(10_001))
        await store.close()

    asyncio.run(main())
    with sqlite3.connect(tmp_path / "a" / "b.sqlite") as file:
        (kept,) = file.execute("SELECT SUM(LENGTH(value)) FROM answers").fetchone()
    assert 8_000 <= kept <= 10_000


def test_only_the_owner_may_read_a_file(tmp_path):
    path = tmp_path / "folder" / "answers.sqlite"
    before = os.umask(0)
    try:
        store = DiskStore(path, 1000, 60)

        async def main():
            await store.put("k", b"secret")
            rights = {stat.S_IMODE(each.stat().st_mode) for each in path.parent.iterdir()}
            await store.close()
            return rights

        assert asyncio.run(main()) == {0o600}
        assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    finally:
        os.umask(before)


def test_a_file_outlives_the_process_until_its_time(tmp_path):
    clock = Clock()
    assert (
        run(DiskStore(tmp_path / "f", 1000, 60, clock), ("put", "k", b"v"), ("put", "k", b"w")) == [True] * 2
    )
    assert run(DiskStore(tmp_path / "f", 1000, 60, clock), ("get", "k"), ("get", "other")) == [b"w", None]
    clock.now += 61
    assert run(DiskStore(tmp_path / "f", 1000, 60, clock), ("get", "k")) == [None]


def test_a_file_that_is_no_cache_is_left_alone_and_said_without_its_contents(tmp_path):
    path = tmp_path / "precious.txt"
    path.write_text("not a database, but somebody's work " * 100)
    with pytest.raises(StoreFailed, match=r"precious.txt: DatabaseError") as told:
        run(DiskStore(path, 1000, 60), ("get", "k"))
    assert "somebody" not in str(told.value)
    assert path.read_text().startswith("not a database")


@pytest.mark.parametrize("url", ["redis://:pw-secret@[/x", "nonsense:pw-secret"])
def test_a_url_of_redis_that_cannot_be_read_stops_the_start_without_its_secret(url, monkeypatch, upstream):
    monkeypatch.setenv("CACHE_REDIS", url)
    with (
        pytest.raises(ConfigError) as told,
        running_proxy(settings_before(upstream, cache={"kind": "redis", "redis_url_env": "CACHE_REDIS"})),
    ):
        pass
    assert "pw-secret" not in told.value.message


def test_redis_without_a_url_is_named(upstream):
    with (
        pytest.raises(ConfigError, match=r"cache\.redis_url_env"),
        running_proxy(settings_before(upstream, cache={"kind": "redis"})),
    ):
        pass


def test_redis_lets_entries_go_in_time(redis):
    from veridical.middleware.cache.redis_store import RedisStore

    async def main():
        store = RedisStore(redis.url, 60.0)
        assert await store.put("k", b"\x00\xff")
        assert await store.get("k") == b"\x00\xff"
        assert 50_000 < await store._redis.pttl("veridical:answer:k") <= 60_000
        await store.close()

    asyncio.run(main())


@pytest.mark.parametrize("trace", ["none", "summary"])
def test_while_redis_is_down_backends_answer_and_it_is_said_once(
    cached, caches, upstream, redis, monkeypatch, caplog, trace
):
    monkeypatch.setenv("CACHE_REDIS", redis.url + "?db=15")
    monkeypatch.setattr("veridical.middleware.cache.cache.PAUSE_S", 0.0)
    proxy = cached({"kind": "redis", "redis_url_env": "CACHE_REDIS"})
    upstream.on(draft=Say("hi"))
    body = {"temperature": 0, "veridical": {"trace": trace}, "seed": 99}
    redis.stop()
    try:
        for asked in (1, 2, 3):
            assert proxy.chat(**body).status == 200
            both_failed(caches[0], asked)
    finally:
        redis.start()
    assert len(upstream.chats) == 3
    assert caplog.text.count("the cache fails (Redis: ConnectionError)") == 1
    proxy.chat(**body)
    wait_until(lambda: caches[0].counts.stores == 1)
    proxy.chat(**body)
    assert len(upstream.chats) == 4
    assert "the cache works again" in caplog.text


def test_a_disk_that_fails_is_passed_by_and_used_again(cached, caches, upstream, tmp_path, monkeypatch):
    monkeypatch.setattr("veridical.middleware.cache.cache.PAUSE_S", 0.0)
    path = tmp_path / "answers.sqlite"
    path.mkdir()
    proxy = cached({"kind": "disk", "path": str(path)})
    upstream.on(draft=Say("hi"))
    for asked in (1, 2):
        assert proxy.chat(temperature=0).status == 200
        both_failed(caches[0], asked)
    path.rmdir()
    assert proxy.chat(temperature=0).headers["x-veridical-cache"] == "miss"
    wait_until(lambda: caches[0].counts.stores == 1)
    assert proxy.chat(temperature=0).headers["x-veridical-cache"] == "hit"


@pytest.mark.parametrize("trace", ["none", "summary"])
@pytest.mark.parametrize(
    "damage",
    [lambda raw: b"", lambda raw: b"{}\n", lambda raw: raw[:-9], lambda raw: raw.replace(b"hi", b"ho")],
)
def test_what_is_damaged_is_asked_for_again_and_replaced(cached, caches, upstream, tmp_path, damage, trace):
    path = tmp_path / "answers.sqlite"
    proxy = cached({"kind": "disk", "path": str(path)})
    upstream.on(draft=Say("hi"))
    body = {"temperature": 0, "veridical": {"trace": trace}}
    proxy.chat(**body)
    wait_until(lambda: caches[0].counts.stores == 1)
    with sqlite3.connect(path) as file:
        ((raw,),) = file.execute("SELECT value FROM answers").fetchall()
        file.execute("UPDATE answers SET value = ?", (damage(raw),))
    found = [proxy.chat(**body).json["choices"][0]["message"]["content"] for _ in range(2)]
    assert found == ["hi", "hi"]
    assert len(upstream.chats) == 2
    assert caches[0].counts.errors == 1


CALL = {"index": 0, "id": "c", "function": {"name": "f", "arguments": '{"é": [1.50, null]}'}}
LOGPROBS = {"content": [{"token": "😀", "logprob": -0.25, "bytes": [240], "top_logprobs": []}]}


def test_an_answer_comes_out_as_it_went_in():
    said = [
        Delta({"role": "assistant", "content": "", "reasoning_content": "hm"}),
        Delta({"content": "Žluťoučký 🐎\n\u2028"}, None, LOGPROBS),
        Delta({"tool_calls": [CALL], "novel": MappingProxyType({"a": [True, None]})}),
        Delta({}, "tool_calls"),
    ]
    other = Answer({"role": "assistant", "content": None, "tool_calls": [CALL]}, "stop", LOGPROBS)
    for ending in (Ending(), Ending(Usage(1, 2, 3, 4), {"system_fingerprint": None}, (other,))):
        *found, last = items_of(unpacked(entry_of([*said, ending]).packed()).data)
        assert found == said
        assert (last.usage, last.envelope, last.others) == (ending.usage, ending.envelope, ending.others)


@given(st.binary(), st.text(), st.floats(0, 1e12))
def test_a_body_comes_out_as_it_went_in(data, content_type, at):
    entry = Entry(BYTES, at, data, content_type)
    assert unpacked(entry.packed()) == entry
