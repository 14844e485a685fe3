"""Leaving without a loss: `/ready` says so first, then nobody new is let in, and who is in is served."""

from __future__ import annotations

import math
import signal
import time
from types import FrameType
from typing import Any

import orjson
import uvicorn

from veridical.middleware.errors import log
from veridical.middleware.responding import Receive, Scope, Send, respond

READY_PATH = "/ready"


class Draining:
    """Wraps the app. While `leaving`, `/ready` is 503, and each answer is the last of its connection, so
    that clients which keep theirs open come back by another."""

    def __init__(self, app: Any) -> None:
        self.app, self.leaving = app, False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection scope."""
        if not self.leaving or scope["type"] != "http":
            await self.app(scope, receive, send)
        elif scope["path"] == READY_PATH:
            body = orjson.dumps({"ready": False, "stopping": True, "backends": {}})
            await respond(send, 503, [(b"content-type", b"application/json"), _LAST], body)
        else:
            await self.app(scope, receive, _lastly(send))


_LAST = (b"connection", b"close")


def _lastly(send: Send) -> Send:
    async def sent(message: Any) -> None:
        if message["type"] == "http.response.start":
            message["headers"] = [*message["headers"], _LAST]
        await send(message)

    return sent


class Server(uvicorn.Server):
    """Serves until a signal stops it. SIGTERM says "leaving" for `drain_s` seconds, in which
    balancers look at `/ready` and everybody is still served; then the listening socket closes, and running
    requests get the config's `timeout_graceful_shutdown`. Ctrl-C and a second signal skip the first part."""

    def __init__(self, app: Draining, config: uvicorn.Config, drain_s: float) -> None:
        super().__init__(config)
        self._draining, self._drain_s = app, drain_s
        self._stops_at = math.inf

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Begin to leave."""
        first = not self._draining.leaving
        self._draining.leaving = True
        if first and sig == signal.SIGTERM and self._drain_s > 0:
            self._stops_at = time.monotonic() + self._drain_s
            log.info("stopping: not ready from now on, no new connections in %g s", self._drain_s)
        else:
            super().handle_exit(sig, frame)

    async def on_tick(self, counter: int) -> bool:
        """Ten times a second: whether to stop."""
        if time.monotonic() >= self._stops_at:
            self._stops_at = math.inf
            super().handle_exit(signal.SIGTERM, None)
        return await super().on_tick(counter)
