import asyncio
import logging
import sqlite3
import stat
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from veridical.retrievers.cache import CachedRetriever
from veridical.retrievers.errors import RetrieverMisconfigured, RetrieverUnavailable
from veridical.retrievers.testing import FakeRetriever


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def make(tmp_path: Path, clock: Clock) -> Iterator[Callable[..., CachedRetriever]]:
    made: list[CachedRetriever] = []

    def start(inner: FakeRetriever, **settings: Any) -> CachedRetriever:
        settings = {"path": tmp_path / "cache" / "answers.sqlite", "ttl": 60, "clock": clock, **settings}
        made.append(CachedRetriever(retriever=inner, **settings))
        return made[-1]

    yield start
    for cache in made:
        cache.close()


def ask(cache: CachedRetriever, query: str, asynchronous: bool = False, **kwargs: int) -> list[Any]:
    return asyncio.run(cache.ainvoke(query, **kwargs)) if asynchronous else cache.invoke(query, **kwargs)


@pytest.mark.parametrize("asynchronous", [False, True])
def test_a_search_is_asked_once_and_gives_the_same_again(make: Any, asynchronous: bool) -> None:
    inner = FakeRetriever(sources=("a", "b"))
    cache = make(inner)
    first = ask(cache, "q", asynchronous)
    assert ask(cache, " q\n", asynchronous) == first == FakeRetriever(sources=("a", "b")).invoke("q")
    assert inner.queries == ["q"]


def test_another_query_number_or_retriever_is_asked_anew(make: Any) -> None:
    inner = FakeRetriever(sources=("a", "b"))
    cache = make(inner)
    assert len(ask(cache, "q")) == 2
    assert len(ask(cache, "q", k=1)) == 1
    ask(cache, "Q")
    assert inner.queries == ["q", "q", "Q"]
    assert [doc.id for doc in ask(make(FakeRetriever(sources=("c",))), "q")] == ["c"]


def test_answers_outlive_the_process_but_not_their_time(make: Any, clock: Clock) -> None:
    inner = FakeRetriever(sources=("a",))
    ask(make(inner), "q")
    clock.now += 59
    ask(make(inner), "q")
    assert inner.queries == ["q"]
    clock.now += 1
    ask(make(inner), "q")
    assert inner.queries == ["q", "q"]


def test_failures_and_empty_results_are_not_kept(make: Any) -> None:
    empty = FakeRetriever()
    cache = make(empty)
    assert ask(cache, "q") == ask(cache, "q") == []
    assert len(empty.queries) == 2
    failing = FakeRetriever(error=RetrieverUnavailable("down"))
    cache = make(failing)
    for _ in range(2):
        with pytest.raises(RetrieverUnavailable, match="down"):
            ask(cache, "q")
    assert len(failing.queries) == 2


def test_equal_async_searches_at_once_are_one(make: Any) -> None:
    inner = FakeRetriever(sources=("a",), delay=0.1)
    cache = make(inner)

    async def crowd() -> list[Any]:
        return await asyncio.gather(*(cache.ainvoke("q") for _ in range(20)), cache.ainvoke("other"))

    results = asyncio.run(crowd())
    assert sorted(inner.queries) == ["other", "q"]
    assert all(result == results[0] for result in results)
    assert results[0][0] is not results[1][0]  # each caller may change its own


def test_equal_searches_in_threads_at_once_are_one(make: Any) -> None:
    inner = FakeRetriever(sources=("a",), delay=0.2)
    cache = make(inner)
    results: list[Any] = []
    threads = [threading.Thread(target=lambda: results.append(cache.invoke("q"))) for _ in range(10)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert inner.queries == ["q"]
    assert len(results) == 10
    assert all(result == results[0] for result in results)


def test_one_failure_is_told_to_all_who_wait(make: Any) -> None:
    inner = FakeRetriever(error=RetrieverUnavailable("down"), delay=0.1)
    cache = make(inner)

    async def crowd() -> list[Any]:
        return await asyncio.gather(*(cache.ainvoke("q") for _ in range(5)), return_exceptions=True)

    assert [str(error) for error in asyncio.run(crowd())] == ["down"] * 5
    assert inner.queries == ["q"]


def test_a_caller_who_leaves_does_not_take_the_others_along(make: Any) -> None:
    cache = make(FakeRetriever(sources=("a",), delay=0.1))

    async def leave() -> list[Any]:
        first = asyncio.create_task(cache.ainvoke("q"))
        await asyncio.sleep(0.03)
        second = asyncio.create_task(cache.ainvoke("q"))
        await asyncio.sleep(0.03)
        first.cancel()
        return await second

    assert [doc.id for doc in asyncio.run(leave())] == ["a"]


def test_the_last_caller_who_leaves_ends_the_search(make: Any) -> None:
    cancelled = []

    class Slow(FakeRetriever):
        async def afind(self, query: str, k: int, callbacks: Any = None) -> list[Any]:
            try:
                await asyncio.sleep(30)
            except asyncio.CancelledError:
                cancelled.append(query)
                raise
            return []

    cache = make(Slow())

    async def leave() -> None:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.1):
                await cache.ainvoke("q")
        await asyncio.sleep(0.01)

    asyncio.run(leave())
    assert cancelled == ["q"]


def test_the_oldest_answers_make_room(make: Any, clock: Clock) -> None:
    inner = FakeRetriever(sources=("a",))
    cache = make(inner, capacity=3)
    for query in "abcd":
        clock.now += 1
        ask(cache, query)
    ask(cache, "d")
    ask(cache, "a")
    assert inner.queries == ["a", "b", "c", "d", "a"]


def test_the_file_is_its_owners_alone(make: Any, tmp_path: Path) -> None:
    cache = make(FakeRetriever(sources=("a",)), path=tmp_path / "folder" / "cache.sqlite")
    ask(cache, "q")
    files = [*cache.path.parent.iterdir()]
    assert cache.path in files
    assert {stat.S_IMODE(file.stat().st_mode) for file in files} == {0o600}


def test_a_file_that_is_no_cache_is_refused(make: Any, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("these are my notes, not a database " * 50)
    with pytest.raises(RetrieverMisconfigured, match="cannot be used as a cache"):
        make(FakeRetriever(), path=tmp_path / "notes.txt")


def test_a_cache_that_breaks_later_is_passed_by(make: Any, caplog: pytest.LogCaptureFixture) -> None:
    cache = make(FakeRetriever(sources=("a",)))
    with sqlite3.connect(cache.path) as other:
        other.execute("DROP TABLE answers")
    other.close()
    with caplog.at_level(logging.WARNING):
        assert [doc.id for doc in ask(cache, "q")] == ["a"]
    assert "no such table" in caplog.text
