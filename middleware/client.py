"""A client of a running proxy, for `veridical ask`: one streamed question, its steps and its trail."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import aiohttp
import orjson

from veridical.middleware.sse import EventReader
from veridical.strategies.errors import BackendError, BackendUnreachable, VeridicalError


@dataclass(frozen=True, slots=True)
class Piece:
    """What arrives: a step in words, a piece of the answer, or the trail at the end."""

    step: str = ""
    text: str = ""
    trail: dict[str, Any] = field(default_factory=dict)
    usage: dict[str, Any] = field(default_factory=dict)


def api_root(url: str) -> str:
    """The API root that a person means by `url`: an address without a path is the server's, whose API is
    below /v1."""
    url = url.rstrip("/")
    return f"{url}/v1" if re.fullmatch(r"https?://[^/]+", url) else url


@dataclass(frozen=True, slots=True)
class Client:
    """An OpenAI-compatible server at `url` (its API root), and the key for it."""

    url: str
    key: str | None = None

    async def ask(self, question: str, model: str, strategy: str | None, trace: str) -> AsyncIterator[Piece]:
        """Ask and yield what comes.

        Raises:
            VeridicalError: the server refused, broke off, or cannot be reached.
        """
        body: dict[str, Any] = {
            "model": model,
            "messages": [{"role": "user", "content": question}],
            "stream": True,
            "stream_options": {"include_usage": True},
            "veridical": {"trace": trace, "progress": "reasoning"},
        }
        if strategy:
            body["veridical"]["strategy"] = strategy
        reader = EventReader()
        url = f"{self.url}/chat/completions"
        async with self._talking() as session, session.post(url, data=orjson.dumps(body)) as response:
            if response.status != 200:
                raise _refusal(response.status, await response.read())
            async for chunk in response.content.iter_any():
                for data in reader.feed(chunk):
                    if data != b"[DONE]":
                        yield _piece(orjson.loads(data))

    async def first_model(self) -> str:
        """The first model that the server lists.

        Raises:
            VeridicalError: it lists none, or cannot be reached.
        """
        async with self._talking() as session, session.get(f"{self.url}/models") as response:
            raw = await response.read()
            if response.status != 200:
                raise _refusal(response.status, raw)
        try:
            return str(orjson.loads(raw)["data"][0]["id"])
        except (orjson.JSONDecodeError, LookupError, TypeError):
            raise VeridicalError(f"The server at {self.url} lists no models.") from None

    @asynccontextmanager
    async def _talking(self) -> AsyncIterator[aiohttp.ClientSession]:
        """A session; what goes wrong with the connection or its words comes out as ours."""
        async with self._session() as session:
            try:
                yield session
            except (aiohttp.ClientConnectorError, aiohttp.InvalidURL):
                raise self._unreachable() from None
            except (aiohttp.ClientError, TimeoutError) as error:
                raise BackendError(f"The connection broke ({type(error).__name__}).") from error
            except orjson.JSONDecodeError:
                raise BackendError(f"The server at {self.url} speaks no chat completions.") from None

    def _session(self) -> aiohttp.ClientSession:
        headers = {"Content-Type": "application/json"}
        if self.key:
            headers["Authorization"] = f"Bearer {self.key}"
        return aiohttp.ClientSession(
            headers=headers, timeout=aiohttp.ClientTimeout(total=None, sock_connect=10)
        )

    def _unreachable(self) -> BackendUnreachable:
        return BackendUnreachable(f"No server answers at {self.url}. Start one with `veridical serve`.")


def _refusal(status: int, raw: bytes) -> VeridicalError:
    try:
        words = orjson.loads(raw)["error"]["message"]
    except (orjson.JSONDecodeError, KeyError, TypeError):
        words = "no message"
    return VeridicalError(f"The server answered {status}: {words}")


def _piece(chunk: dict[str, Any]) -> Piece:
    if error := chunk.get("error"):
        raise VeridicalError(f"The answer broke off: {error.get('message', error)}")
    delta = (chunk.get("choices") or [{}])[0].get("delta") or {}
    return Piece(
        delta.get("reasoning_content") or "",
        delta.get("content") or "",
        chunk.get("veridical") or {},
        chunk.get("usage") or {},
    )
