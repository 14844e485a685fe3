"""Admits requests of keys with limits, tells how the limits stand, and counts what was spent."""

from __future__ import annotations

import asyncio
import math
from contextlib import suppress
from dataclasses import dataclass, field

from veridical.middleware.access.keys import ApiKey
from veridical.middleware.access.limiting import MONTH, TOKENS, Limiter, Standing
from veridical.middleware.access.usage import Ledger, Line, Spending, UsageStore, first_of_month, today
from veridical.middleware.errors import QuotaExhausted, RateLimited, StateUnavailable, log
from veridical.middleware.responding import Headers
from veridical.middleware.state.database import Database
from veridical.strategies.budget import Limits

#: Seconds between readings of the months' sums from the database: what other replicas have spent.
LEARN_S = 30.0
#: Seconds that requests which a shutdown has cut get to settle.
LAST_S = 2.0


@dataclass
class Meter:
    """One admitted request: what it may spend, and what it has spent once it is over."""

    accounts: Accounts
    key: ApiKey
    line: Line
    standing: Standing
    headers: Headers
    _spent: Spending = field(default=Spending(requests=1))

    def lowered(self, limits: Limits) -> Limits:
        """The limits of one request, its tokens lowered to what is left of the month."""
        left = self.standing.month_left
        return limits if left is None else limits.lowered(None, max(1, left + self.standing.held), None)

    def spend(self, spent: Spending) -> None:
        """Count what a part of the request has cost."""
        self._spent += spent

    def close(self) -> None:
        """The request is over: settle what it held, and count it."""
        self.accounts.settle(self, self._spent)


class Accounts:
    """The limits and the usage of all keys; opened and closed with the server."""

    def __init__(self, database: Database, limiter: Limiter, flush_s: float) -> None:
        self.usage = UsageStore(database)
        self.ledger = Ledger(self.usage)
        self._limiter, self._flush_s = limiter, flush_s
        self._running = 0
        self._idle = asyncio.Event()
        self._idle.set()
        self._tasks: list[asyncio.Task[None]] = []

    async def open(self) -> None:
        """Learn what was spent before, and begin to write in the background."""
        await self._limiter.open()
        await self._learn()
        self._tasks = [asyncio.create_task(self._flush_on()), asyncio.create_task(self._learn_on())]

    async def close(self) -> None:
        """Settle and write everything."""
        with suppress(TimeoutError):
            async with asyncio.timeout(LAST_S):
                await self._idle.wait()  # a request that the shutdown has cut settles in its last steps
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self.ledger.close()
        await self._limiter.close()

    async def admit(self, key: ApiKey, model: str, strategy: str, tokens: int) -> Meter:
        """Let a request in that is estimated to take `tokens`.

        Raises:
            RateLimited: a limit per minute is in the way.
            QuotaExhausted: the month's budget is used up.
        """
        standing = await self._limiter.take(key, tokens) if key.limited else Standing()
        headers = told(key, standing)
        if standing.refused == MONTH:
            raise QuotaExhausted(f"The budget of {key.tokens_per_month} tokens for this month is used up.")
        if standing.refused:
            raise RateLimited(
                _words(key, standing, tokens), standing.refused, standing.wait_s or 0.0, headers
            )
        self._running += 1
        self._idle.clear()
        return Meter(self, key, Line(key.id, today(), model, strategy), standing, headers)

    def settle(self, meter: Meter, spent: Spending) -> None:
        """Replace what a request held by what it has spent, and count it."""
        self._running -= 1
        if not self._running:
            self._idle.set()
        self.ledger.add(meter.line, spent)
        if meter.key.limited:
            self._limiter.settle(meter.key, meter.standing, spent.tokens)

    async def _flush_on(self) -> None:
        failing = False
        while True:
            await asyncio.sleep(self._flush_s)
            try:
                await self.ledger.flush()
            except StateUnavailable as error:
                if not failing:
                    log.warning("usage cannot be written (%s): it is kept and tried again", error.message)
                failing = True
                continue
            failing = False

    async def _learn_on(self) -> None:
        while True:
            await asyncio.sleep(LEARN_S)
            with suppress(StateUnavailable):  # the flushing, which runs more often, has said so
                await self._learn()

    async def _learn(self) -> None:
        month = first_of_month(today())
        await self._limiter.learn(month, await self.usage.spent(month))


_OF_REQUESTS = (
    b"x-ratelimit-limit-requests",
    b"x-ratelimit-remaining-requests",
    b"x-ratelimit-reset-requests",
)
_OF_TOKENS = (b"x-ratelimit-limit-tokens", b"x-ratelimit-remaining-tokens", b"x-ratelimit-reset-tokens")


def told(key: ApiKey, standing: Standing) -> Headers:
    """OpenAI's x-ratelimit headers: each limit per minute, what is left, when it will be full again."""
    return [
        *_told(_OF_REQUESTS, key.requests_per_minute, standing.requests_left),
        *_told(_OF_TOKENS, key.tokens_per_minute, standing.tokens_left),
    ]


def _told(names: tuple[bytes, bytes, bytes], limit: int | None, left: float | None) -> Headers:
    if limit is None or left is None:
        return []
    most, remaining, reset = names
    return [
        (most, b"%d" % limit),
        (remaining, b"%d" % max(0, math.floor(left))),
        (reset, span((limit - left) * 60 / limit)),
    ]


def span(seconds: float) -> bytes:
    """A time as OpenAI writes it: 17ms, 1.5s, 6m0s."""
    whole = math.ceil(seconds * 1000)
    if whole < 1000:
        return b"%dms" % whole
    minutes, rest = divmod(whole, 60_000)
    return (b"%dm" % minutes if minutes else b"") + f"{rest / 1000:g}s".encode()


def _words(key: ApiKey, standing: Standing, tokens: int) -> str:
    """As OpenAI says it, with the time that a client waits for."""
    wait = f"Please try again in {span(standing.wait_s or 0.0).decode()}."
    if standing.refused == TOKENS:
        wanted = f"Limit {key.tokens_per_minute}, requested {tokens}."
        return f"Rate limit reached on tokens per minute. {wanted} {wait}"
    return f"Rate limit reached on requests per minute. Limit {key.requests_per_minute}. {wait}"
