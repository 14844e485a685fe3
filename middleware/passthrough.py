"""The chat endpoint ahead of FastAPI: `direct` is relayed as bytes, everything else goes on inside.

A relayed answer is the backend's own bytes; our id and the backend's name stand in headers.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

import aiohttp

from veridical.middleware.access.gate import check_strategy
from veridical.middleware.access.metering import Meter
from veridical.middleware.access.tally import Tally, asked_tokens, spent_by
from veridical.middleware.assembly import Assembly
from veridical.middleware.auth import key_of
from veridical.middleware.backends.openai_http import CREDENTIALS, OpenAIBackend, next_bytes, serialised
from veridical.middleware.errors import BodyTooLarge, ClientDisconnected, error_object, log
from veridical.middleware.pipeline import Run
from veridical.middleware.protocol import (
    OWN_FIELDS,
    STRATEGY_HEADER,
    BudgetRequest,
    ChatBody,
    check_for_strategy,
    check_n,
    read_body,
)
from veridical.middleware.responding import (
    EventStream,
    Headers,
    Receive,
    Scope,
    Send,
    respond,
    respond_error,
    respond_whole,
    until_gone,
)
from veridical.middleware.routing import Route
from veridical.middleware.sse import event
from veridical.strategies.base import Strategy
from veridical.strategies.errors import BackendError, BackendFailed
from veridical.strategies.registry import GENERATOR

CHAT_PATH = "/v1/chat/completions"
#: A begun line of a relayed stream waits for its end up to this size.
LONGEST_HELD_BYTES = 65_536
#: Of one hop or of this server; never forwarded, in neither direction.
_HOP = frozenset(
    {"connection", "keep-alive", "proxy-authenticate", "proxy-authorization", "proxy-connection", "te"}
    | {"trailer", "transfer-encoding", "upgrade", "host", "content-length", "accept-encoding"}
    | {"content-encoding", "expect", "cookie", "set-cookie", "server", "date"}
)


@dataclass(frozen=True, slots=True)
class ChatCall:
    """A chat request on its way inside: read, routed, its strategy known."""

    id: str
    request: ChatBody
    route: Route
    strategy: Strategy
    headers: Mapping[str, str]
    meter: Meter | None = None


class Passthrough:
    """Wraps the app. Reads chat requests, relays the direct ones, hands the others in as `ChatCall`."""

    def __init__(self, app: Any, assembly: Assembly) -> None:
        self.app, self.assembly = app, assembly

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection scope."""
        if scope["type"] != "http" or scope["path"] != CHAT_PATH or scope["method"] != "POST":
            await self._others(scope, receive, send)
            return
        request_id = os.urandom(12).hex()
        headers: Headers = [(b"x-veridical-id", request_id.encode())]
        try:
            raw = await read_request_body(scope, receive, self.assembly.settings.server.max_body_bytes)
            await until_gone(receive, self._serve(request_id, raw, headers, scope, receive, send))
        except ClientDisconnected:
            return
        except Exception as error:  # noqa: BLE001 - the edge: whatever it is, the client gets an answer
            await respond_error(error, headers, send)

    async def _others(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Every other path. A fault of ours has been answered and logged by type by the time it comes
        here; passed on, the server would log its text, which may hold what no log should."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        with suppress(Exception):
            await self.app(scope, receive, send)

    async def _serve(
        self, request_id: str, raw: bytes, headers: Headers, scope: Scope, receive: Receive, send: Send
    ) -> None:
        call = await self._admitted(await self._understand(request_id, raw, scope), scope)
        headers.append((b"x-veridical-backend", call.route.mounted.name.encode()))
        http = call.route.mounted.http
        try:
            if http and relayable(call):
                headers += call.meter.headers if call.meter else ()
                await relay(http, call, raw, headers, send)
            else:
                scope.setdefault("state", {})["chat"] = call
                await self.app(scope, receive, send)
        finally:
            if call.meter:
                call.meter.close()

    async def _admitted(self, call: ChatCall, scope: Scope) -> ChatCall:
        """The call with its meter, where its key has one."""
        key, gate = key_of(scope), self.assembly.gate
        if key is None or gate is None:
            return call
        check_strategy(key, call.strategy)
        tokens = asked_tokens(call.request.body)
        return replace(call, meter=await gate.admit(key, call.route.name, call.strategy, tokens))

    async def _understand(self, request_id: str, raw: bytes, scope: Scope) -> ChatCall:
        found = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        request = read_body(raw, found.get(STRATEGY_HEADER))
        headers = forwarded(found, self.assembly.forwards_credentials)
        key = key_of(scope)
        visible = [key.allows_model] if key and key.models else []
        route = await self.assembly.router.resolve(request.model, headers, *visible)
        pipelines = self.assembly.pipelines
        if request.asked is not None:
            strategy = pipelines.build(request.asked)
        else:
            default = self.assembly.settings.default_strategy
            strategy = pipelines.read(default if route.suffix is None else route.suffix)
        return ChatCall(request_id, request, route, strategy, headers)


def forwarded(headers: Mapping[str, str], credentials: bool) -> dict[str, str]:
    """The client's headers as a backend may see them."""
    return {
        name: value
        for name, value in headers.items()
        if name not in _HOP
        and name != "content-type"
        and not name.startswith("x-veridical-")
        and (credentials or name not in CREDENTIALS)
    }


async def read_request_body(scope: Scope, receive: Receive, limit: int) -> bytes:
    """The whole request body.

    Raises:
        BodyTooLarge: it is, or claims to be, over `limit` bytes.
        ClientDisconnected: the client left while sending.
    """
    declared = next((value for name, value in scope["headers"] if name == b"content-length"), b"0")
    if declared.isdigit() and int(declared) > limit:
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


def relayable(call: ChatCall) -> bool:
    """Whether bytes can go through as they are: nothing to check, to tell, to limit or to wait for."""
    return (
        str(call.strategy) == "direct"
        and call.request.controls.budget == BudgetRequest()
        and call.request.controls.trace in (None, "none")
        and call.route.mounted.is_ready()
    )


def relayed_body(call: ChatCall, raw: bytes) -> bytes:
    """The body for the backend: the client's bytes, unless a name or a field of ours must change."""
    body = call.request.body
    if body["model"] == call.route.model and not any(field in body for field in OWN_FIELDS):
        return raw
    kept = {key: value for key, value in body.items() if key not in OWN_FIELDS}
    return serialised({**kept, "model": call.route.model})


async def relay(http: OpenAIBackend, call: ChatCall, raw: bytes, headers: Headers, send: Send) -> None:
    """Send the request on and the answer back, unparsed.

    Raises:
        BackendError: no answer began; nothing has been sent.
    """
    if call.meter is None:
        await _relay(http, call, raw, headers, send)
        return
    tally = Tally(send)
    try:
        await _relay(http, call, raw, headers, tally)
    except BackendError as error:
        tally.failed(error)
        raise
    finally:
        call.meter.spend(tally.spending(call.request.body))


async def _relay(http: OpenAIBackend, call: ChatCall, raw: bytes, headers: Headers, send: Send) -> None:
    body, stream = relayed_body(call, raw), call.request.stream
    response = await http.send("POST", "/chat/completions", body, call.headers, stream=stream)
    ours = {name.decode() for name, _ in headers}  # our limits, not those that we have with the backend
    try:
        refusal = http.unkeyed(await http.read_bytes(response)) if response.status >= 400 else None
        passed = [
            (name.lower().encode("latin-1"), http.unkeyed(value.encode("latin-1")))
            for name, value in response.headers.items()
            if name.lower() not in _HOP and name.lower() not in ours
        ]
        if refusal is not None:
            await respond(send, response.status, [*passed, *headers], refusal)
            return
        if response.content_length is not None and "Content-Encoding" not in response.headers:
            passed.append((b"content-length", str(response.content_length).encode()))
        await send({"type": "http.response.start", "status": response.status, "headers": [*passed, *headers]})
        if response.content_type == "text/event-stream":
            await _relay_events(response, http, send)
        else:
            await _relay_whole(response, send)
    finally:
        response.close()


async def _relay_whole(response: aiohttp.ClientResponse, send: Send) -> None:
    """The body as it comes. One that breaks is left without its end, at which the server breaks the
    connection: it must not look complete."""
    try:
        while chunk := await next_bytes(response):
            await send({"type": "http.response.body", "body": chunk, "more_body": True})
    except BackendError as error:
        log.warning("an answer broke off: %s", error.message)
        return
    await send({"type": "http.response.body", "body": b""})


async def _relay_events(response: aiohttp.ClientResponse, http: OpenAIBackend, send: Send) -> None:
    """The events as they come, cut at line ends, so that one that breaks off is not half sent. A
    stream that breaks ends in an error event."""
    tail = held = b""
    try:
        while chunk := await next_bytes(response):
            chunk, held = _lines(held + chunk)
            chunk = http.unkeyed(chunk)
            if chunk:
                tail = (tail + chunk)[-4096:]
                await send({"type": "http.response.body", "body": chunk, "more_body": True})
        if b"[DONE]" not in tail + held and b'"finish_reason":"' not in tail.replace(b" ", b""):
            raise BackendFailed("The backend's stream ended before its answer was complete.")
    except BackendError as error:
        _, found = error_object(error)
        await send({"type": "http.response.body", "body": b"\n\n" + event({"error": found})})
        return
    await send({"type": "http.response.body", "body": http.unkeyed(held)})


def _lines(data: bytes) -> tuple[bytes, bytes]:
    """The whole lines of `data`, and the begun one; a very long line is not held back."""
    end = data.rfind(b"\n") + 1
    return (data[:end], data[end:]) if len(data) - end < LONGEST_HELD_BYTES else (data, b"")


async def answer(call: ChatCall, assembly: Assembly, send: Send) -> None:
    """Run a call's strategy and send its answer, streamed or whole, or its error."""
    headers: Headers = [
        (b"x-veridical-id", call.id.encode()),
        (b"x-veridical-backend", call.route.mounted.name.encode()),
        *(call.meter.headers if call.meter else ()),
    ]
    direct = str(call.strategy) == "direct"
    limits = assembly.settings.limits
    try:
        check_n(call.request, assembly.settings.server.max_n)
        if not direct:
            check_for_strategy(call.request)
            assembly.check_sources(call.strategy)
            assembly.check_tools(call.strategy)
        roles = await assembly.roles_of(call.strategy, call.headers)
        route = roles.get(GENERATOR, call.route)
        headers[1] = (b"x-veridical-backend", route.mounted.name.encode())
        traced = not direct or call.request.controls.trace is not None
        run = Run(
            call.id,
            call.request,
            route,
            call.strategy,
            call.meter.lowered(limits) if call.meter else limits,
            call.headers,
            roles,
            assembly.sources,
            assembly.domains,
            assembly.tools,
            traced,
        )
        try:
            if call.request.stream:
                stream = EventStream(run, headers, send, assembly.settings.server.heartbeat_s)
                await stream()
            else:
                await respond_whole(run, headers, send)
        finally:
            if call.meter:
                calls = (each for choice in run.choices for each in choice.trace.made)
                call.meter.spend(spent_by(calls))
    except Exception as error:  # noqa: BLE001 - the edge: whatever it is, the client gets an answer
        await respond_error(error, headers, send)
