"""Servers that stand in for one another: one is chosen, and where it does not answer, the next.

Moving on costs no time, so it comes first: a call is asked of every server at most once, at once. Only
when all have failed is waiting worth while, and that is `Retrying`'s.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from typing import TypeVar

from veridical.middleware.balancing.caller import Caller, caller
from veridical.middleware.balancing.replica import Lease, Replica, waiter_for
from veridical.middleware.balancing.settings import Balance
from veridical.strategies.errors import (
    BackendError,
    BackendFailed,
    BackendRateLimited,
    BackendTimeout,
    BackendUnavailable,
    BackendUnreachable,
)

T = TypeVar("T")
#: Errors after which another server may do better. What is refused for its own sake is refused by all.
MOVABLE = (BackendFailed, BackendRateLimited, BackendTimeout, BackendUnreachable, BackendUnavailable)


@dataclass(eq=False, slots=True)
class Target:
    """A server of a pool, its weight in it, and what it calls the pool's model (None: the same)."""

    replica: Replica
    weight: float = 1.0
    model: str | None = None
    credit: float = 0.0


#: Asks a target; knows which have been tried, this one among them.
Ask = Callable[[Target, Set[Target]], Awaitable[T]]


@dataclass(eq=False)
class Pool:
    """Tiers of targets: the first tier is shared by `balance`, those behind it are its fallback, in order.

    With `affinity` the calls of one request keep to one server, whose prefix cache they have warmed.
    """

    name: str
    tiers: Sequence[Sequence[Target]]
    balance: Balance = "least_busy"
    affinity: bool = True
    queue_wait_s: float = 60.0

    @property
    def targets(self) -> Iterator[Target]:
        """All, in order."""
        return (target for tier in self.tiers for target in tier)

    def is_ready(self) -> bool:
        """Whether one of its servers can take a request."""
        return any(target.replica.is_ready() for target in self.targets)

    async def ready(self) -> None:
        """Wait for an engine, where there is none but engines that are still starting.

        Raises:
            BackendUnreachable: it does not start.
            BackendTimeout: it is still starting.
        """
        if not self.is_ready():
            await self.tiers[0][0].replica.ready()

    async def attempt(
        self, headers: Mapping[str, str], ask: Ask[T], *, pinned: bool = False
    ) -> tuple[Lease, T]:
        """What the first target answers that does, and the place held in it, which is the caller's to end.

        A `pinned` call has only the first server to go to. `ask` is told which have been tried by then.

        Raises:
            BackendError: no target answered: the first one's error; or none could be asked.
        """
        tried: set[Target] = set(self.targets) - {self.tiers[0][0]} if pinned else set()
        who = caller()
        first: BackendError | None = None
        while True:
            try:
                target, lease = await self._lease(who, headers, tried)
            except BackendError as error:
                raise first or error from None
            tried.add(target)
            try:
                answer = await ask(target, tried)
            except BaseException as error:
                lease.end(error)
                if not isinstance(error, MOVABLE):
                    raise
                first = first or error
                continue
            who.answered(self.name, target.replica.name)
            return lease, answer

    def has_other(self, tried: Set[Target], headers: Mapping[str, str]) -> bool:
        """Whether there is somewhere else to go."""
        return any(each not in tried and each.replica.admits(headers) for each in self.targets)

    async def _lease(
        self, who: Caller, headers: Mapping[str, str], tried: set[Target]
    ) -> tuple[Target, Lease]:
        """A place in the best target that has not been tried, in the first tier that has one.

        Raises:
            BackendError: there is none; says why and for how long.
        """
        full: BackendError | None = None
        for tier in self.tiers:
            while open_ := [each for each in tier if each not in tried and each.replica.admits(headers)]:
                if free := [each for each in open_ if each.replica.has_room]:
                    target = self._pick(free, who, headers)
                    return target, target.replica.lease(headers)
                try:
                    lease = await self._turn(open_, who, headers)
                except BackendUnavailable as error:
                    full = full or error
                    break
                if lease:
                    return next(each for each in open_ if each.replica is lease.replica), lease
        return await self._late(who, headers, tried, full)

    async def _late(
        self, who: Caller, headers: Mapping[str, str], tried: set[Target], full: BackendError | None
    ) -> tuple[Target, Lease]:
        """None can be asked now: wait for an engine that is starting, if that is why."""
        starting = [each for each in self.targets if each not in tried and not each.replica.is_ready()]
        if full or not starting:
            raise full or self._unavailable(headers, tried)
        await starting[0].replica.ready()
        return await self._lease(who, headers, tried)

    def _pick(self, free: Sequence[Target], who: Caller, headers: Mapping[str, str]) -> Target:
        if len(free) == 1:
            return free[0]
        best = [each for each in free if each.replica.cooling(headers) is None] or free
        warm = who.kept.get(self.name) if self.affinity else None
        kept = [each for each in best if each.replica.name == warm]
        return kept[0] if kept else by_credit(best, by_load=self.balance == "least_busy")

    async def _turn(self, targets: Sequence[Target], who: Caller, headers: Mapping[str, str]) -> Lease | None:
        """Wait for a place in any of these; None where one should look again.

        Raises:
            BackendUnavailable: too many wait already, or it took too long.
        """
        lines = dict.fromkeys(each.replica for each in targets if not each.replica.queue_is_full)
        if not lines:
            raise self._full("Too many requests wait for it", targets)
        waiter = waiter_for(who, headers)
        for replica in lines:
            replica.queue.add(waiter)
        try:
            async with asyncio.timeout(self.queue_wait_s):
                return await waiter.turn
        except BaseException as error:
            waiter.leave()
            if waiter.turn.done() and not waiter.turn.cancelled() and (lease := waiter.turn.result()):
                lease.end(asyncio.CancelledError())  # its turn came in the moment in which it left
            if isinstance(error, TimeoutError):
                raise self._full("A request's turn did not come in time", targets) from None
            raise

    def _full(self, why: str, targets: Sequence[Target]) -> BackendUnavailable:
        wait = min(each.replica.wait_s() for each in targets)
        return BackendUnavailable(f"The backend {self.name!r} is busy: {why}.", retry_after=f"{wait:.0f}")

    def _unavailable(self, headers: Mapping[str, str], tried: set[Target]) -> BackendError:
        """Why none could be asked, and when one can be again."""
        left = [each.replica for each in self.targets if each not in tried]
        told = [each for each in (one.cooling(headers) for one in left) if each and each.told]
        now = time.monotonic()
        if told:
            wait = max(1.0, min(each.until for each in told) - now)
            words = f"The backend {self.name!r} has said that its rate limit is reached."
            return BackendRateLimited(words, retry_after=f"{wait:.0f}")
        wait = max(1.0, min((each.breaker.wait_s for each in left), default=1.0))
        words = f"The backend {self.name!r} is set aside after failures; it will be tried again."
        return BackendUnavailable(words, retry_after=f"{wait:.0f}")


def by_credit(targets: Sequence[Target], *, by_load: bool) -> Target:
    """The least busy for its weight, or whose turn it is by weight: nginx's smooth weighted round robin,
    which settles ties of the former, too."""
    if by_load:
        loads = [(each.replica.in_flight + 1) / each.weight for each in targets]
        targets = [each for each, load in zip(targets, loads, strict=True) if load == min(loads)]
    for each in targets:
        each.credit += each.weight
    chosen = max(targets, key=lambda each: each.credit)
    chosen.credit -= sum(each.weight for each in targets)
    return chosen
