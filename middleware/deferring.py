"""An app that is made when it is first needed, so that a server can listen before it has imported everything.

It is made on a thread: meanwhile the loop serves what does without it. Whoever needs it waits for that one.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from veridical.middleware.errors import error_object
from veridical.middleware.responding import Receive, Scope, Send, respond_error
from veridical.middleware.retiring import ended

#: Seconds after which the app is made unasked: by then, who waited for the server has been answered.
QUIET_S = 0.2


class Deferred:
    """Is the app that `make` returns. Where it cannot be made, those who waited for it are told so, and the
    next request tries again."""

    def __init__(self, make: Callable[[], Any]) -> None:
        self._make = make
        self._app: Any = None
        self._making: asyncio.Task[None] | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection scope."""
        if self._app is None:
            try:
                await self.made()
            except Exception as error:  # noqa: BLE001 - whatever it is, the client gets an answer
                await respond_error(error, [], send)
                return
        await self._app(scope, receive, send)

    @asynccontextmanager
    async def soon(self) -> AsyncIterator[None]:
        """While this lasts, the app is made unasked once QUIET_S have passed."""
        unasked = asyncio.create_task(self._made_unasked())
        try:
            yield
        finally:
            await ended([unasked])

    async def _made_unasked(self) -> None:
        await asyncio.sleep(QUIET_S)
        try:
            await self.made()
        except Exception as error:  # noqa: BLE001 - nobody waits; the next request is told, if it fails again
            error_object(error)  # which logs it

    async def made(self) -> None:
        """Wait until it is made.

        Raises:
            Exception: it could not be.
        """
        if self._app is None:
            if self._making is None:
                self._making = asyncio.create_task(self._made_on_thread())
            await asyncio.shield(self._making)  # who leaves does not take it from the others

    async def _made_on_thread(self) -> None:
        try:
            self._app = await asyncio.to_thread(self._make)
        finally:
            self._making = None
