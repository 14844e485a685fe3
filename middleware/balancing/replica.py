"""One server and how it fares: requests in flight, who waits, whether it is set aside."""

from __future__ import annotations

import math
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

from veridical.middleware.backends.openai_http import CREDENTIALS, OpenAIBackend
from veridical.middleware.balancing.breaker import Breaker
from veridical.middleware.balancing.caller import Caller
from veridical.middleware.balancing.fairness import FairQueue, Waiter
from veridical.middleware.balancing.settings import USUAL_FAILURES, CapacitySection
from veridical.middleware.errors import log
from veridical.strategies.backend import Backend
from veridical.strategies.errors import (
    BackendError,
    BackendFailed,
    BackendRateLimited,
    BackendTimeout,
    BackendUnreachable,
)

#: A server that answers 429 without saying for how long is asked last for this long.
COOL_S = 1.0
#: No Retry-After keeps a server out for longer.
LONGEST_COOL_S = 3600.0
#: Credentials whose limits are remembered, for each server.
MAX_COOLING = 256
#: The weight of a new call in the mean of how long calls take.
_FRESH = 0.2
_FAILURES = (BackendFailed, BackendTimeout, BackendUnreachable)


@dataclass(slots=True)
class Counters:
    """What has happened since the start: calls begun and failed, answers of 429, breaker openings."""

    calls: int = 0
    failures: int = 0
    rate_limited: int = 0
    opened: int = 0


@dataclass(frozen=True, slots=True)
class Cooling:
    """A limit that a server told: until when, and whether the server said so itself."""

    until: float
    told: bool


async def _at_once() -> None:
    return None


