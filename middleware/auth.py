"""Client keys: who may use the proxy."""

from __future__ import annotations

from typing import Any

from veridical.middleware.access.directory import Directory
from veridical.middleware.access.keys import ApiKey
from veridical.middleware.responding import Receive, Scope, Send, respond_error
from veridical.strategies.errors import VeridicalError


class ClientKeys:
    """Wraps the app. Lets /v1 requests in that carry a valid key as a bearer token, and says whose."""

    def __init__(self, app: Any, directory: Directory) -> None:
        self.app, self.directory = app, directory

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection scope."""
        if scope["type"] == "http" and scope["path"].startswith("/v1"):
            given = b""
            for name, value in scope["headers"]:
                if name == b"authorization":
                    given = value
                    break
            try:
                key = await self.directory.find(given)
            except VeridicalError as error:
                await respond_error(error, [], send)
                return
            scope.setdefault("state", {})["key"] = key
        await self.app(scope, receive, send)


def key_of(scope: Scope) -> ApiKey | None:
    """The key that a request was let in with; None where none is needed."""
    found: ApiKey | None = scope.get("state", {}).get("key")
    return found


def client_of(scope: Scope) -> str:
    """By whom clients take turns: a request's key, else the address that it comes from."""
    key = key_of(scope)
    return key.id if key else str((scope.get("client") or ("",))[0])
