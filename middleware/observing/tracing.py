"""OpenTelemetry traces: a span for each request, backend call and search, exported by OTLP.

Names and attributes are those of the semantic conventions for HTTP and for generative AI (the latter are
still in development: this is their state at v1.41); ours begin with `veridical.`. No span holds content.
This module is imported only where traces are on.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib.metadata import version
from time import perf_counter
from typing import Any

from opentelemetry import context as contexts
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased
from opentelemetry.trace import Span, SpanKind, StatusCode, set_span_in_context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from veridical.middleware.observing.observation import Observation
from veridical.middleware.observing.settings import ObservabilitySettings
from veridical.strategies.backend import Backend, ChatRequest
from veridical.strategies.base import Retrieve
from veridical.strategies.errors import VeridicalError
from veridical.strategies.reply import Ending, Reply
from veridical.strategies.trace import Call
from veridical.strategies.types import Delta, Evidence, Params, Usage

OPENAI, LANGCHAIN = "openai", "langchain"
_PROPAGATOR = TraceContextTextMapPropagator()
_CONTEXT_HEADERS = (b"traceparent", b"tracestate")
_NUMBERS = ("temperature", "top_p", "frequency_penalty", "presence_penalty", "max_tokens", "seed", "top_k")


class Tracing:
    """Makes spans and sends them off in the background, from a thread of its own."""

    def __init__(self, settings: ObservabilitySettings) -> None:
        own = {"service.name": "veridical", "service.version": version("veridical")}
        self._provider = TracerProvider(
            resource=Resource.create(own).merge(OTELResourceDetector().detect()),
            sampler=ParentBased(TraceIdRatioBased(settings.traces_sample)),
            shutdown_on_exit=False,
        )
        exporter = OTLPSpanExporter(endpoint=settings.traces_endpoint)
        self._provider.add_span_processor(BatchSpanProcessor(exporter))
        self._tracer = self._provider.get_tracer("veridical", own["service.version"])

    async def close(self) -> None:
        """Send what is not yet sent."""
        await asyncio.to_thread(self._provider.shutdown)

    @contextmanager
    def request(self, seen: Observation, headers: Iterable[tuple[bytes, bytes]]) -> Iterator[None]:
        """The span of a request, in the client's trace where it names one; others begin inside."""
        told = {name.decode(): value.decode("latin-1") for name, value in headers if name in _CONTEXT_HEADERS}
        parent = _PROPAGATOR.extract(told, contexts.Context())
        about = {"http.request.method": seen.method, "http.route": seen.endpoint, "url.scheme": "http"}
        span = self._tracer.start_span(f"{seen.method} {seen.endpoint}", parent, SpanKind.SERVER, about)
        seen.trace_id = f"{span.get_span_context().trace_id:032x}"
        token = contexts.attach(set_span_in_context(span, parent))
        try:
            yield
        finally:
            contexts.detach(token)
            span.set_attributes(_ending(seen))
            if seen.outcome == "error" and (seen.status >= 500 or seen.status < 400):
                span.set_status(StatusCode.ERROR)
            span.end()

    @contextmanager
    def relayed(self, operation: str, call: Call, headers: dict[str, str]) -> Iterator[None]:
        """The span of a call that goes through as bytes; nothing but the context for other paths."""
        if not operation:
            _inject(headers, None)
            yield
            return
        span = self._client(operation, call.model, call.backend, OPENAI, {})
        _inject(headers, span)
        try:
            yield
        except BaseException as error:
            _fail(span, error)
            raise
        finally:
            span.set_attributes(_usage(call.usage))
            if call.error:
                _fail(span, call.error)
            span.end()

    def spanned(self, backend: Backend, name: str, provider: str) -> Spanned:
        """A backend with a span for each of its calls."""
        return Spanned(backend, name, provider, self)

    def searched(self, sources: Mapping[str, Retrieve]) -> Mapping[str, Retrieve]:
        """Sources with a span for each search."""
        return {name: self._searched(name, source) for name, source in sources.items()}

    def _searched(self, name: str, source: Retrieve) -> Retrieve:
        async def search(query: str, k: int) -> list[Evidence]:
            about = {"gen_ai.operation.name": "retrieval", "gen_ai.data_source.id": name}
            about_k = {"gen_ai.request.top_k": float(k)}
            span = self._tracer.start_span(
                f"retrieval {name}", kind=SpanKind.CLIENT, attributes={**about, **about_k}
            )
            try:
                found = await source(query, k)
                span.set_attribute("veridical.passages", len(found))
            except BaseException as error:
                _fail(span, error)
                raise
            finally:
                span.end()
            return found

        return search

    def chat(self, request: ChatRequest, backend: str, provider: str) -> Span:
        """The span of a call that is about to be made."""
        about = {**_asked(request.params), "gen_ai.request.stream": request.stream}
        if request.step:
            about["veridical.step"] = request.step
        if request.n > 1:
            about["gen_ai.request.choice.count"] = request.n
        return self._client("chat", request.model, backend, provider, about)

    def _client(
        self, operation: str, model: str, backend: str, provider: str, about: Mapping[str, Any]
    ) -> Span:
        known = {"gen_ai.request.model": model} if model else {}
        attributes = {
            "gen_ai.operation.name": operation,
            "gen_ai.provider.name": provider,
            "veridical.backend": backend,
            **known,
            **about,
        }
        return self._tracer.start_span(
            f"{operation} {model}".strip(), kind=SpanKind.CLIENT, attributes=attributes
        )


