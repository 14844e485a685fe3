"""The parent's side of what workers share: it answers for limits and engines."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any

from veridical.middleware.access.keys import ApiKey
from veridical.middleware.access.limiting import MemoryLimiter, Standing
from veridical.middleware.backends.engines import Engine
from veridical.middleware.workers.line import Line
from veridical.strategies.errors import BackendError, BackendUnreachable, shown

#: Of what is left of a limit, all workers together are lent at most one part in this many.
_SHARE = 8
#: Seconds between looks at the engines, of which workers hear when something has changed.
LOOK_S = 0.1


class Desk:
    """Answers the workers. The limits are one process's own, so that nothing slips by."""

    def __init__(self, engines: Mapping[str, Engine]) -> None:
        self.engines = engines
        self._limiter = MemoryLimiter()
        self._lines: set[Line] = set()
        self._lent: dict[Line, dict[ApiKey, tuple[int, int]]] = {}
        self._waiting: set[asyncio.Task[None]] = set()
        self._told: dict[str, tuple[str, bool]] = {}

    async def serve(self, end: socket.socket, on_serving: Callable[[], None]) -> None:
        """Answer one worker until it hangs up; `on_serving` is called when it is ready to serve."""

        def hear(line: Line, message: list[Any]) -> None:
            number, what, *values = message
            if what == "serves":
                on_serving()
            self._answer(line, number, what, values)

        line = await Line.over(end, hear)
        self._lines.add(line)
        self._lent[line] = {}
        try:
            await line.gone
        finally:
            self._lines.discard(line)
            for key, (requests, tokens) in self._lent.pop(line).items():  # it crashed
                self._limiter.given_back(key, requests, tokens)
            line.close()

    async def look_on(self) -> None:
        """Tell all workers how the engines are, whenever that has changed."""
        while True:
            now = self._standing()
            if now != self._told:
                self._told = now
                for line in self._lines:
                    line.say(0, now)
            await asyncio.sleep(LOOK_S)

    def _standing(self) -> dict[str, tuple[str, bool]]:
        return {name: (engine.base_url, engine.is_ready) for name, engine in self.engines.items()}

    def _answer(self, line: Line, number: int, what: str, values: list[Any]) -> None:
        match what, values:
            case "engines", []:
                line.say(0, self._standing())
                line.say(number, True)
            case "take", [*limits, tokens, borrows]:
                line.say(number, self._taken(line, _key(*limits), tokens, borrows=borrows))
            case "give back", [*limits, of_requests, of_tokens, requests, tokens]:
                self._lend(line, _key(*limits), -of_requests, -of_tokens)
                self._limiter.given_back(_key(*limits), requests, tokens)
            case "settle", [*limits, held, spent]:
                self._limiter.settle(_key(*limits), Standing(held=held), spent)
            case "learn", [month, spent]:
                self._limiter.learned(month, spent)
            case "restart", [name] if name in self.engines:
                self.engines[name].restart()
            case "engine", [name]:
                waiting = asyncio.create_task(self._tell_when_ready(line, number, name))
                self._waiting.add(waiting)
                waiting.add_done_callback(self._waiting.discard)

    def _taken(self, line: Line, key: ApiKey, tokens: int, *, borrows: bool) -> tuple[Any, ...]:
        """How a key stands after a request, and what is lent on top: requests, tokens."""
        standing = self._limiter.taken(key, tokens)
        requests, spare = 0, 0
        if borrows and standing.refused is None:
            requests, spare = self._limiter.lent(key, _SHARE * len(self._lines), tokens)
            self._lend(line, key, requests, spare)
        left = (standing.requests_left, standing.tokens_left, standing.month_left)
        return (standing.refused, standing.wait_s, standing.held, *left, requests, spare)

    def _lend(self, line: Line, key: ApiKey, requests: int, tokens: int) -> None:
        before = self._lent[line].get(key, (0, 0))
        self._lent[line][key] = (before[0] + requests, before[1] + tokens)

    async def _tell_when_ready(self, line: Line, number: int, name: str) -> None:
        fault: tuple[str, str] | None = None
        try:
            if name not in self.engines:
                raise BackendUnreachable(f"The engine {shown(name)} is new: it needs a restart.")
            await self.engines[name].ready()
        except BackendError as error:
            fault = type(error).__name__, error.message
        line.say(0, self._standing())
        line.say(number, fault)


@lru_cache(maxsize=4096)
def _key(id_: str, requests: int | None, tokens: int | None, month: int | None) -> ApiKey:
    """As much of a key as its limits need."""
    return ApiKey(id_, "", "", requests_per_minute=requests, tokens_per_minute=tokens, tokens_per_month=month)
