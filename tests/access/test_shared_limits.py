"""Limits over several workers: never more than the limit together, and few messages far from it."""

from __future__ import annotations

import asyncio
import random
import socket
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from veridical.middleware.access.keys import ApiKey
from veridical.middleware.access.limiting import MONTH, REQUESTS
from veridical.middleware.workers.desk import Desk
from veridical.middleware.workers.parent import Parent
from veridical.middleware.workers.shared_limits import LENT_S, SharedLimiter

Work = Callable[[Desk, list[SharedLimiter]], Awaitable[None]]


class Asking(Parent):
    """Counts what it asks."""

    def __init__(self, end: socket.socket) -> None:
        super().__init__(end)
        self.count = 0

    async def ask(self, what: str, *values: Any) -> Any:
        self.count += 1
        return await super().ask(what, *values)


def among(count: int, work: Work) -> list[Asking]:
    """Run `work` with so many workers' limiters before one desk."""
    parents: list[Asking] = []

    async def run() -> None:
        desk, serving = Desk({}), []
        for _ in range(count):
            ours, theirs = socket.socketpair()
            serving.append(asyncio.create_task(desk.serve(ours, lambda: None)))
            parents.append(Asking(theirs))
            await parents[-1].open()
        try:
            await asyncio.wait_for(work(desk, [SharedLimiter(each) for each in parents]), 30)
        finally:
            for parent in parents:
                await parent.close()  # or its end would end this process
            await asyncio.gather(*serving)

    asyncio.run(run())
    return parents


@pytest.mark.parametrize("limit", [3, 50, 3000])
def test_all_workers_together_admit_the_limit_and_not_one_more(limit: int) -> None:
    key = ApiKey("k", "", "", requests_per_minute=limit)
    admitted = 0

    async def work(desk: Desk, limiters: list[SharedLimiter]) -> None:
        nonlocal admitted

        async def one(limiter: SharedLimiter) -> None:
            nonlocal admitted
            standing = await limiter.take(key, 10)
            admitted += standing.refused is None
            if standing.refused is None:
                limiter.settle(key, standing, 10)

        began = asyncio.get_running_loop().time()
        # Whoever has been lent what another lacks gives it back in LENT_S.
        while admitted < limit and asyncio.get_running_loop().time() - began < 10 * LENT_S:
            await asyncio.gather(*(one(random.choice(limiters)) for _ in range(limit)))
        refilled = (asyncio.get_running_loop().time() - began) * limit / 60
        assert limit <= admitted <= limit + refilled + 1

    among(3, work)


def test_a_month_s_budget_is_not_passed_by_more_than_what_runs() -> None:
    key = ApiKey("k", "", "", tokens_per_month=100_000)
    spent = 0

    async def work(desk: Desk, limiters: list[SharedLimiter]) -> None:
        nonlocal spent
        refused = None
        while refused is None:
            for limiter in limiters:
                standing = await limiter.take(key, 100)
                refused = standing.refused
                if refused is None:
                    limiter.settle(key, standing, 70)
                    spent += 70
        assert refused == MONTH
        await asyncio.sleep(2 * LENT_S)  # until everything is given back
        standing = await limiters[0].take(key, 100)
        assert (standing.refused is None) == (spent < 100_000)

    among(2, work)
    assert 100_000 - 8_000 <= spent <= 100_100


def test_far_from_its_limits_a_key_costs_few_messages() -> None:
    key = ApiKey("k", "", "", requests_per_minute=10**6, tokens_per_minute=10**9, tokens_per_month=10**12)

    async def work(desk: Desk, limiters: list[SharedLimiter]) -> None:
        left = []
        for _ in range(1000):
            standing = await limiters[0].take(key, 5)
            limiters[0].settle(key, standing, 7)
            left.append(standing.requests_left)
        assert all(now is not None and now <= 10**6 for now in left)

    (parent,) = among(1, work)
    assert parent.count < 30


def test_what_is_left_is_told_as_if_nothing_were_lent() -> None:
    key = ApiKey("k", "", "", tokens_per_month=10**6)

    async def work(desk: Desk, limiters: list[SharedLimiter]) -> None:
        told = []
        for _ in range(20):
            standing = await limiters[0].take(key, 100)
            limiters[0].settle(key, standing, 100)
            told.append(standing.month_left)
        assert told == [10**6 - 100 * number for number in range(1, 21)]

    among(2, work)


def test_what_a_worker_was_lent_comes_back_when_it_crashes() -> None:
    key = ApiKey("k", "", "", requests_per_minute=600)

    async def work(desk: Desk, limiters: list[SharedLimiter]) -> None:
        await limiters[0].take(key, 1)
        before = desk._limiter._states["k"].requests
        assert before is not None
        assert before.level < 600 - 10
        line = limiters[0]._parent._line
        assert line is not None
        line._transport.abort()  # type: ignore[union-attr]
        limiters[0]._parent._line = None
        async with asyncio.timeout(10):
            await line.gone
        standing = await limiters[1].take(key, 1)
        assert standing.requests_left is not None
        assert standing.requests_left >= 600 - 2

    among(2, work)


def test_a_key_at_its_limit_is_refused_with_the_time_to_wait() -> None:
    key = ApiKey("k", "", "", requests_per_minute=2)

    async def work(desk: Desk, limiters: list[SharedLimiter]) -> None:
        found = [await limiters[number % 2].take(key, 1) for number in range(3)]
        assert [each.refused for each in found] == [None, None, REQUESTS]
        assert found[2].wait_s is not None
        assert 0 < found[2].wait_s <= 30

    among(2, work)
