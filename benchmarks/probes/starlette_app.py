"""The smallest sensible proxy on Starlette and aiohttp; no check, no error handling.

uvicorn starlette_app:app; the backend is $BACKEND.
"""

from __future__ import annotations

import json
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aiohttp
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

BACKEND = os.environ.get("BACKEND", "http://127.0.0.1:9110")
KEPT = ("authorization", "content-type")


@asynccontextmanager
async def lifespan(app: Starlette) -> AsyncIterator[None]:
    """Open and close the connection pool."""
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector, auto_decompress=False) as session:
        app.state.session = session
        yield


async def pass_on(request: Request) -> Response:
    """One request."""
    body = await request.body()
    headers = {name: value for name, value in request.headers.items() if name in KEPT}
    session: aiohttp.ClientSession = request.app.state.session
    answer = await session.request(
        request.method, BACKEND + request.url.path, data=body or None, headers=headers
    )
    kind = answer.headers.get("content-type")
    if not (body and json.loads(body).get("stream")):
        return Response(await answer.read(), answer.status, media_type=kind)

    async def pieces() -> AsyncIterator[bytes]:
        async with answer:
            async for chunk in answer.content.iter_any():
                yield chunk

    return StreamingResponse(pieces(), answer.status, media_type=kind)


app = Starlette(lifespan=lifespan, routes=[Route("/{path:path}", pass_on, methods=["GET", "POST"])])
