"""Bytes from a client to a backend and back: nothing is parsed, and what breaks off never looks whole."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any

from veridical.middleware.backends.openai_http import CREDENTIALS, next_bytes, serialised
from veridical.middleware.backends.relay import Sent
from veridical.middleware.endmarks import ChatEnd, EndMark, NoEnd, ResponsesEnd
from veridical.middleware.errors import BodyTooLarge, ClientDisconnected, error_object, log
from veridical.middleware.observing.observation import current
from veridical.middleware.protocol import OWN_FIELDS
from veridical.middleware.responding import Headers, Receive, Scope, Send, respond
from veridical.strategies.errors import BackendError, BackendFailed

#: Names the backend that answers, and of several servers which.
BACKEND_HEADER = b"x-veridical-backend"
#: How an API's streams end; others' end is known by the connection.
_END_MARKS: Mapping[str, Callable[[], EndMark]] = {
    "/chat/completions": ChatEnd,
    "/completions": ChatEnd,
    "/responses": ResponsesEnd,
}
#: A begun event of a relayed stream waits for its end up to this size.
LONGEST_HELD_BYTES = 65_536
#: A letter that JSON need not escape: a name may hide behind it.
_QUOTED_LETTER = re.compile(rb"\\u00[4-7]")
#: What no server may send in a header.
_CONTROL = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")
_EVENT_ENDS = (b"\n\n", b"\r\n\r\n", b"\r\r")
#: Of one hop or of this server; never forwarded, in neither direction.
_HOP = frozenset(
    {"connection", "keep-alive", "proxy-authenticate", "proxy-authorization", "proxy-connection", "te"}
    | {"trailer", "transfer-encoding", "upgrade", "host", "content-length", "accept-encoding"}
    | {"content-encoding", "expect", "cookie", "set-cookie", "server", "date"}
)
_HOP_BYTES = frozenset(name.encode() for name in _HOP)


def forwarded(headers: Mapping[str, str], credentials: bool) -> dict[str, str]:
    """The client's headers as a backend may see them."""
    hops = listed_hops(headers.get("connection", ""))
    return {
        name: value
        for name, value in headers.items()
        if _passes(name) and name not in hops and (credentials or name not in CREDENTIALS)
    }


@lru_cache(maxsize=512)
def _passes(name: str) -> bool:
    """Whether a header of this name is for the backend, too."""
    return name not in _HOP and name != "content-type" and not name.startswith("x-veridical-")


@lru_cache(maxsize=64)
def listed_hops(connection: str) -> frozenset[str]:
    """The headers that a Connection header names as of one hop (RFC 9110, 7.6.1)."""
    return frozenset(name.strip().lower() for name in connection.split(",")) if connection else frozenset()


async def read_request_body(scope: Scope, receive: Receive, limit: int) -> bytes:
    """The whole request body.

    Raises:
        BodyTooLarge: it is, or claims to be, over `limit` bytes.
        ClientDisconnected: the client left while sending.
    """
    for name, value in scope["headers"]:
        if name == b"content-length" and value.isdigit() and int(value) > limit:
            raise BodyTooLarge(f"The request body is over {limit} bytes.")
    parts: list[bytes] = []
    size = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnected
        parts.append(message.get("body", b""))
        size += len(parts[-1])
        if size > limit:
            raise BodyTooLarge(f"The request body is over {limit} bytes.")
        if not message.get("more_body"):
            return parts[0] if len(parts) == 1 else b"".join(parts)


def relayed_body(body: Mapping[str, Any], raw: bytes, model: str) -> bytes:
    """The body for the backend: the client's bytes, unless a name or a field of ours must change."""
    if body["model"] == model and not any(field in body for field in OWN_FIELDS) and not is_ambiguous(raw):
        return raw
    kept = {key: value for key, value in body.items() if key not in OWN_FIELDS}
    return serialised({**kept, "model": model})


def is_ambiguous(raw: bytes) -> bool:
    """Whether a body may name `model` twice: a backend that takes the other one would be asked for a
    model that was not looked at here."""
    return raw.count(b'"model"') != 1 or _QUOTED_LETTER.search(raw) is not None


