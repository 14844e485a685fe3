"""The outermost layer: sees every request begin and end, and tells the metrics, the log and the traces."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from veridical.middleware.auth import key_of
from veridical.middleware.observing.observation import Observation, client_id, unwatch, watch
from veridical.middleware.responding import Receive, Scope, Send

if TYPE_CHECKING:
    from veridical.middleware.observing.tracing import Tracing

ID_HEADER = b"x-veridical-id"
#: Paths that are told apart; every other is OTHER.
_ENDPOINTS = frozenset(
    {"/v1/chat/completions", "/v1/responses", "/v1/completions", "/v1/embeddings", "/v1/models"}
    | {"/v1/usage", "/health", "/ready", "/metrics"}
)
OTHER, OTHER_V1 = "other", "/v1/*"

#: Is told of a request that is over.
Observer = Callable[[Observation], None]


class Observed:
    """Wraps the app. `observers` hear of each request's end; `began` of its start."""

    def __init__(
        self,
        app: Any,
        observers: Sequence[Observer],
        began: Callable[[], None] | None = None,
        tracing: Tracing | None = None,
    ) -> None:
        self.app, self._observers, self._began, self._tracing = app, observers, began, tracing

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection scope."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        seen = _begun(scope, self._tracing)
        if self._began:
            self._began()
        token = watch(seen)
        try:
            if self._tracing:
                with self._tracing.request(seen, scope["headers"]):
                    await self._serve(seen, scope, receive, send)
            else:
                await self._serve(seen, scope, receive, send)
        finally:
            unwatch(token)
            for observer in self._observers:
                observer(seen)

    async def _serve(self, seen: Observation, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await self.app(scope, receive, _watched(seen, send))
        finally:
            seen.seconds = seen.elapsed
            key = key_of(scope)
            seen.key = key.id if key else ""


def _begun(scope: Scope, tracing: Tracing | None) -> Observation:
    path = scope["path"]
    endpoint = path if path in _ENDPOINTS else OTHER_V1 if path.startswith("/v1/") else OTHER
    raw = (scope.get("raw_path") or path.encode()).decode("latin-1")
    return Observation(scope["method"], raw, endpoint, client_id(scope["headers"]), tracing)


def _watched(seen: Observation, send: Send) -> Send:
    """`send`, with our id in every answer's headers, telling `seen` how the answer goes."""

    async def watched(message: Any) -> None:
        if message["type"] == "http.response.start":
            headers = message["headers"] = list(message.get("headers", ()))
            known = False
            for name, value in headers:
                if name == ID_HEADER:
                    known = True
                elif name == b"content-type":
                    seen.streamed = value.startswith(b"text/event-stream")
            if not known:
                headers.append((ID_HEADER, seen.id.encode()))
            seen.status = message["status"]
        elif message["type"] == "http.response.body":
            body = message.get("body", b"")
            if seen.first_byte is None and body and not (body.startswith(b":") and b"data:" not in body):
                seen.first_byte = seen.elapsed
            seen.complete = not message.get("more_body", False)
        await send(message)

    return watched
