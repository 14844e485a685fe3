"""Every other path under /v1: to one of the configured backends and back, as bytes.

The body is read only to find the model that it names, in JSON or in a multipart form; where that is
an alias, its name alone is changed. Nothing in a request can choose another host than a configured
backend's, nor a path outside its API root.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from fnmatch import fnmatchcase
from functools import partial
from typing import Any
from urllib.parse import unquote

import orjson

from veridical.middleware.access.gate import check_strategy
from veridical.middleware.access.keys import ApiKey
from veridical.middleware.access.metering import Meter
from veridical.middleware.access.tally import Tally
from veridical.middleware.assembly import Assembly
from veridical.middleware.auth import client_of, key_of
from veridical.middleware.backends.relay import Outgoing, Upstream
from veridical.middleware.balancing import caller
from veridical.middleware.errors import ClientDisconnected, NotAllowed
from veridical.middleware.observing.observation import current
from veridical.middleware.protocol import OWN_FIELDS, STRATEGY_HEADER, read_controls
from veridical.middleware.relaying import (
    BACKEND_HEADER,
    forwarded,
    is_ambiguous,
    pass_on,
    read_request_body,
    relayed_body,
)
from veridical.middleware.responding import (
    Headers,
    Receive,
    Scope,
    Send,
    Sending,
    respond_failure,
    until_gone,
)
from veridical.middleware.routing import Mounted
from veridical.strategies.errors import InvalidRequest, NotFound, UnsupportedParameter, refused_with, shown

ROOT = "/v1"
METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
#: Answered by us: not passed on under another spelling, where no strategy would be applied.
_OURS = frozenset({"/chat/completions", "/responses"})
#: Generating endpoints, whose `strategy` and `veridical` fields can only be ours.
_GENERATING = frozenset({"/completions", "/embeddings"})
#: What OpenTelemetry's conventions call these.
_OPERATIONS = {"/completions": "text_completion", "/embeddings": "embeddings"}
#: A path is unquoted until nothing changes, but not more often than this.
_MAX_QUOTING = 4


class Transparent:
    """The ASGI app behind all our own routes."""

    def __init__(self, assembly: Assembly) -> None:
        self._assembly = assembly

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        headers: Headers = [(b"x-veridical-id", current().id.encode())]
        sending = Sending(send)
        if self._assembly.balances:
            caller.enter(client_of(scope))
        try:
            path = safe_path(scope.get("raw_path") or scope["path"].encode())
            self._check(scope["method"], path)
            raw = await read_request_body(scope, receive, self._assembly.settings.server.max_body_bytes)
            await until_gone(scope, receive, self._serve(path, raw, headers, scope, sending))
        except ClientDisconnected:
            return
        except Exception as error:  # noqa: BLE001 - the edge: whatever it is, the client gets an answer
            await respond_failure(error, headers, sending)

    def _check(self, method: str, path: str) -> None:
        allowed = self._assembly.settings.passthrough
        known = method in METHODS and not (method == "POST" and path.rstrip("/") in _OURS)
        if not known or not any(fnmatchcase(unquote(path[1:]), each) for each in allowed):
            raise NotFound("path", f"{method} {ROOT}{path}", ())

    async def _serve(self, path: str, raw: bytes, headers: Headers, scope: Scope, send: Send) -> None:
        found = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        told = forwarded(found, self._assembly.forwards_credentials)
        if raw and "content-type" in found:
            told["content-type"] = found["content-type"]
        key = key_of(scope)
        mounted, model, there, body = await self._place(path, raw, found, told, key)
        if key and key.models and not (model and scope["method"] == "POST"):
            raise NotAllowed("This API key is for some models only: it asks nothing else.", param="model")
        headers.append((BACKEND_HEADER, mounted.name.encode()))
        current().routed(mounted.name, model, "direct")
        http = _speaking(mounted)
        await mounted.ready()
        query = scope["query_string"].decode("ascii")
        target = f"{path}?{query}" if query else path
        sends = raw or "content-length" in found or "transfer-encoding" in found
        outgoing = Outgoing(
            scope["method"], target, body if sends else _nothing, there, told, pinned=not model
        )
        meter = await self._admitted(key, model)
        tally = Tally(send)
        headers += meter.headers if meter else ()
        with current().relayed(_OPERATIONS.get(path, ""), model, mounted.name, told) as call:
            try:
                async with http.sent(outgoing) as sent:
                    await pass_on(sent, path, headers, tally)
                    if sent.response.status >= 400:
                        call.error = refused_with(sent.response.status).__name__
            finally:
                call.usage = tally.usage
                if meter:
                    meter.spend(tally.told())
                    meter.close()

    async def _admitted(self, key: ApiKey | None, model: str) -> Meter | None:
        """The request's meter, where its key has one: it counts as `direct`, its tokens as told.

        Raises:
            NotAllowed: the key may not use `direct`.
        """
        gate = self._assembly.gate
        if key is None or gate is None:
            return None
        direct = self._assembly.pipelines.read("direct")
        check_strategy(key, direct)
        return await gate.admit(key, model, direct, 0)

    async def _place(
        self, path: str, raw: bytes, found: Mapping[str, str], told: Mapping[str, str], key: ApiKey | None
    ) -> tuple[Mounted, str, str, Callable[[str], bytes]]:
        """The backend that a request is for, the model as we know it and as the backend does, and the body
        by the latter.

        Raises:
            NotFound: no backend serves the model, or has the name, that is asked for.
            UnsupportedParameter: a strategy is asked for.
        """
        form = found.get("content-type", "")
        fields = _json_object(raw) if not form.startswith("multipart/") else {}
        model = form_model(raw, form) if form.startswith("multipart/") else fields.get("model")
        own = path in _GENERATING and any(fields.get(name) is not None for name in OWN_FIELDS)
        if own or STRATEGY_HEADER in found:
            self._refuse_strategy(fields if own else {}, found.get(STRATEGY_HEADER), path)
        if not isinstance(model, str) or not model:
            return self._named(found.get(BACKEND_HEADER.decode())), "", "", lambda model: raw
        visible = [key.allows_model] if key and key.models else []
        route = await self._assembly.router.resolve(model, told, *visible)
        if route.suffix is not None and str(self._assembly.pipelines.read(route.suffix)) != "direct":
            raise _no_strategy(path, "model")
        return route.mounted, route.name, route.model, partial(_renamed, raw, fields, form, own)

    def _refuse_strategy(self, fields: Mapping[str, Any], header: str | None, path: str) -> None:
        controls, asked = read_controls(fields, header)
        if asked is not None and str(self._assembly.pipelines.build(asked)) != "direct":
            named = "veridical.strategy" if controls.strategy is not None else "strategy"
            raise _no_strategy(path, named if fields else STRATEGY_HEADER)

    def _named(self, name: str | None) -> Mounted:
        """The backend of this name; without one, the first that bytes can be passed to."""
        mounted = self._assembly.router.mounted
        if name is None:
            return next((each for each in mounted if each.http), mounted[0])
        known = {each.name: each for one in mounted for each in (one, *one.servers())}
        if name not in known:
            raise NotFound("backend", name, known, param=BACKEND_HEADER.decode())
        return known[name]


def safe_path(raw: bytes) -> str:
    """A request's path below /v1, still quoted, once it is known to stay below.

    Raises:
        InvalidRequest: a segment is empty, `.` or `..`, or holds a separator or a control character,
            however often it is quoted, or bytes that are no text.
    """
    try:
        path = raw.decode("ascii")
        plain = _unquoted(path)
    except UnicodeDecodeError:
        plain = path = ""
    segments = plain.removeprefix(f"{ROOT}/").removesuffix("/").split("/")
    if not path.startswith(f"{ROOT}/") or not all(map(_is_plain, segments)):
        raise InvalidRequest("The path is not one that can be passed on.")
    return path.removeprefix(ROOT)


def _unquoted(path: str) -> str:
    """A path with nothing quoted in it; empty where that takes too many rounds."""
    for _ in range(_MAX_QUOTING):
        path, before = unquote(path, errors="strict"), path
        if path == before:
            return path
    return ""


def _is_plain(segment: str) -> bool:
    return segment not in ("", ".", "..") and segment.isprintable() and not set(segment) & set("\\?#")


def _nothing(model: str) -> None:
    """No body."""


def _speaking(mounted: Mounted) -> Upstream:
    if mounted.http is None:
        raise NotFound("path", f"of the backend {mounted.name}", (), code="path_not_found")
    return mounted.http


def _json_object(raw: bytes) -> dict[str, Any]:
    try:
        found = orjson.loads(raw)
    except orjson.JSONDecodeError:
        return {}
    return found if isinstance(found, dict) else {}


def _renamed(raw: bytes, fields: Mapping[str, Any], form: str, own: bool, model: str) -> bytes:
    """The body with the backend's name of the model, and without fields of ours; untouched if it can be."""
    if fields:
        changed = own or fields["model"] != model or is_ambiguous(raw)
        return relayed_body(fields, raw, model) if changed else raw
    return raw if form_model(raw, form) == model else with_form_model(raw, form, model)


