"""Chats and responses ahead of FastAPI: `direct` is relayed as bytes, everything else is run and answered.

A relayed answer is the backend's own bytes; our id and the backend's name stand in headers.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

from veridical.middleware.access.gate import check_strategy
from veridical.middleware.access.keys import ApiKey
from veridical.middleware.access.metering import Meter
from veridical.middleware.access.tally import Tally, asked_tokens, spent_by
from veridical.middleware.assembly import Assembly
from veridical.middleware.auth import client_of, key_of
from veridical.middleware.backends.exchange import Exchange
from veridical.middleware.backends.openai_http import OpenAIBackend
from veridical.middleware.backends.relay import Outgoing, Upstream
from veridical.middleware.balancing import caller
from veridical.middleware.cache.asking import caching
from veridical.middleware.cache.relays import Relay
from veridical.middleware.completion import ChatWire
from veridical.middleware.errors import ClientDisconnected
from veridical.middleware.observing.observation import current, joined_names
from veridical.middleware.pipeline import Run
from veridical.middleware.protocol import (
    NO_CONTROLS,
    STRATEGY_HEADER,
    BudgetRequest,
    ChatBody,
    Controls,
    check_for_strategy,
    check_n,
    read_body,
)
from veridical.middleware.relaying import (
    BACKEND_HEADER,
    forwarded,
    pass_on,
    read_request_body,
    relayed_body,
)
from veridical.middleware.responding import (
    EventStream,
    Headers,
    Receive,
    Scope,
    Send,
    Sending,
    Wire,
    respond_error,
    respond_failure,
    respond_whole,
    until_gone,
)
from veridical.middleware.responses.archive import Archive, Kept, is_ours, owner_of, stem
from veridical.middleware.responses.items import listed
from veridical.middleware.responses.request import ResponsesBody, read_responses_body
from veridical.middleware.responses.wire import ResponsesWire
from veridical.middleware.routing import Route
from veridical.strategies.base import Strategy
from veridical.strategies.errors import BackendError, refused_with
from veridical.strategies.registry import GENERATOR

CHAT_PATH = "/v1/chat/completions"
RESPONSES_PATH = "/v1/responses"
#: What a server says that has no such path, and the codes of a 404 that is about something else.
_NO_SUCH_PATH = frozenset({404, 405, 501})
_OTHER_404 = frozenset({"model_not_found", "previous_response_not_found"})
#: What names something that a server keeps.
_REFERENCES = ("previous_response_id", "conversation")


#: A request of either API, read as far as tells where it goes.
Request = ChatBody | ResponsesBody


@dataclass(frozen=True, slots=True)
class ChatCall:
    """A chat to be answered: read, routed, its strategy and the shape of its answer known."""

    id: str
    request: ChatBody
    route: Route
    strategy: Strategy
    headers: Mapping[str, str]
    wire: Callable[[Run], Wire] = ChatWire
    meter: Meter | None = None


class Passthrough:
    """Wraps the app. Reads chats and responses, relays the direct ones and answers the others, once what
    these need is `prepared`."""

    def __init__(self, app: Any, assembly: Assembly, prepared: Callable[[], Awaitable[None]]) -> None:
        self.app, self.assembly, self._prepared = app, assembly, prepared

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection scope."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        generation = self.assembly.generation
        generation.requests += 1
        try:
            if scope["path"] in (CHAT_PATH, RESPONSES_PATH) and scope["method"] == "POST":
                await self._ours(scope, receive, send)
            else:
                await self._others(scope, receive, send)
        finally:
            generation.leave()

    async def _ours(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self.assembly.balances:
            caller.enter(client_of(scope))
        request_id = current().id
        headers: Headers = [(b"x-veridical-id", request_id.encode())]
        sending = Sending(send)
        try:
            raw = await read_request_body(scope, receive, self.assembly.settings.server.max_body_bytes)
            await until_gone(scope, receive, self._serve(request_id, raw, headers, scope, sending))
        except ClientDisconnected:
            return
        except Exception as error:  # noqa: BLE001 - the edge: whatever it is, the client gets an answer
            await respond_failure(error, headers, sending)

    async def _others(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Every other path. A fault of ours has been answered and logged by type by the time it comes
        here; passed on, the server would log its text, which may hold what no log should."""
        with suppress(Exception):
            await self.app(scope, receive, send)

    async def _serve(self, request_id: str, raw: bytes, headers: Headers, scope: Scope, send: Send) -> None:
        found = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        read = read_body if scope["path"] == CHAT_PATH else read_responses_body
        request = read(raw, found.get(STRATEGY_HEADER))
        told = forwarded(found, self.assembly.forwards_credentials)
        route, strategy = await self._choose(request, told, key_of(scope))
        headers.append((BACKEND_HEADER, route.mounted.name.encode()))
        current().routed(route.mounted.name, route.name, joined_names(strategy))
        meter = await self._admitted(request, route, strategy, key_of(scope))
        try:
            http = route.mounted.http
            if http and relayable(request, route, strategy):
                limits = meter.headers if meter else []
                outgoing = outgoing_of(request, raw, route, told)
                known = caching(self.assembly.cache, told, request.controls.cache)
                if known and isinstance(request, ChatBody) and known.takes(request.params):
                    ask = partial(relay, route, http, request, outgoing, [], meter=None)
                    await Relay(known, route, http.reader, request, told, ask)(
                        [*headers, *limits], send, meter
                    )
                    return
                if await relay(route, http, request, outgoing, [*headers, *limits], send, meter):
                    return
            await self._prepared()
            chat, wire = await self._chat(request_id, request, route, scope)
            call = ChatCall(request_id, chat, route, strategy, told, wire, meter)
            await answer(call, self.assembly, send)
        finally:
            if meter:
                meter.close()

    async def _choose(
        self, request: Request, headers: Mapping[str, str], key: ApiKey | None
    ) -> tuple[Route, Strategy]:
        """Where a request goes, and what is done with it."""
        visible = [key.allows_model] if key and key.models else []
        route = await self.assembly.router.resolve(request.model, headers, *visible)
        pipelines = self.assembly.pipelines
        if request.asked is not None:
            return route, pipelines.build(request.asked)
        default = self.assembly.settings.default_strategy
        return route, pipelines.read(default if route.suffix is None else route.suffix)

    async def _chat(
        self, request_id: str, request: Request, route: Route, scope: Scope
    ) -> tuple[ChatBody, Callable[[Run], Wire]]:
        """A request as a chat, and the shape of its answer."""
        if isinstance(request, ChatBody):
            return request, ChatWire
        archive = Archive(self.assembly.responses, owner_of(scope))
        return await translated(request_id, request, route, archive)

    async def _admitted(
        self, request: Request, route: Route, strategy: Strategy, key: ApiKey | None
    ) -> Meter | None:
        """The request's meter, where its key has one."""
        gate = self.assembly.gate
        if key is None or gate is None:
            return None
        check_strategy(key, strategy)
        return await gate.admit(key, route.name, strategy, asked_tokens(request.measured))


