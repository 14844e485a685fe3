"""On whose behalf a call is made: known to the edge, needed where calls wait, carried by the context."""

from __future__ import annotations

from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass, field


@dataclass(eq=False, slots=True)
class Caller:
    """One request of one client.

    `client` is whom turns are taken by. `kept` has, by pool, the server that answered it last. `on_answer`
    hears of each answer: the pool's name and the server's.
    """

    client: str = ""
    kept: dict[str, str] = field(default_factory=dict)
    on_answer: Callable[[str, str], None] | None = None

    def answered(self, pool: str, server: str) -> None:
        """A server of a pool has accepted a call."""
        self.kept[pool] = server
        if self.on_answer:
            self.on_answer(pool, server)


_caller: ContextVar[Caller] = ContextVar("caller")


def enter(client: str) -> None:
    """From here on, this task and those that it starts work for a new request of this client."""
    _caller.set(Caller(client))


def caller() -> Caller:
    """On whose behalf this task works; a nameless one outside of a request."""
    return _caller.get(None) or Caller()
