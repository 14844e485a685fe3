"""JSON over HTTP, with an end to every wait and every body: the base of the remote retrievers."""

from __future__ import annotations

import asyncio
from abc import abstractmethod
from collections.abc import Mapping
from typing import Any
from weakref import WeakKeyDictionary

import aiohttp
import orjson
from langchain_core.callbacks import Callbacks
from langchain_core.documents import Document
from pydantic import Field, PrivateAttr

from veridical.retrievers.base import Retriever
from veridical.retrievers.errors import (
    RetrieverBroken,
    RetrieverError,
    RetrieverMisconfigured,
    RetrieverRateLimited,
    RetrieverTimeout,
    RetrieverUnavailable,
)

#: Public services ask who is calling; operators should put their own contact here.
USER_AGENT = "veridical/0.1 (fact-checking proxy; set user_agent to name its operator)"
#: Above this, a Retry-After is not waited for.
LONGEST_PAUSE = 5.0


def refusal(status: int, retry_after: str | None, who: str) -> RetrieverError | None:
    """What an HTTP status means, or None where it is a success."""
    if status < 400:
        return None
    if status == 429 or (status == 503 and retry_after):
        wait = pause(retry_after)
        return RetrieverRateLimited(
            f"{who} asks for a pause (HTTP {status})", retriever=who, retry_after=wait
        )
    return RetrieverUnavailable(f"{who} answered HTTP {status}", retriever=who)


def pause(retry_after: str | None) -> float | None:
    """The seconds of a Retry-After header; None for a date or nonsense."""
    try:
        return max(0.0, float(retry_after or ""))
    except ValueError:
        return None


def decode(body: bytes, kind: str, who: str) -> Any:
    """The JSON of a body; `kind` is its content type, for the message when it is none."""
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError:
        raise RetrieverBroken(f"{who} sent no JSON but {kind or 'bytes'}", retriever=who) from None


class RemoteRetriever(Retriever):
    """A retriever behind an HTTP API.

    `timeout` (seconds) bounds a whole search with its retries, `max_bytes` each body, `retries` how
    often a pause that the source asks for is kept. `session` is used where given and stays the
    caller's; otherwise one is made for each event loop: `await aclose()` when done with it.
    """

    timeout: float = Field(default=10.0, gt=0)
    max_bytes: int = Field(default=4 * 1024 * 1024, gt=0)
    retries: int = Field(default=1, ge=0)
    user_agent: str = USER_AGENT
    session: aiohttp.ClientSession | None = Field(default=None, exclude=True, repr=False)
    _sessions: WeakKeyDictionary[asyncio.AbstractEventLoop, aiohttp.ClientSession] = PrivateAttr(
        default_factory=WeakKeyDictionary
    )

    def find(self, query: str, k: int, callbacks: Callbacks = None) -> list[Document]:
        """As `afind`, in an event loop of its own: inside a running one, use `ainvoke`."""
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            return asyncio.run(self._once(query, k, callbacks))
        raise RetrieverMisconfigured(f"{self.get_name()}: in async code, call ainvoke")

    async def _once(self, query: str, k: int, callbacks: Callbacks) -> list[Document]:
        try:
            return await self.afind(query, k, callbacks)
        finally:
            await self.aclose()

    async def afind(self, query: str, k: int, callbacks: Callbacks = None) -> list[Document]:
        """Search the source within the time limit."""
        try:
            async with asyncio.timeout(self.timeout):
                return await self.ask(query, k)
        except TimeoutError:
            who = self.get_name()
            raise RetrieverTimeout(f"{who}: no answer within {self.timeout:g} s", retriever=who) from None

    @abstractmethod
    async def ask(self, query: str, k: int) -> list[Document]:
        """The search itself."""

    async def aclose(self) -> None:
        """Close the session that was made for the running event loop."""
        session = self._sessions.pop(asyncio.get_running_loop(), None)
        if session:
            await session.close()

    def _session(self) -> aiohttp.ClientSession:
        loop = asyncio.get_running_loop()
        if self.session and self.session._loop is loop:  # noqa: SLF001 - aiohttp names it nowhere else
            return self.session
        if loop not in self._sessions:
            self._sessions[loop] = aiohttp.ClientSession(trust_env=True)
        return self._sessions[loop]

    async def request(
        self,
        method: str,
        url: str,
        *,
        params: Mapping[str, str] | None = None,
        body: Any = None,
        form: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Any:
        """The JSON answer to one request (`body` is sent as JSON, `form` as a form).

        A pause that the source asks for is kept, if it is short.
        """
        sent = {"params": params, "json": body, "data": form}
        for left in range(self.retries, -1, -1):
            try:
                return await self._send(method, url, sent, headers or {})
            except RetrieverRateLimited as limited:
                wait = 1.0 if limited.retry_after is None else limited.retry_after
                if not left or wait > LONGEST_PAUSE:
                    raise
                await asyncio.sleep(wait)
        raise AssertionError("unreachable")

    async def _send(self, method: str, url: str, sent: dict[str, Any], headers: Mapping[str, str]) -> Any:
        who = self.get_name()
        headers = {"User-Agent": self.user_agent, "Accept": "application/json", **headers}
        try:
            async with self._session().request(
                method, url, **sent, headers=headers, max_redirects=3
            ) as response:
                error = refusal(response.status, response.headers.get("Retry-After"), who)
                if error:
                    raise error
                content = await self._read(response)
        except (aiohttp.ClientPayloadError, aiohttp.TooManyRedirects) as error:
            raise RetrieverBroken(f"{who} broke off its answer", retriever=who) from error
        except aiohttp.InvalidURL as error:
            raise RetrieverMisconfigured(f"{who}: {url!r} is no URL", retriever=who) from error
        except aiohttp.ClientError as error:
            reason = type(error).__name__
            raise RetrieverUnavailable(f"{who} cannot be reached ({reason})", retriever=who) from error
        return decode(content, response.content_type, who)

    async def _read(self, response: aiohttp.ClientResponse) -> bytes:
        parts: list[bytes] = []
        size = 0
        async for part in response.content.iter_any():
            size += len(part)
            if size > self.max_bytes:
                who = self.get_name()
                raise RetrieverBroken(f"{who} sent more than {self.max_bytes:,} bytes", retriever=who)
            parts.append(part)
        return b"".join(parts)
