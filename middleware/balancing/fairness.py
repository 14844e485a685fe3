"""Who is next: clients take turns, within a client its requests, within a request its calls in order.

Round robin by flow (Nagle, RFC 970; Demers et al., "Analysis and Simulation of a Fair Queueing
Algorithm", 1989), with calls as units: how long a call will take is not known.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Generic, TypeVar

T = TypeVar("T")


@dataclass(eq=False, slots=True)
class Waiter(Generic[T]):
    """A call that waits, perhaps in several queues; the first that has room settles it.

    `turn` is what it was given; None tells it to look again for where to wait.
    """

    client: str
    request: object
    headers: Mapping[str, str] = field(default_factory=dict)
    turn: asyncio.Future[T | None] = field(default_factory=lambda: asyncio.get_running_loop().create_future())
    queues: list[FairQueue[T]] = field(default_factory=list)

    def settle(self, turn: T | None) -> None:
        """Give it its turn, and take it out of every queue."""
        self.leave()
        if not self.turn.done():
            self.turn.set_result(turn)

    def leave(self) -> None:
        """Wait no longer."""
        for queue in self.queues:
            queue.discard(self)
        self.queues.clear()


class FairQueue(Generic[T]):
    """Waiters in the order of their turns."""

    def __init__(self) -> None:
        self._clients: dict[str, dict[object, dict[Waiter[T], None]]] = {}
        self._size = 0

    def __len__(self) -> int:
        return self._size

    def add(self, waiter: Waiter[T]) -> None:
        """Let one wait, behind the others of its request."""
        self._clients.setdefault(waiter.client, {}).setdefault(waiter.request, {})[waiter] = None
        self._size += 1
        waiter.queues.append(self)

    def next(self) -> Waiter[T]:
        """Whose turn it is, where anybody waits; its client and its request go to the end of their lines."""
        client = next(iter(self._clients))
        requests = self._clients.pop(client)
        request = next(iter(requests))
        waiters = requests.pop(request)
        requests[request] = waiters
        self._clients[client] = requests
        return next(iter(waiters))

    def discard(self, waiter: Waiter[T]) -> None:
        """Take one out; it need not be there."""
        requests = self._clients.get(waiter.client, {})
        waiters = requests.get(waiter.request, {})
        if waiter not in waiters:
            return
        del waiters[waiter]
        self._size -= 1
        if not waiters:
            del requests[waiter.request]
        if not requests:
            del self._clients[waiter.client]

    def everyone(self) -> list[Waiter[T]]:
        """All who wait, in no particular order."""
        return [each for requests in self._clients.values() for line in requests.values() for each in line]
