"""An app that is made when it is first needed, so that a server can listen before it has imported everything.

Made on a thread: meanwhile the loop serves what does not need it. Whoever needs it waits for the one making.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from veridical.middleware.responding import Receive, Scope, Send, respond_error
from veridical.middleware.retiring import ended

#: Seconds that a server has been listening before the app is made unasked: who waited for the port is served first.
QUIET_S = 0.2


class Deferred:
    """Is the app that `make` returns. A failure to make it is the answer to those who waited for it; the
    next request tries again."""

    def __init__(self, make: Callable[[], Any]) -> None:
        self._make = make
        self._app: Any = None
        self._making: asyncio.Task[Any] | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection scope."""
        if self._app is None:
            try:
                await self.made()
            except Exception as error:  # noqa: BLE001 - whatever it is, the client gets an answer
                await respond_error(error, [], send)
                return
        await self._app(scope, receive, send)

    async def made(self) -> Any:
        """The app.

        Raises:
            Exception: what `make` raised.
        """
        if self._app is None:
            if self._making is None:
                self._making = asyncio.create_task(self._made_on_thread())
            await asyncio.shield(self._making)  # who leaves does not take it from the others
        return self._app

    async def _made_on_thread(self) -> None:
        try:
            self._app = await asyncio.to_thread(self._make)
        finally:
            self._making = None

    @asynccontextmanager
    async def soon(self, after_s: float = QUIET_S) -> AsyncIterator[None]:
        """While this lasts, the app is made unasked once so many seconds have passed."""
        unasked = asyncio.create_task(self._unasked(after_s))
        try:
            yield
        finally:
            await ended([unasked])

    async def _unasked(self, after_s: float) -> None:
        await asyncio.sleep(after_s)
        await self.made()