async def translated(
    call_id: str, request: ResponsesBody, route: Route, archive: Archive
) -> tuple[ChatBody, Callable[[Run], Wire]]:
    """A request of the Responses API as a chat, and the shape in which its answer is told, and kept.

    Raises:
        VeridicalError: what it continues is not kept, or a chat cannot keep what it asks for.
    """
    history, items = await archive.conversation(request)
    chat = request.chat(history, items, route.mounted.backend.adapted)
    name = stem(call_id)

    async def keep(response: dict[str, Any]) -> bool:
        return await archive.keep(Kept(response, listed(items, name), history))

    return chat, partial(ResponsesWire, request=request, stem=name, keep=keep if request.stored else None)


def relayable(request: Request, route: Route, strategy: Strategy) -> bool:
    """Whether bytes can go through as they are: nothing to check, to tell, to limit or to wait for, and
    a backend that may know this API and what the request refers to."""
    if isinstance(request, ResponsesBody):
        http = route.mounted.http
        if http is None or http.speaks_responses is False or is_ours(request.previous):
            return False
    return strategy.name == "direct" and _asks_nothing(request.controls) and route.mounted.is_ready()


def _asks_nothing(controls: Controls) -> bool:
    """Whether a request wants neither limits of its own nor a trace."""
    if controls is NO_CONTROLS:
        return True
    return controls.budget == BudgetRequest() and controls.trace in (None, "none")


