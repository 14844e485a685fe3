"""A worker's view of its parent, who has what there is once."""

from __future__ import annotations

import asyncio
import itertools
import signal
import socket
from typing import Any

from veridical.middleware.backends.engines import Engine, EngineSpec
from veridical.middleware.errors import StateUnavailable, log
from veridical.middleware.workers.line import Line
from veridical.strategies.errors import BackendTimeout, BackendUnreachable

_FAULTS = {error.__name__: error for error in (BackendTimeout, BackendUnreachable)}


class Parent:
    """The process that started this one. When it is gone, this one stops as on SIGTERM."""

    def __init__(self, end: socket.socket) -> None:
        self._end = end
        self._numbers = itertools.count(1)
        self._asked: dict[int, asyncio.Future[Any]] = {}
        self._line: Line | None = None
        self.engines: dict[str, tuple[str, bool]] = {}

    def engine(self, name: str, spec: EngineSpec) -> Engine:
        """The engine of a backend: the parent's."""
        return ParentsEngine(self, name)

    async def open(self) -> None:
        """Be heard, and hear how the engines are."""
        self._line = await Line.over(self._end, self._heard)
        self._line.gone.add_done_callback(self._orphaned)
        await self.ask("engines")

    async def close(self) -> None:
        """Hang up."""
        line, self._line = self._line, None
        if line:
            line.close()

    def tell(self, what: str, *values: Any) -> None:
        """Say something that needs no answer."""
        if self._line:
            self._line.say(0, what, *values, later=True)

    async def ask(self, what: str, *values: Any) -> Any:
        """Ask, and wait for the answer.

        Raises:
            StateUnavailable: the parent is gone.
        """
        if self._line is None:
            raise StateUnavailable("The server is stopping.")
        number = next(self._numbers)
        answer = self._asked[number] = asyncio.get_running_loop().create_future()
        self._line.say(number, what, *values)
        try:
            return await answer
        finally:
            del self._asked[number]

    def _heard(self, line: Line, message: list[Any]) -> None:
        number, found = message
        if not number:
            self.engines = {name: (url, ready) for name, (url, ready) in found.items()}
        elif (answer := self._asked.get(number)) and not answer.done():
            answer.set_result(found)

    def _orphaned(self, _: asyncio.Future[None]) -> None:
        for answer in self._asked.values():
            if not answer.done():
                answer.set_exception(StateUnavailable("The server is stopping."))
        if self._line is not None:  # it was not we who hung up
            self._line = None
            log.warning("the parent process is gone: this worker stops")
            signal.raise_signal(signal.SIGTERM)


class ParentsEngine:
    """An engine that the parent runs."""

    def __init__(self, parent: Parent, name: str) -> None:
        self._parent, self._name = parent, name

    @property
    def is_ready(self) -> bool:
        """Whether it is running, as the parent told last."""
        return self._told[1]

    @property
    def base_url(self) -> str:
        """Where it speaks OpenAI."""
        return self._told[0]

    @property
    def _told(self) -> tuple[str, bool]:
        return self._parent.engines.get(self._name, ("http://127.0.0.1:0/v1", False))

    async def ready(self) -> None:
        """Wait until it can be used.

        Raises:
            BackendUnreachable, BackendTimeout: as the parent found.
        """
        if not self.is_ready and (fault := await self._parent.ask("engine", self._name)):
            kind, words = fault
            raise _FAULTS[kind](words)

    async def start(self, behind: asyncio.Task[None] | None = None) -> None:
        """Nothing to do: the parent has."""

    async def stop(self) -> None:
        """Nothing to do: the parent will."""

    def restart(self) -> None:
        """Ask the parent to end one that does not answer any more."""
        self._parent.tell("restart", self._name)