async def pass_on(sent: Sent, path: str, headers: Headers, send: Send) -> None:
    """Send a backend's answer on as it comes, with the name of the server where there are several.

    Raises:
        BackendError: a refusal broke off, or its status is none of HTTP's; nothing has been sent.
    """
    response, http = sent.response, sent.http
    if response.status > 599:
        raise BackendFailed(f"The backend answered {response.status}, which is no status of HTTP.")
    if sent.server is not None:
        headers = with_server(headers, sent.server)
    refusal = http.unkeyed(await http.read_bytes(response)) if response.status >= 400 else None
    dropped = {name for name, _ in headers}  # our limits, not those that we have with the backend
    if hops := listed_hops(response.headers.get("Connection", "")):
        dropped.update(name.encode() for name in hops)
    passed: Headers = []
    for name, value in response.raw_headers:
        name = name.lower()
        if name not in _HOP_BYTES and name not in dropped and not _CONTROL.search(value):
            passed.append((name, http.unkeyed(value)))
    if refusal is not None:
        await respond(send, response.status, [*passed, *headers], refusal)
        return
    length = None if "Content-Encoding" in response.headers else response.content_length
    if length is not None:
        passed.append((b"content-length", b"%d" % length))
    await send({"type": "http.response.start", "status": response.status, "headers": [*passed, *headers]})
    if response.content_type == "text/event-stream":
        await _relay_events(sent, _END_MARKS.get(path, NoEnd)(), send)
    else:
        await _relay_whole(sent, length, send)


def with_server(headers: Headers, server: str) -> Headers:
    """`headers` with the name of the server that answers."""
    kept = [each for each in headers if each[0] != BACKEND_HEADER]
    return [*kept, (BACKEND_HEADER, server.encode())]


async def _next_of(sent: Sent) -> bytes:
    """The next bytes of an answer: first those that came before it was handed over."""
    if sent.head:
        head, sent.head = sent.head, b""
        return head
    return sent.response.rest() or await next_bytes(sent.response)


async def _relay_whole(sent: Sent, length: int | None, send: Send) -> None:
    """The body as it comes. One that breaks is left without its end, at which the server breaks the
    connection: it must not look complete. Where its length is known, its last bytes end it."""
    left = length
    try:
        while chunk := await _next_of(sent):
            if left is not None:
                left -= len(chunk)
            await send({"type": "http.response.body", "body": chunk, "more_body": left != 0})
            if left == 0:
                return
    except BackendError as error:
        current().failed(error)
        sent.fault = error
        log.warning("an answer broke off: %s", error.message)
        return
    await send({"type": "http.response.body", "body": b""})


async def _relay_events(sent: Sent, mark: EndMark, send: Send) -> None:
    """The events as they come, each whole, so that one that breaks off is not half sent. A stream that
    breaks ends in an error event."""
    held, http = b"", sent.http
    try:
        while chunk := await _next_of(sent):
            chunk, held = whole_events(held + chunk)
            chunk = http.unkeyed(chunk)
            if chunk:
                mark.feed(chunk)
                await send({"type": "http.response.body", "body": chunk, "more_body": True})
        if not mark.ended(held):
            raise BackendFailed("The backend's stream ended before its answer was complete.")
    except BackendError as error:
        sent.fault = error
        _, found = error_object(error)
        if failure := mark.failure(found):
            await send({"type": "http.response.body", "body": failure})
        return
    await send({"type": "http.response.body", "body": http.unkeyed(held)})


def whole_events(data: bytes) -> tuple[bytes, bytes]:
    """The events that end in `data`, and the begun one; a very long one is not held back."""
    if data.endswith(b"\n\n"):
        return data, b""
    end = max((data.rfind(mark) + len(mark) for mark in _EVENT_ENDS if mark in data), default=0)
    return (data[:end], data[end:]) if len(data) - end < LONGEST_HELD_BYTES else (data, b"")
