"""The limiters' arithmetic: in memory on a scripted clock, in a real Redis alike, and while that is down."""

import asyncio
from dataclasses import replace

import pytest

from veridical.middleware.access.keys import ApiKey
from veridical.middleware.access.limiting import MemoryLimiter, Standing
from veridical.middleware.access.metering import span
from veridical.middleware.access.usage import first_of_month, today
from veridical.strategies.errors import ConfigError

KEY = ApiKey("k", "k", "")


class Clock:
    now = 0.0
    day = "2026-01-31"


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def limiter(clock: Clock) -> MemoryLimiter:
    return MemoryLimiter(lambda: clock.now, lambda: clock.day)


def taken(limiter: MemoryLimiter, key: ApiKey, tokens: int = 0) -> Standing:
    return asyncio.run(limiter.take(key, tokens))


def test_a_minutes_worth_at_once_then_as_it_refills(limiter, clock):
    key = replace(KEY, requests_per_minute=6)
    assert [taken(limiter, key).refused for _ in range(7)] == [None] * 6 + ["requests"]
    clock.now = 9.0
    assert taken(limiter, key).wait_s == pytest.approx(1.0)
    clock.now = 10.0
    assert [taken(limiter, key).refused for _ in range(2)] == [None, "requests"]
    clock.now = 10_000.0
    assert [taken(limiter, key).refused for _ in range(7)] == [None] * 6 + ["requests"]


def test_over_an_hour_nobody_gets_more_than_the_limit_and_one_minute(limiter, clock):
    key = replace(KEY, tokens_per_minute=600)
    spent = 0
    for second in range(3600):
        clock.now = float(second)
        if not (standing := taken(limiter, key, 10)).refused:
            limiter.settle(key, standing, 95)  # each costs far more than it was thought to
            spent += 95
    assert 600 * 60 - 95 <= spent <= 600 * 61 + 95


def test_what_refuses_takes_nothing_of_the_other_limit(limiter):
    key = replace(KEY, requests_per_minute=2, tokens_per_minute=100)
    assert taken(limiter, key, 100).refused is None
    assert taken(limiter, key, 50).refused == "tokens"
    assert taken(limiter, key, 0).requests_left == 0


def test_a_budget_is_new_with_the_month(limiter, clock):
    key = replace(KEY, tokens_per_month=100)
    limiter.settle(key, taken(limiter, key, 10), 150)
    assert taken(limiter, key, 1).refused == "month"
    assert taken(limiter, key, 1).wait_s is None
    clock.day = "2026-02-01"
    assert taken(limiter, key, 1).month_left == 99


def test_what_others_have_spent_counts_once_it_is_learnt(limiter, clock):
    key = replace(KEY, tokens_per_month=100)
    taken(limiter, key, 30)
    asyncio.run(limiter.learn("2026-01-01", {"k": 20}))
    assert taken(limiter, key, 1).month_left == 69
    asyncio.run(limiter.learn("2026-01-01", {"k": 90}))
    assert taken(limiter, key, 1).month_left == 9
    asyncio.run(limiter.learn("2025-12-01", {"k": 1000}))
    assert taken(limiter, key, 1).month_left == 8


def test_redis_counts_as_memory_does(redis):
    from veridical.middleware.access.redis_limiter import RedisLimiter

    keys = [
        replace(KEY, id="a", requests_per_minute=3),
        replace(KEY, id="b", tokens_per_minute=1000),
        replace(KEY, id="c", tokens_per_month=1000),
        replace(KEY, id="d", requests_per_minute=5, tokens_per_minute=2000, tokens_per_month=1500),
    ]
    steps = [
        (key, tokens, spent)
        for key in keys
        for tokens, spent in [(300, 10), (400, 900), (5000, 1), (200, 0)] * 2
    ]

    async def run(limiter, settled):
        found = []
        await limiter.open()
        for key, tokens, spent in steps:
            standing = await limiter.take(key, tokens)
            found.append(standing)
            if not standing.refused:
                limiter.settle(key, standing, spent)
                await settled(limiter)
        await limiter.close()
        return found

    async def nothing(limiter):
        pass

    memory = asyncio.run(run(MemoryLimiter(), nothing))
    shared = asyncio.run(run(RedisLimiter(redis.url), lambda limiter: limiter._settle_all()))
    assert len({standing.refused for standing in memory}) == 4
    for one, other in zip(memory, shared, strict=True):
        assert (one.refused, one.held, one.month_left) == (other.refused, other.held, other.month_left)
        for name, near in (("wait_s", 2), ("requests_left", 0.4), ("tokens_left", 70)):  # 2 s apart
            ours, theirs = getattr(one, name), getattr(other, name)
            assert (ours is None) == (theirs is None)
            assert abs((ours or 0) - (theirs or 0)) <= near, (one, other)


def test_redis_forgets_a_key_that_is_not_used(redis):
    from veridical.middleware.access.redis_limiter import RedisLimiter

    async def run():
        limiter = RedisLimiter(redis.url)
        await limiter.open()
        await limiter.take(replace(KEY, id="old", requests_per_minute=3, tokens_per_month=9), 2)
        names = await limiter._redis.keys("veridical:old:*")
        assert {0 < await limiter._redis.ttl(name) <= 41 * 86_400 for name in names} == {True}
        assert len(names) == 2
        await limiter.close()

    asyncio.run(run())


def test_while_redis_is_down_limits_hold_in_each_process_and_budgets_by_the_database(redis, caplog):
    from veridical.middleware.access.redis_limiter import RedisLimiter

    key = replace(KEY, id="down", requests_per_minute=2, tokens_per_month=1000)

    async def run():
        limiter = RedisLimiter(redis.url)
        await limiter.open()
        month = first_of_month(today())
        limiter.settle(key, await limiter.take(key, 10), 100)
        await limiter._settle_all()
        redis.stop()
        await limiter.learn(month, {"down": 500})
        refused = [await limiter.take(key, 10) for _ in range(3)]
        assert [standing.refused for standing in refused] == [None, None, "requests"]
        assert refused[1].month_left == 480
        assert all(standing.local for standing in refused)
        redis.start()
        limiter._silent_until = 1e-9  # the pause is over
        await limiter.learn(month, {"down": 500})
        again = await limiter.take(key, 10)
        assert (again.local, again.month_left) == (False, 490)
        await limiter.close()

    asyncio.run(run())
    assert "Redis is down" in caplog.text
    assert "Redis is back" in caplog.text


@pytest.mark.parametrize(
    "url", ["redis://:pw-secret@127.0.0.1:1/0", "redis://:pw-secret@[/x", "redis://h:pw-secret"]
)
def test_a_redis_that_cannot_be_used_is_told_at_the_start_without_its_secret(url):
    from veridical.middleware.access.redis_limiter import RedisLimiter

    with pytest.raises(ConfigError, match="Redis") as told:
        asyncio.run(RedisLimiter(url).open())
    assert "pw-secret" not in told.value.message


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, b"0ms"), (0.0171, b"18ms"), (1, b"1s"), (1.5, b"1.5s"), (360, b"6m0s"), (59.9999, b"1m0s")],
)
def test_times_are_written_as_openai_writes_them(seconds, text):
    assert span(seconds) == text
