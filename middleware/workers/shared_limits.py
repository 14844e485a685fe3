"""Limits that all workers share: the parent has them, and lends each worker a little of what is left.

A worker admits on its own what it was lent, and gives the rest back after LENT_S. What is lent is taken from
the key's buckets and from its month when it is lent, so that all workers together never admit more than the
limits; near a limit nothing is lent, and the parent is asked for each request.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from veridical.middleware.access.keys import ApiKey
from veridical.middleware.access.limiting import Standing
from veridical.middleware.workers.parent import Parent

#: Seconds after which a worker gives back what it has not used.
LENT_S = 0.25
#: A key, by what its limits depend on: id, requests and tokens a minute, tokens a month.
Limits = tuple[str, int | None, int | None, int | None]


class Lent:
    """What a worker may admit of a key, `of_requests` and `of_tokens`, what is left of it, and how the key
    stood when it was lent."""

    __slots__ = ("of_requests", "of_tokens", "requests", "standing", "tokens")

    def __init__(self, standing: Standing, requests: int, tokens: int) -> None:
        self.standing = standing
        self.of_requests = self.requests = requests
        self.of_tokens = self.tokens = tokens

    def covers(self, tokens: int) -> bool:
        """Whether a request of so many tokens can be admitted of it."""
        return self.requests > 0 and self.tokens >= tokens

    def taken(self, tokens: int) -> Standing:
        """Admit one."""
        self.requests -= 1
        self.tokens -= tokens
        requests, used = self.of_requests - self.requests, self.of_tokens - self.tokens
        before = self.standing
        return Standing(
            held=tokens,
            requests_left=None if before.requests_left is None else before.requests_left - requests,
            tokens_left=None if before.tokens_left is None else before.tokens_left - used,
            month_left=None if before.month_left is None else before.month_left - used,
        )


class SharedLimiter:
    """A `Limiter` whose limits hold for all workers together."""

    def __init__(self, parent: Parent) -> None:
        self._parent = parent
        self._lent: dict[Limits, Lent] = {}
        self._borrowing: set[Limits] = set()

    async def open(self) -> None:
        """Nothing to do: the line is the worker's."""

    async def close(self) -> None:
        """Give everything back."""
        for limits, lent in list(self._lent.items()):
            self._give_back(limits, lent)

    async def take(self, key: ApiKey, tokens: int) -> Standing:
        """Take one request and `tokens`, or say what is in the way."""
        limits = _limits(key)
        lent = self._lent.get(limits)
        if lent and lent.covers(tokens):
            return lent.taken(tokens)
        borrows = limits not in self._borrowing  # of many that come at once, one
        if borrows:
            self._borrowing.add(limits)
        try:
            told = await self._parent.ask("take", *limits, tokens, borrows)
        finally:
            if borrows:
                self._borrowing.discard(limits)
        *standing, requests, spare = told
        found = Standing(*standing)
        if requests:
            self._keep(limits, Lent(found, requests, spare))
        return found

    def settle(self, key: ApiKey, standing: Standing, spent: int) -> None:
        """Replace what a request holds by what it has spent."""
        limits = _limits(key)
        if lent := self._lent.get(limits):
            lent.tokens -= spent - standing.held  # below nothing, it is taken from the key when it goes back
        else:
            self._parent.tell("settle", *limits, standing.held, spent)

    async def learn(self, month: str, spent: Mapping[str, int]) -> None:
        """Pass on what the database counts."""
        self._parent.tell("learn", month, spent)

    def _keep(self, limits: Limits, lent: Lent) -> None:
        if before := self._lent.get(limits):  # which is used up
            self._give_back(limits, before)
        self._lent[limits] = lent
        asyncio.get_running_loop().call_later(LENT_S, self._give_back, limits, lent)

    def _give_back(self, limits: Limits, lent: Lent) -> None:
        if self._lent.get(limits) is lent:
            del self._lent[limits]
            lent_of = (lent.of_requests, lent.of_tokens)
            self._parent.tell("give back", *limits, *lent_of, lent.requests, lent.tokens)


def _limits(key: ApiKey) -> Limits:
    return key.id, key.requests_per_minute, key.tokens_per_minute, key.tokens_per_month
