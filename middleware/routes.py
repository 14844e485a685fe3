"""The routes behind `Passthrough`, in FastAPI: models, keys' usage, kept responses, health, metrics and the
OpenAPI page; behind them all, what a backend is asked for.
"""

from __future__ import annotations

from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, PlainTextResponse, Response
from starlette.exceptions import HTTPException
from starlette.routing import Mount

from veridical.middleware.access.gate import Gate, may_use
from veridical.middleware.assembly import Assembly
from veridical.middleware.auth import key_of
from veridical.middleware.errors import error_response, error_type
from veridical.middleware.observing.scraping import Scraping
from veridical.middleware.openapi import CHAT_DOCUMENTATION, RESPONSES_DOCUMENTATION
from veridical.middleware.passthrough import CHAT_PATH, RESPONSES_PATH
from veridical.middleware.relaying import forwarded
from veridical.middleware.responding import Receive, Scope, Send
from veridical.middleware.responses.archive import Archive, is_ours, owner_of, page
from veridical.middleware.transparent import Transparent
from veridical.strategies.errors import NotFound, UnsupportedParameter, VeridicalError

if TYPE_CHECKING:
    from veridical.middleware.observing.metrics import Metrics


def routed(assembly: Assembly) -> FastAPI:
    """The app with every route that these parts serve."""
    app = FastAPI(title="Veridical", version=version("veridical"), redoc_url=None)
    others = Transparent(assembly)
    _add_routes(app, assembly)
    if assembly.gate:
        _add_usage(app, assembly.gate)
    if assembly.observers.metrics:
        _add_metrics(app, assembly.observers.metrics, assembly.observers.scraping)
    _add_health(app, assembly)
    _add_responses_routes(app, assembly, others)
    app.router.routes.append(Mount("/v1", app=others))  # behind every route of ours
    _add_error_handlers(app)
    return app


class Elsewhere(Response):
    """The response to what a backend must be asked for: passed on as it comes."""

    def __init__(self, others: Transparent) -> None:
        super().__init__()
        self.others = others

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Ask, and send what is answered."""
        await self.others(scope, receive, send)


def _add_routes(app: FastAPI, assembly: Assembly) -> None:
    async def listed_for(request: Request) -> list[dict[str, Any]]:
        headers = forwarded(dict(request.headers), assembly.forwards_credentials)
        key = key_of(request.scope)
        if key is None:
            return await assembly.router.models(headers, assembly.advertised)
        usable = [name for name in assembly.advertised if may_use(key, assembly.pipelines.read(name))]
        return await assembly.router.models(headers, usable, key.allows_model)

    @app.post(CHAT_PATH, openapi_extra=CHAT_DOCUMENTATION, response_class=JSONResponse)
    async def chat_completions() -> Response:
        """Answer a chat: OpenAI's endpoint, with a strategy where one is asked for."""
        raise _answered_before()

    @app.get("/v1/models")
    async def models(request: Request) -> dict[str, Any]:
        """Every model, and every model with each advertised strategy, that the key may use."""
        return {"object": "list", "data": await listed_for(request)}

    @app.get("/v1/models/{name:path}")
    async def model(name: str, request: Request) -> dict[str, Any]:
        """One model of the list."""
        listed = {model["id"]: model for model in await listed_for(request)}
        if name not in listed:
            raise NotFound("model", name, listed, param="model")
        return listed[name]


def _answered_before() -> Exception:
    """What a route raises that stands for the OpenAPI page only: `Passthrough` answers its requests."""
    return AssertionError("Passthrough has let a request through that it answers itself")


def _add_health(app: FastAPI, assembly: Assembly) -> None:
    @app.get("/health")
    async def health() -> dict[str, str]:
        """The proxy is up; says nothing of its backends."""
        return {"status": "ok"}

    @app.get("/ready")
    async def ready() -> JSONResponse:
        """Which backends can take a request now; 503 while none can."""
        router = assembly.router
        found = {mounted.name: mounted.is_ready() for mounted in router.mounted}
        told: dict[str, Any] = {"ready": any(found.values()), "backends": found}
        if servers := router.servers:
            told["servers"] = {each.name: each.state for each in servers}
        return JSONResponse(told, 200 if told["ready"] else 503)


def _add_metrics(app: FastAPI, metrics: Metrics, scraping: Scraping) -> None:
    @app.get("/metrics", response_class=PlainTextResponse)
    async def scrape(request: Request) -> Response:
        """The metrics, in Prometheus' format."""
        await scraping.admit(request.headers.get("authorization", "").encode("latin-1"))
        body, content_type = await metrics.exposition(request.headers.get("accept", ""))
        return Response(body, headers={"content-type": content_type})


def _add_usage(app: FastAPI, gate: Gate) -> None:
    @app.get("/v1/usage")
    async def usage(request: Request) -> dict[str, Any]:
        """What the key has used, by day, model and strategy; to an admin's key, what every key has."""
        key = key_of(request.scope)
        assert key is not None  # noqa: S101 - nobody gets here without
        return await gate.report(key, request.query_params)


def _add_responses_routes(app: FastAPI, assembly: Assembly, others: Transparent) -> None:
    def archive(request: Request) -> Archive:
        return Archive(assembly.responses, owner_of(request.scope))

    @app.post(RESPONSES_PATH, openapi_extra=RESPONSES_DOCUMENTATION, response_class=JSONResponse)
    async def responses() -> Response:
        """Answer in the shape of OpenAI's Responses API, with a strategy where one is asked for."""
        raise _answered_before()

    @app.get("/v1/responses/{response_id}")
    async def response(response_id: str, request: Request) -> Response:
        """A response that is kept here; a backend's own is asked of the backend."""
        if not is_ours(response_id):
            return Elsewhere(others)
        if request.query_params.get("stream") == "true":
            raise UnsupportedParameter("A finished response is not streamed again.", param="stream")
        return JSONResponse((await archive(request).find(response_id)).response)

    @app.delete("/v1/responses/{response_id}")
    async def forget(response_id: str, request: Request) -> Response:
        """Forget a response."""
        if not is_ours(response_id):
            return Elsewhere(others)
        return JSONResponse(await archive(request).delete(response_id))

    @app.get("/v1/responses/{response_id}/input_items")
    async def input_items(response_id: str, request: Request) -> Response:
        """What a kept response was made from: its request's own items."""
        if not is_ours(response_id):
            return Elsewhere(others)
        kept = await archive(request).find(response_id)
        return JSONResponse(page(kept, request.url.query.encode()))


def _add_error_handlers(app: FastAPI) -> None:
    async def failed(request: Request, error: Exception) -> Response:
        status, headers, body = error_response(error)
        return Response(body, status, {name.decode(): value.decode("latin-1") for name, value in headers})

    async def refused(request: Request, error: Exception) -> Response:
        status = error.status_code if isinstance(error, HTTPException) else 500
        words = f"{request.method} {request.url.path[:200]}: {getattr(error, 'detail', 'failed')}."
        found = {"message": words, "type": error_type(status), "param": None, "code": None}
        return JSONResponse({"error": found}, status)

    app.add_exception_handler(VeridicalError, failed)
    app.add_exception_handler(HTTPException, refused)
    app.add_exception_handler(Exception, failed)