@dataclass(frozen=True)
class Spanned:
    """A backend that holds a backend: each call is a span, which ends when the reply has arrived."""

    backend: Backend
    name: str
    provider: str
    tracing: Tracing

    @property
    def supports(self) -> set[str]:
        """What the wrapped backend supports."""
        return self.backend.supports

    def adapted(self, params: Params) -> Params:
        """As the wrapped backend has it."""
        return self.backend.adapted(params)

    async def chat(self, request: ChatRequest) -> Reply:
        """Answer, with the span's context in the headers."""
        span = self.tracing.chat(request, self.name, self.provider)
        headers = dict(request.headers)
        _inject(headers, span)
        began = perf_counter()
        try:
            reply = await self.backend.chat(replace(request, headers=headers))
            if not request.stream:
                await reply.read()
        except BaseException as error:
            _fail(span, error)
            span.end()
            raise
        if not request.stream:
            _finish(span, reply)
            return reply

        async def close() -> None:
            await reply.aclose()
            _finish(span, reply)

        return Reply(_streamed(reply, span, began), close)


async def _streamed(reply: Reply, span: Span, began: float) -> AsyncGenerator[Delta | Ending, None]:
    first = True
    try:
        async for delta in reply:
            if first:
                span.set_attribute("gen_ai.response.time_to_first_chunk", perf_counter() - began)
                first = False
            yield delta
    except BaseException as error:
        _fail(span, error)
        raise
    finally:
        _finish(span, reply)
    yield reply.items[-1]


def _finish(span: Span, reply: Reply) -> None:
    """End a call's span, once, with what the backend told of its answer."""
    if not span.is_recording():
        return
    answer = reply.answer
    reasons = [each.finish_reason for each in (answer, *reply.others)]
    span.set_attribute("gen_ai.response.finish_reasons", reasons)
    span.set_attributes(_usage(answer.usage))
    span.end()


def _inject(headers: dict[str, str], span: Span | None) -> None:
    """Put the context of `span`, or of the running one, in the place of the client's."""
    for name in _CONTEXT_HEADERS:
        headers.pop(name.decode(), None)
    _PROPAGATOR.inject(headers, set_span_in_context(span) if span else None)


def _fail(span: Span, error: BaseException | str) -> None:
    """Mark a span as failed, by the error's kind: its text may hold what no trace should."""
    kind = error if isinstance(error, str) else type(error).__name__
    span.set_attribute("error.type", error.code if isinstance(error, VeridicalError) else kind)
    span.set_status(StatusCode.ERROR)


def _asked(params: Params) -> dict[str, Any]:
    """The parameters of a call that the conventions name, where they are the numbers they should be."""
    limit = params.get("max_completion_tokens", params.get("max_tokens"))
    given = {**params, "max_tokens": limit}
    about: dict[str, Any] = {}
    for name in _NUMBERS:
        value = given.get(name)
        if isinstance(value, int | float) and not isinstance(value, bool):
            about[f"gen_ai.request.{name}"] = float(value) if name == "top_k" else value
    wanted = params.get("response_format")
    if isinstance(wanted, Mapping):
        about["gen_ai.output.type"] = "text" if wanted.get("type") == "text" else "json"
    return about


def _usage(usage: Usage | None) -> dict[str, Any]:
    if usage is None:
        return {}
    told = {
        "gen_ai.usage.input_tokens": usage.prompt_tokens,
        "gen_ai.usage.output_tokens": usage.completion_tokens,
    }
    parts = {
        "gen_ai.usage.cache_read.input_tokens": usage.cached_tokens,
        "gen_ai.usage.reasoning.output_tokens": usage.reasoning_tokens,
    }
    return told | {name: tokens for name, tokens in parts.items() if tokens}


def _ending(seen: Observation) -> dict[str, Any]:
    """What a request's span tells of it when it is over."""
    works = seen.strategy and seen.strategy != "direct"
    about = {
        "http.response.status_code": seen.status,
        "veridical.id": seen.id,
        "veridical.outcome": seen.outcome,
        "veridical.strategy": seen.strategy,
        "veridical.backend": seen.backend,
        "veridical.calls": len(seen.made),
        "gen_ai.request.model": seen.model,
        "gen_ai.operation.name": "invoke_workflow" if works else "",
        "gen_ai.workflow.name": seen.strategy if works else "",
        "error.type": seen.error or (str(seen.status) if seen.outcome == "error" else ""),
    }
    return {name: value for name, value in about.items() if value != ""}
