"""One request and its response on a connection of aiohttp's pool, without the rest of aiohttp's client.

`ClientSession.request` prepares for redirects, cookies, proxies, traces, forms and compressed bodies; for a
body that is bytes, to a server that is known, that costs more than all the rest of passing it on (see
docs/profiles.md). What makes a client sound stays aiohttp's: connecting, TLS, the pool, parsing, time-outs
of reading.
"""

from __future__ import annotations

import asyncio
from base64 import b64encode
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import aiohttp
from aiohttp.http import HttpProcessingError
from yarl import URL

if TYPE_CHECKING:
    from aiohttp.connector import Connection
    from multidict import CIMultiDictProxy

#: Of these, one that has no body does not say so (RFC 9110, 8.6).
_BODILESS = frozenset({"GET", "HEAD", "OPTIONS", "TRACE"})
#: Asked again where a pooled connection turns out to be dead (RFC 9110, 9.2.2).
_REPEATABLE = frozenset({"GET", "HEAD", "OPTIONS", "TRACE", "PUT", "DELETE"})
#: A body up to this size is sent in one piece with its head.
_JOINED_BYTES = 65_536


class Sessions(Protocol):
    """The process's HTTP sessions: the one connection pool, and one whose connections serve once."""

    def __call__(self, *, pooled: bool = True) -> aiohttp.ClientSession:
        """One of the two."""
        ...


@dataclass(frozen=True, slots=True)
class Origin:
    """A server: how to connect to it, what to call it, and the path that its API begins with."""

    connecting: aiohttp.ClientRequest
    host: str
    root: str
    authorization: str = ""

    @classmethod
    def of(cls, base_url: str, session: aiohttp.ClientSession) -> Origin:
        """The server of an API root; a name and a password in it become its `Authorization`, where a
        request has none of its own."""
        url = URL(base_url)
        told = ""
        if url.user is not None:
            told = "Basic " + b64encode(f"{url.user}:{url.password or ''}".encode()).decode()
        connecting = aiohttp.ClientRequest(
            "GET", url.with_user(None), loop=asyncio.get_running_loop(), session=session
        )
        return cls(connecting, url.host_port_subcomponent or "", url.raw_path.rstrip("/"), told)


class Exchange:
    """A response whose head is known; its body is read from `content`.

    The connection goes back to the pool once the body has ended. Until then `close` must be called, which
    ends it.
    """

    __slots__ = ("_connection", "content", "headers", "raw_headers", "status")

    def __init__(
        self,
        status: int,
        headers: CIMultiDictProxy[str],
        raw_headers: tuple[tuple[bytes, bytes], ...],
        content: aiohttp.StreamReader,
        connection: Connection,
    ) -> None:
        self.status, self.headers, self.raw_headers = status, headers, raw_headers
        self.content = content
        self._connection: Connection | None = connection
        content.on_eof(self._ended)

    @property
    def content_type(self) -> str:
        """The media type without parameters; empty where none is told."""
        return self.headers.get("Content-Type", "").partition(";")[0].strip().lower()

    @property
    def content_length(self) -> int | None:
        """The body's length in bytes, where it is told."""
        told = self.headers.get("Content-Length")
        return None if told is None else int(told)

    def rest(self) -> bytes:
        """What is left of the body, once all of it has come; nothing before."""
        content = self.content
        return content.read_nowait() if content.is_eof() and content.exception() is None else b""

    def close(self) -> None:
        """Give up what has not come yet, and with it the connection."""
        connection, self._connection = self._connection, None
        if connection is not None:
            if self.content.exception() is None:  # whoever reads it would wait for ever
                self.content.set_exception(aiohttp.ClientConnectionError("Connection closed"))
            connection.close()

    def _ended(self) -> None:
        connection, self._connection = self._connection, None
        if connection is None:
            return
        transport = connection.transport
        if transport is not None and transport.get_write_buffer_size():
            connection.close()  # answered before the request was read: the rest would be taken for the next
        else:
            connection.release()


async def exchange(
    session: aiohttp.ClientSession,
    origin: Origin,
    method: str,
    path: str,
    headers: Mapping[str, str],
    body: bytes | None,
    limits: aiohttp.ClientTimeout,
) -> Exchange:
    """Send a request and wait for the head of its response; redirects are not followed.

    `path` is what follows the origin's root, quoted, with its query. `limits` has the seconds for
    connecting (`sock_connect`) and between two pieces of the response (`sock_read`).

    Raises:
        aiohttp.ClientError, OSError, TimeoutError: there is no connection, or it broke.
        ValueError: a header or the path would end its line.
    """
    connector = session.connector
    if connector is None:
        raise RuntimeError("The session is closed.")
    head = _head(origin, method, path, headers, body)
    again = method in _REPEATABLE
    while True:
        connection = await connector.connect(origin.connecting, [], limits)
        try:
            return await _answered(connection, method, head, body, limits.sock_read)
        except BaseException as error:
            connection.close()
            if not again or not isinstance(error, (aiohttp.ClientOSError, aiohttp.ServerDisconnectedError)):
                raise
            again = False


async def _answered(
    connection: Connection, method: str, head: bytes, body: bytes | None, read_s: float | None
) -> Exchange:
    protocol, transport = connection.protocol, connection.transport
    if protocol is None or transport is None:
        raise aiohttp.ServerDisconnectedError
    protocol.set_response_params(skip_payload=method == "HEAD", read_until_eof=True, read_timeout=read_s)
    if body and len(body) > _JOINED_BYTES:
        transport.write(head)
        transport.write(body)
    else:
        transport.write(head + body if body else head)
    protocol.start_timeout()
    try:
        message, content = await protocol.read()
        while 100 <= message.code < 200 and message.code != 101:
            message, content = await protocol.read()
    except HttpProcessingError as error:
        raise aiohttp.ClientPayloadError("The response is not HTTP.") from error
    return Exchange(message.code, message.headers, message.raw_headers, content, connection)


def _head(origin: Origin, method: str, path: str, headers: Mapping[str, str], body: bytes | None) -> bytes:
    told = [f"{method} {origin.root}{path} HTTP/1.1\r\n", f"Host: {origin.host}\r\n"]
    if origin.authorization and "authorization" not in headers:
        told.append(f"Authorization: {origin.authorization}\r\n")
    told += [f"{name}: {value}\r\n" for name, value in headers.items()]
    if body or method not in _BODILESS:
        told.append(f"Content-Length: {len(body or b'')}\r\n")
    try:
        head = "".join(told).encode("latin-1")  # the bytes that headers came as
    except UnicodeEncodeError:
        head = "".join(told).encode()
    if head.count(b"\n") != len(told) or head.count(b"\r") != len(told) or b"\0" in head or " " in path:
        raise ValueError("A header or the path holds a character that ends its line.")
    return head + b"\r\n"
