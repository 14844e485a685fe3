"""Responses kept in the state database: bounded, found by every replica and after a restart."""

import asyncio

import openai
import pytest

from veridical.middleware.config import Settings
from veridical.middleware.responses.database_store import DatabaseStore
from veridical.tests.access.conftest import opened
from veridical.tests.answers import Say
from veridical.tests.proxy import wait_until

SIZE = 100 + DatabaseStore.OVERHEAD


class Clock:
    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        return self.now


def test_what_one_replica_keeps_another_finds_and_deletes(connect):
    async def run():
        databases = [await opened(connect) for _ in range(2)]
        mine, other = (DatabaseStore(database, 10_000, 60) for database in databases)
        value = bytes(range(256)) + "“ä”\0".encode()
        assert await mine.put("a/1", value)
        assert await other.get("a/1") == value
        assert await other.get("b/1") is None
        assert await mine.put("a/1", b"anew")
        assert await other.get("a/1") == b"anew"
        assert await other.delete("a/1")
        assert not await other.delete("a/1")
        assert await mine.get("a/1") is None
        for database in databases:
            await database.close()

    asyncio.run(run())


def test_it_is_bounded_in_bytes_and_time(connect):
    async def run():
        database, clock = await opened(connect), Clock()
        store = DatabaseStore(database, 3 * SIZE, 10, clock)
        for name in "abcd":
            assert await store.put(name, b"x" * 100)
            clock.now += 1
        assert not await store.put("large", b"x" * 2_000)
        await store.prune()
        assert [name for name in "abcd" if await store.get(name)] == ["b", "c", "d"]
        clock.now += 7.0  # b is ten seconds old, and not yet deleted
        assert [name for name in "abcd" if await store.get(name)] == ["c", "d"]
        assert not await store.delete("b")
        await store.prune()
        assert await database.fetch("SELECT key FROM responses ORDER BY key") == [("c",), ("d",)]
        await database.close()

    asyncio.run(run())


def test_replicas_delete_in_the_background_as_much_as_they_put(connect):
    async def run():
        databases = [await opened(connect) for _ in range(2)]
        stores = [DatabaseStore(database, 20 * SIZE, 3600) for database in databases]
        for store in stores:
            await store.open()
        for number in range(60):
            assert await stores[number % 2].put(f"k{number:02}", b"x" * 100)

        async def count():
            ((found,),) = await databases[0].fetch("SELECT COUNT(*) FROM responses")
            return found

        async with asyncio.timeout(20):
            while await count() > 20:  # noqa: ASYNC110 - a database tells nobody
                await asyncio.sleep(0.01)
        assert await stores[1].get("k59")
        for store, database in zip(stores, databases, strict=True):
            await store.close()
            await database.close()

    asyncio.run(run())


def test_a_response_outlives_the_process(guarded, create, upstream):
    upstream.on(draft=[Say("One."), Say("Two.")])
    key = create()
    first = guarded().client_with(key).responses.create(model="m1", input="one")
    again = guarded().client_with(key)
    assert again.responses.retrieve(first.id) == first
    second = again.responses.create(model="m1", input="two", previous_response_id=first.id)
    assert second.output_text == "Two."
    assert len(upstream.chats[-1].body["messages"]) == 3
    with pytest.raises(openai.NotFoundError):
        guarded().client_with(create(name="bob")).responses.retrieve(first.id)


def test_without_keys_a_chosen_place_is_used(serve, upstream, tmp_path):
    upstream.on(draft=Say("One."))
    kept = {"path": str(tmp_path / "own.sqlite")}
    first = serve(state=kept).client.responses.create(model="m1", input="one")
    assert serve(state=kept).client.responses.retrieve(first.id) == first


def test_a_database_that_fails_costs_no_answer(guarded, create, upstream, monkeypatch, caplog):
    from veridical.middleware.errors import StateUnavailable
    from veridical.middleware.state.sqlite import SQLite

    upstream.on(draft=Say("One."))
    client = guarded().client_with(create())
    first = client.responses.create(model="m1", input="one")
    assert first.to_dict()["store"] is True

    async def fail(self, *arguments):
        raise StateUnavailable("disk full")

    monkeypatch.setattr(SQLite, "write", fail)
    monkeypatch.setattr(SQLite, "fetch", fail)
    unkept = client.responses.create(model="m1", input="one")
    assert (unkept.output_text, unkept.to_dict()["store"]) == ("One.", False)
    wait_until(lambda: "a response is not kept (disk full)" in caplog.text)
    with pytest.raises(openai.InternalServerError) as caught:
        client.responses.create(model="m1", input="two", previous_response_id=first.id)
    assert (caught.value.status_code, caught.value.code) == (503, "state_unavailable")


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, False),
        ({"auth": {"keys": True}}, True),
        ({"auth": {"client_keys_env": ["A_KEY"]}}, False),
        ({"state": {"path": "x"}}, True),
        ({"state": {"database_url_env": "STATE_URL"}}, True),
        ({"state": {"redis_url_env": "LIMITS_URL"}}, False),
        ({"auth": {"keys": True}, "responses": {"store": "memory"}}, False),
        ({"responses": {"store": "database"}}, True),
    ],
)
def test_where_responses_are_kept_follows_the_state(settings, expected):
    assert Settings.model_validate(settings).keeps_responses_in_database is expected
