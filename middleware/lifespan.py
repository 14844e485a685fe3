"""The ASGI lifespan: what is open from the server's start to its end."""

from __future__ import annotations

import traceback
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import Any

from veridical.middleware.responding import Receive, Scope, Send


class Lifespan:
    """Wraps the app. `opened` is entered before the server listens and left when it has served the last."""

    def __init__(self, app: Any, opened: Callable[[], AbstractAsyncContextManager[None]]) -> None:
        self.app, self._opened = app, opened

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection scope.

        Raises:
            Exception: what opening or closing raised, once the server has been told.
        """
        if scope["type"] != "lifespan":
            await self.app(scope, receive, send)
            return
        stage = "startup"
        await receive()
        try:
            async with self._opened():
                await send({"type": "lifespan.startup.complete"})
                stage = "shutdown"
                await receive()
        except BaseException:
            await send({"type": f"lifespan.{stage}.failed", "message": traceback.format_exc()})
            raise
        await send({"type": "lifespan.shutdown.complete"})
