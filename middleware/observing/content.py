"""What clients ask and get, in the log: only where `log_content` is on. Headers, and so keys, never."""

from __future__ import annotations

import logging
from typing import Any

from veridical.middleware.observing.observation import current
from veridical.middleware.responding import Receive, Scope, Send

log = logging.getLogger("veridical.content")
#: Bytes of a body that are logged; where there are more the line says how many.
MAX_BYTES = 65_536


class Told:
    """Wraps the app: writes the bodies of each request to /v1 and of its answer, when it is over."""

    def __init__(self, app: Any) -> None:
        self.app = app
        log.warning("observability.log_content is on: prompts and answers are written to the log")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection scope."""
        if scope["type"] != "http" or not scope["path"].startswith("/v1/"):
            await self.app(scope, receive, send)
            return
        asked, got = _Body(), _Body()

        async def receiving() -> Any:
            message = await receive()
            asked.feed(message.get("body", b""))
            return message

        async def sending(message: Any) -> None:
            got.feed(message.get("body", b""))
            await send(message)

        try:
            await self.app(scope, receiving, sending)
        finally:
            fields = {"id": current().id, **asked.fields("request"), **got.fields("response")}
            log.info("content", extra={"fields": fields})


class _Body:
    def __init__(self) -> None:
        self.kept = bytearray()
        self.size = 0

    def feed(self, data: bytes) -> None:
        self.size += len(data)
        self.kept += data[: max(0, MAX_BYTES - len(self.kept))]

    def fields(self, name: str) -> dict[str, Any]:
        cut = {f"{name}_bytes": self.size} if self.size > len(self.kept) else {}
        return {name: self.kept.decode("utf-8", "replace"), **cut}