@dataclass(eq=False)
class Replica:
    """One server of a backend. What is to be observed of it is in `standing`."""

    name: str
    backend: Backend
    capacity: CapacitySection
    http: OpenAIBackend | None = None
    ready: Callable[[], Awaitable[None]] = _at_once
    is_ready: Callable[[], bool] = lambda: True
    has_others: bool = False
    on_hang: Callable[[], None] | None = None
    hang_timeouts: int = 0
    in_flight: int = 0
    seconds: float = 0.0
    counters: Counters = field(default_factory=Counters)

    def __post_init__(self) -> None:
        wanted = self.capacity.breaker_failures
        usual = USUAL_FAILURES if self.has_others else 0
        self.breaker = Breaker(usual if wanted is None else wanted, self.capacity.breaker_open_s)
        self.queue: FairQueue[Lease] = FairQueue()
        self._cooling: dict[str, Cooling] = {}
        self._silent = 0

    @property
    def has_room(self) -> bool:
        """Whether a call need not wait."""
        limit = self.capacity.max_concurrency
        return limit is None or self.in_flight < limit

    @property
    def queue_is_full(self) -> bool:
        """Whether nobody else may wait."""
        return len(self.queue) >= self.capacity.max_queue

    @property
    def state(self) -> str:
        """In a word: up, starting, open or half_open (its breaker), limited (it answered 429)."""
        if not self.is_ready():
            return "starting"
        if self.breaker.state != "closed":
            return self.breaker.state
        now = time.monotonic()
        return "limited" if any(each.until > now for each in self._cooling.values()) else "up"

    @property
    def standing(self) -> dict[str, Any]:
        """How it fares now."""
        load = {"in_flight": self.in_flight, "queued": len(self.queue)}
        return {"state": self.state, **load, **asdict(self.counters)}

    def cooling(self, headers: Mapping[str, str]) -> Cooling | None:
        """The limit that it told whoever asks with these headers, while it lasts."""
        found = self._cooling.get(self._payer(headers)) if self._cooling else None
        return found if found and found.until > time.monotonic() else None

    def admits(self, headers: Mapping[str, str]) -> bool:
        """Whether it may be asked."""
        if not self.is_ready() or not self.breaker.admits():
            return False
        cooling = self.cooling(headers)
        return cooling is None or not cooling.told

    def lease(self, headers: Mapping[str, str]) -> Lease:
        """A place in it, for one call."""
        self.in_flight += 1
        self.counters.calls += 1
        return Lease(self, self.breaker.begin(), self._payer(headers))

    def limited(self, payer: str, retry_after: str | None) -> None:
        """It answered 429: its limits are those of the credentials that it saw."""
        self.counters.rate_limited += 1
        wait = seconds_in(retry_after)
        if len(self._cooling) >= MAX_COOLING:
            self._cooling.pop(next(iter(self._cooling)))
        until = time.monotonic() + (COOL_S if wait is None else min(wait, LONGEST_COOL_S))
        self._cooling[payer] = Cooling(until, wait is not None)
        for waiter in self.queue.everyone() if wait is not None else ():
            if self._payer(waiter.headers) == payer:
                waiter.settle(None)

    def answered(self, seconds: float, *, trial: bool) -> None:
        """A call went well, or was refused for its own sake."""
        self.seconds += (seconds - self.seconds) * _FRESH if self.seconds else seconds
        self._silent = 0
        self.breaker.succeeded(trial=trial)

    def failed(self, error: BackendError, *, trial: bool) -> None:
        """A call went wrong. Those who wait look elsewhere if that sets the server aside."""
        self.counters.failures += 1
        if isinstance(error, BackendTimeout):
            self._silent += 1
            if self.on_hang and 0 < self.hang_timeouts <= self._silent:
                self._silent = 0
                self.on_hang()
        if self.breaker.failed(trial=trial):
            self._set_aside(error)

    def probed(self, error: BackendError | None) -> None:
        """A look at it found this wrong, or nothing."""
        was = self.breaker.state
        if self.breaker.probed(well=error is None):
            self._set_aside(error)
        elif was != "closed" and self.breaker.state == "closed":
            log.info("the backend %s answers again", self.name)

    def _set_aside(self, error: BackendError | None) -> None:
        self.counters.opened += 1
        why = type(error).__name__
        log.warning("the backend %s is set aside for %.0f s: %s", self.name, self.breaker.wait_s, why)
        for waiter in self.queue.everyone():
            waiter.settle(None)

    def leave(self) -> None:
        """A call is over: whoever is next has its place."""
        self.in_flight -= 1
        while len(self.queue) and self.has_room and self.breaker.admits():
            waiter = self.queue.next()
            if waiter.turn.done():  # given up in this moment: the place would be lost with it
                waiter.leave()
            else:
                waiter.settle(self.lease(waiter.headers))

    def wait_s(self) -> float:
        """About how long somebody who came last would wait for a place."""
        limit = self.capacity.max_concurrency or 1
        return max(1.0, math.ceil(self.seconds * (len(self.queue) + 1) / limit))

    def _payer(self, headers: Mapping[str, str]) -> str:
        """Whose limits with the server a call counts against: ours, or those of the client's own key."""
        if self.http is None or not self.http.forwards_authorization:
            return ""
        return "\n".join(headers.get(name, "") for name in sorted(CREDENTIALS))


@dataclass(slots=True)
class Lease:
    """A place in a server, held for one call; ended once, by whatever comes first."""

    replica: Replica
    trial: bool
    payer: str
    began: float = field(default_factory=time.monotonic)
    over: bool = False

    def end(self, error: BaseException | None = None) -> None:
        """The call is over: with an answer, an error, or because nobody wants it any more."""
        if self.over:
            return
        self.over = True
        replica, trial = self.replica, self.trial
        if isinstance(error, _FAILURES):
            replica.failed(error, trial=trial)
        elif error is None or isinstance(error, BackendError):
            replica.answered(time.monotonic() - self.began, trial=trial)
        else:
            replica.breaker.given_up(trial=trial)
        if isinstance(error, BackendRateLimited):
            replica.limited(self.payer, error.retry_after)
        replica.leave()


def waiter_for(caller: Caller, headers: Mapping[str, str]) -> Waiter[Lease]:
    """One who waits for a place, for this caller's sake."""
    return Waiter(caller.client, caller, headers)


def seconds_in(retry_after: str | None) -> float | None:
    """The seconds that a Retry-After header asks for, in either of its forms (RFC 9110, 10.2.3); None
    where there is none that can be read."""
    text = (retry_after or "").strip()
    try:
        found = float(text)
    except ValueError:
        try:
            found = (parsedate_to_datetime(text) - datetime.now(UTC)).total_seconds()
        except (ValueError, TypeError):
            return None
    return max(0.0, found) if math.isfinite(found) else None
