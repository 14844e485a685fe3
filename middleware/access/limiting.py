"""Limits of a key: requests and tokens per minute, tokens per calendar month (UTC).

A limit per minute is a bucket that holds a minute's worth and refills steadily. A request takes one
request and an estimate of its tokens, before it begins; when it is over, the difference to what it really
cost is taken or given back. A bucket may so fall below zero, and the key then waits longer: over time
nobody gets more than the limit. A month's budget is a sum, and is over once it is reached.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

from veridical.middleware.access.keys import ApiKey
from veridical.middleware.access.usage import first_of_month, today

#: Most requests that are lent at once, and fewest that are worth it.
MOST_LENT, LEAST_LENT = 256, 4
REQUESTS, TOKENS, MONTH = "requests", "tokens", "month"


class Standing(NamedTuple):
    """How a key stands once a request was admitted, or was not.

    `refused` names the limit in the way, `wait_s` the seconds until it lets this request pass (None: not
    this month). `held` are the tokens that were taken for the request. The rest is what is left: requests
    and tokens of the minute, tokens of the month; None where there is no limit. `local` says that only this
    process knows of it.
    """

    refused: str | None = None
    wait_s: float | None = None
    held: int = 0
    requests_left: float | None = None
    tokens_left: float | None = None
    month_left: int | None = None
    local: bool = True


class Limiter(Protocol):
    """Keeps keys to their limits."""

    async def open(self) -> None:
        """Get ready."""
        ...

    async def close(self) -> None:
        """Finish what is still to be told."""
        ...

    async def take(self, key: ApiKey, tokens: int) -> Standing:
        """Take one request and `tokens`, or say what is in the way; then nothing was taken."""
        ...

    def settle(self, key: ApiKey, standing: Standing, spent: int) -> None:
        """Replace what a request holds by what it has spent."""
        ...

    async def learn(self, month: str, spent: Mapping[str, int]) -> None:
        """Hear what the database counts for each key since the first of `month`: at least this is spent."""
        ...


@dataclass(slots=True)
class Bucket:
    """What is left of a limit per minute, at a moment of the monotonic clock."""

    limit: int
    level: float
    at: float

    def refill(self, now: float) -> None:
        """Let it fill up to now."""
        level = self.level + (now - self.at) * self.limit / 60
        self.level = level if level < self.limit else self.limit
        self.at = now

    def take(self, amount: int) -> None:
        """Take so much out of it, or put it back: it holds no more than its limit."""
        level = self.level - amount
        self.level = level if level < self.limit else self.limit

    def wait(self, wanted: int) -> float:
        """Seconds until there is enough; what is larger than the bucket waits until it is full."""
        lacking = (wanted if wanted < self.limit else self.limit) - self.level
        return lacking * 60 / self.limit if lacking > 0 else 0.0


@dataclass(slots=True)
class _State:
    requests: Bucket | None
    tokens: Bucket | None
    month: str = ""
    spent: int = 0


@dataclass
class MemoryLimiter:
    """Limits within this process: every step is one uninterrupted piece of Python, so nothing slips by."""

    clock: Callable[[], float] = time.monotonic
    day: Callable[[], str] = today
    _states: dict[str, _State] = field(default_factory=dict)
    _known: dict[str, int] = field(default_factory=dict)
    _known_of: str = ""

    async def open(self) -> None:
        """Nothing to do."""

    async def close(self) -> None:
        """Nothing to do."""

    async def take(self, key: ApiKey, tokens: int) -> Standing:
        """Take one request and `tokens`, or say what is in the way."""
        return self.taken(key, tokens)

    def taken(self, key: ApiKey, tokens: int) -> Standing:
        """The same, for those who cannot wait."""
        state = self._state(key)
        if key.tokens_per_month is not None and state.spent >= key.tokens_per_month:
            return _standing(key, state, refused=MONTH)
        if state.requests and (wait := state.requests.wait(1)):
            return _standing(key, state, refused=REQUESTS, wait_s=wait)
        if state.tokens and (wait := state.tokens.wait(tokens)):
            return _standing(key, state, refused=TOKENS, wait_s=wait)
        self._spend(state, 1, tokens)
        return _standing(key, state, held=tokens)

    def lent(self, key: ApiKey, share: int, tokens: int) -> tuple[int, int]:
        """Set requests and tokens aside for who then admits requests of some `tokens` on its own: of each
        limit at most one part in `share` of what is left. Nothing where that would not last."""
        state = self._state(key)
        requests, spare = MOST_LENT, MOST_LENT * max(1, tokens)
        if state.requests:
            requests = min(requests, int(state.requests.level) // share)
        if state.tokens:
            spare = min(spare, int(state.tokens.level) // share)
        if key.tokens_per_month is not None:
            spare = min(spare, (key.tokens_per_month - state.spent) // share)
        if requests < LEAST_LENT or spare < LEAST_LENT * tokens:
            return 0, 0
        self._spend(state, requests, spare)
        return requests, spare

    def given_back(self, key: ApiKey, requests: int, tokens: int) -> None:
        """What was set aside and not used; fewer than no tokens where more were used."""
        self._spend(self._state(key), -requests, -tokens)

    def settle(self, key: ApiKey, standing: Standing, spent: int) -> None:
        """Replace what a request holds by what it has spent."""
        self._spend(self._state(key), 0, spent - standing.held)

    async def learn(self, month: str, spent: Mapping[str, int]) -> None:
        """Raise what was spent in the month to what the database has counted."""
        self.learned(month, spent)

    def learned(self, month: str, spent: Mapping[str, int]) -> None:
        """The same, for those who cannot wait."""
        self._known_of, self._known = month, dict(spent)
        for key_id, state in self._states.items():
            if state.month == month:
                state.spent = max(state.spent, spent.get(key_id, 0))

    @staticmethod
    def _spend(state: _State, requests: int, tokens: int) -> None:
        if state.requests and requests:
            state.requests.take(requests)
        if state.tokens:
            state.tokens.take(tokens)
        state.spent = max(0, state.spent + tokens)

    def _state(self, key: ApiKey) -> _State:
        now, month = self.clock(), first_of_month(self.day())
        state = self._states.get(key.id)
        if state is None:
            state = _State(_full(key.requests_per_minute, now), _full(key.tokens_per_minute, now))
            self._states[key.id] = state
        if state.requests:
            state.requests.refill(now)
        if state.tokens:
            state.tokens.refill(now)
        if state.month != month:
            state.month = month
            state.spent = self._known.get(key.id, 0) if self._known_of == month else 0
        return state


def _full(limit: int | None, now: float) -> Bucket | None:
    return None if limit is None else Bucket(limit, limit, now)


def _standing(
    key: ApiKey, state: _State, refused: str | None = None, wait_s: float | None = None, held: int = 0
) -> Standing:
    return Standing(
        refused,
        wait_s,
        held,
        requests_left=state.requests.level if state.requests else None,
        tokens_left=state.tokens.level if state.tokens else None,
        month_left=None if key.tokens_per_month is None else key.tokens_per_month - state.spent,
    )