def outgoing_of(request: Request, raw: bytes, route: Route, client: Mapping[str, str]) -> Outgoing:
    """A request as it is sent on: to the one server, too, that keeps what it continues."""
    responses = isinstance(request, ResponsesBody)
    path = "/responses" if responses else "/chat/completions"
    pinned = responses and any(request.body.get(name) for name in _REFERENCES)
    body = partial(relayed_body, request.body, raw)
    return Outgoing("POST", path, body, route.model, client, request.stream, pinned)


async def relay(
    route: Route,
    http: Upstream,
    request: Request,
    outgoing: Outgoing,
    headers: Headers,
    send: Send,
    meter: Meter | None,
) -> bool:
    """Send the request on and the answer back, unparsed. False, and nothing has been sent, where the
    backend turns out not to know the Responses API.

    Raises:
        BackendError: no answer began; nothing has been sent.
    """
    tally, told, path = Tally(send), dict(outgoing.headers), outgoing.path
    outgoing.headers = told  # which get the trace's
    relayed = True
    with current().relayed("chat", route.model, route.mounted.name, told) as call:
        try:
            async with http.sent(outgoing) as sent:
                relayed = path != "/responses" or await _speaks_responses(sent.response, sent.http)
                if relayed:
                    await pass_on(sent, path, headers, tally)
                if sent.response.status >= 400:
                    call.error = refused_with(sent.response.status).__name__
        except BackendError as error:
            tally.failed(error)
            raise
        finally:
            call.usage = tally.usage
            if meter and relayed:
                meter.spend(tally.spending(request.measured))
    return relayed


async def _speaks_responses(response: Exchange, http: OpenAIBackend) -> bool:
    """Whether a server has the Responses API, as far as this answer tells; it is remembered.

    Raises:
        BackendRefused: it says that something else is missing, such as the model.
    """
    if http.speaks_responses is None and response.status < 400:
        http.speaks_responses = True
    if http.speaks_responses or response.status not in _NO_SUCH_PATH:
        return True
    refusal = await http.refusal(response)
    if refusal.body and (refusal.body.get("param") or str(refusal.body.get("code")) in _OTHER_404):
        raise refusal
    http.speaks_responses = False
    return False


async def answer(call: ChatCall, assembly: Assembly, send: Send) -> None:
    """Run a call's strategy and send its answer, streamed or whole, or its error."""
    headers: Headers = [
        (b"x-veridical-id", call.id.encode()),
        (BACKEND_HEADER, call.route.mounted.name.encode()),
        *(call.meter.headers if call.meter else ()),
    ]
    direct = call.strategy.name == "direct"
    limits = assembly.settings.limits
    try:
        check_n(call.request, assembly.settings.server.max_n)
        if not direct:
            check_for_strategy(call.request)
            assembly.check_sources(call.strategy)
            assembly.check_tools(call.strategy)
        roles = await assembly.roles_of(call.strategy, call.headers)
        route = roles.get(GENERATOR, call.route)
        headers[1] = (BACKEND_HEADER, route.mounted.name.encode())
        current().backend = route.mounted.name
        if assembly.balances:
            caller.caller().on_answer = partial(_named_in, headers, route.mounted.name)
        traced = not direct or call.request.controls.trace is not None
        run = Run(
            call.id,
            call.request,
            route,
            call.strategy,
            call.meter.lowered(limits) if call.meter else limits,
            call.headers,
            roles,
            current().searched(assembly.sources),
            assembly.domains,
            assembly.tools,
            traced,
            caching(assembly.cache, call.headers, call.request.controls.cache),
        )
        try:
            if call.request.stream:
                stream = EventStream(run, call.wire(run), headers, send, assembly.settings.server.heartbeat_s)
                await stream()
            else:
                await respond_whole(run, call.wire(run), headers, send)
        finally:
            for choice in run.choices:
                current().ran(choice.trace, choice.reply.status if choice.reply else None)
            if call.meter:
                calls = (each for choice in run.choices for each in choice.trace.made)
                call.meter.spend(spent_by(calls))
    except Exception as error:  # noqa: BLE001 - the edge: whatever it is, the client gets an answer
        await respond_error(error, headers, send)


def _named_in(headers: Headers, drafting: str, pool: str, server: str) -> None:
    """Tell in the headers, until they are sent, which server was the first to answer for the model that
    drafts."""
    if headers[1] == (BACKEND_HEADER, drafting.encode()) and pool == drafting:
        headers[1] = (BACKEND_HEADER, server.encode())
