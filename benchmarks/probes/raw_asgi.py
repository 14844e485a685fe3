"""The floor: bytes to a backend and back in raw ASGI, with aiohttp; no check, no error handling.

uvicorn raw_asgi:app; the backend is $BACKEND.
"""

from __future__ import annotations

import os
from typing import Any

import aiohttp
import orjson

BACKEND = os.environ.get("BACKEND", "http://127.0.0.1:9110")
KEPT = (b"authorization", b"content-type")
session: aiohttp.ClientSession | None = None


async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
    """Serve one connection scope."""
    if scope["type"] == "lifespan":
        await lifespan(receive, send)
        return
    assert session is not None
    body = b""
    while (message := await receive()).get("more_body"):
        body += message["body"]
    body += message["body"]
    streams = orjson.loads(body).get("stream") if body else False
    headers = {name.decode(): value.decode() for name, value in scope["headers"] if name in KEPT}
    async with session.request(
        scope["method"], BACKEND + scope["path"], data=body or None, headers=headers
    ) as answer:
        kind = (b"content-type", answer.headers["content-type"].encode())
        whole = b"" if streams else await answer.read()
        length = [] if streams else [(b"content-length", b"%d" % len(whole))]
        start = {"type": "http.response.start", "status": answer.status, "headers": [kind, *length]}
        await send(start)
        if streams:
            async for chunk in answer.content.iter_any():
                await send({"type": "http.response.body", "body": chunk, "more_body": True})
        await send({"type": "http.response.body", "body": whole})


async def lifespan(receive: Any, send: Any) -> None:
    """Open and close the connection pool."""
    global session
    await receive()
    session = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0), auto_decompress=False)
    await send({"type": "lifespan.startup.complete"})
    await receive()
    await session.close()
    await send({"type": "lifespan.shutdown.complete"})
