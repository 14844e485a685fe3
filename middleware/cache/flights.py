"""Single flight: equal work that is wanted at once is done once, and belongs to nobody.

The work runs in a task of its own, at its own pace, and all who want it read along: a slow reader holds
back no other, one who leaves takes nothing with them, and the last to leave ends it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import Generic, TypeVar

from veridical.strategies.errors import BackendFailed

T = TypeVar("T")


class Flight(Generic[T]):
    """One piece of work, what it has brought so far, and how many read along.

    The work adds `items`, says by `begin` that it has been accepted, by `land` that all is there; what
    it does behind that, nobody waits for.
    """

    def __init__(
        self, work: Callable[[Flight[T]], Awaitable[None]], over: Callable[[Flight[T]], None]
    ) -> None:
        self.items: list[T] = []
        self.begun = self.landed = False
        self._error: Exception | None = None
        self._news = asyncio.Event()
        self._over, self._aboard = over, 0
        self.task = asyncio.create_task(self._fly(work))

    async def _fly(self, work: Callable[[Flight[T]], Awaitable[None]]) -> None:
        try:
            await work(self)
        except Exception as error:  # noqa: BLE001 - it is raised where it is waited for
            self._error = error
        finally:
            if not self.landed and self._error is None:
                self._error = BackendFailed("The call was cut off.")
            self._over(self)
            self._tell()

    def _tell(self) -> None:
        self._news.set()
        self._news = asyncio.Event()

    def begin(self) -> None:
        """The work is accepted: it will bring something."""
        self.begun = True
        self._tell()

    def add(self, *items: T) -> None:
        """Bring something."""
        self.items.extend(items)
        self._tell()

    def land(self) -> None:
        """All is there."""
        self.begun = self.landed = True
        self._tell()

    async def wait(self, *, whole: bool) -> None:
        """Wait until the work has begun, or is all there.

        Raises:
            Exception: that with which the work failed.
        """
        while not (self.landed or (self.begun and not whole)):
            await self._hear()

    async def _hear(self) -> None:
        if self._error is not None:
            raise self._error
        await self._news.wait()

    async def read(self) -> AsyncGenerator[T, None]:
        """What there is and what comes, from the start.

        Raises:
            Exception: that with which the work failed, behind what it has brought.
        """
        at = 0
        while True:
            while at < len(self.items):
                at += 1
                yield self.items[at - 1]
            if self.landed:
                return
            await self._hear()

    def board(self) -> None:
        """One more reads along."""
        self._aboard += 1

    async def leave(self) -> None:
        """One reads no longer. Work that is wanted by nobody is ended."""
        self._aboard -= 1
        if not self._aboard and not self.landed:
            self._over(self)  # who comes now must not join what is being ended
            self.task.cancel()
            await asyncio.wait({self.task})


class Flights(Generic[T]):
    """All work of a kind that is being done, by key."""

    def __init__(self) -> None:
        self._flying: dict[str, Flight[T]] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    async def join(
        self,
        key: str,
        work: Callable[[Flight[T]], Awaitable[None]],
        *,
        whole: bool = False,
        alone: bool = False,
    ) -> Flight[T]:
        """A flight that has begun (`whole`: that has landed); `work` was called if it is our own.

        One that fails fails for who started it. Of the others the first takes over; if that fails too,
        so do all who wait. `alone` joins no other, and lets no other join.

        Raises:
            Exception: that with which the work failed.
        """
        for last in (False, True):
            flight, leads = self._boarded(key, work, alone)
            try:
                await flight.wait(whole=whole)
            except BaseException as error:
                await flight.leave()
                if leads or last or not isinstance(error, Exception):
                    raise
            else:
                return flight
        raise AssertionError("the second try returns or raises")

    def _boarded(
        self, key: str, work: Callable[[Flight[T]], Awaitable[None]], alone: bool
    ) -> tuple[Flight[T], bool]:
        flight = None if alone else self._flying.get(key)
        leads = flight is None
        if flight is None:

            def over(ended: Flight[T]) -> None:
                if self._flying.get(key) is ended:
                    del self._flying[key]

            flight = Flight(work, over)
            self._tasks.add(flight.task)
            flight.task.add_done_callback(self._tasks.discard)
            if not alone:
                self._flying[key] = flight
        flight.board()
        return flight, leads

    async def close(self, seconds: float) -> None:
        """Give what is being done some time to end, then end it."""
        if self._tasks:
            _, late = await asyncio.wait(self._tasks, timeout=seconds)
            for task in late:
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)
