"""Client keys: who may use the proxy."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Sequence
from typing import Any

from veridical.middleware.errors import Unauthorized
from veridical.middleware.responding import Receive, Scope, Send, respond_error


class ClientKeys:
    """Wraps the app. Lets /v1 requests in that carry one of the keys as a bearer token.

    Digests are compared in constant time, and all of them, so that timing tells nothing.
    """

    def __init__(self, app: Any, keys: Sequence[str]) -> None:
        self.app = app
        self._digests = [_digest(key.encode()) for key in keys]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection scope."""
        if scope["type"] == "http" and scope["path"].startswith("/v1") and not self._knows(scope):
            error = Unauthorized("A valid API key is required: 'Authorization: Bearer KEY'.")
            await respond_error(error, [], send)
            return
        await self.app(scope, receive, send)

    def _knows(self, scope: Scope) -> bool:
        found = next((value for name, value in scope["headers"] if name == b"authorization"), b"")
        scheme, _, key = found.partition(b" ")
        given = _digest(key.strip())
        matches = [hmac.compare_digest(given, known) for known in self._digests]
        return scheme.lower() == b"bearer" and any(matches)


def _digest(key: bytes) -> bytes:
    return hashlib.sha256(key).digest()