def _no_strategy(path: str, param: str) -> UnsupportedParameter:
    words = f"Strategies answer chats and responses; {shown(ROOT + path)} takes a bare model."
    return UnsupportedParameter(words, param=param)


_BOUNDARY = re.compile(r'boundary=(?:"([^"]+)"|([^;,\s]+))', re.IGNORECASE)
_MODEL_PART = re.compile(
    rb'\r\ncontent-disposition:\s*form-data;\s*name="?model"?\s*(?:\r\n|$)', re.IGNORECASE
)


def form_model(raw: bytes, content_type: str) -> str | None:
    """The form field `model` of a multipart body, if there is one."""
    place = _model_place(raw, content_type)
    return raw[slice(*place)].decode("utf-8", "replace").strip() if place else None


def with_form_model(raw: bytes, content_type: str, model: str) -> bytes:
    """The same body with another `model`; every other byte stays."""
    place = _model_place(raw, content_type)
    return raw if place is None else raw[: place[0]] + model.encode() + raw[place[1] :]


def _model_place(raw: bytes, content_type: str) -> tuple[int, int] | None:
    """Where in a multipart body the value of the field `model` stands (RFC 7578)."""
    named = _BOUNDARY.search(content_type)
    if named is None:
        return None
    boundary = b"--" + (named[1] or named[2]).encode("latin-1")
    start = 0 if raw.startswith(boundary) else raw.find(b"\r\n" + boundary) + 2
    while (head := raw.find(b"\r\n\r\n", start)) >= 0:
        end = raw.find(b"\r\n" + boundary, head + 2)
        if end < 0:
            return None
        if _MODEL_PART.search(raw[start:head]):
            return (head + 4, end) if end >= head + 4 else None  # or the boundary leaves no place for a value
        start = end + 2
    return None
