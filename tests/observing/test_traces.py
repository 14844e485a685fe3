"""Traces: what a collector is sent, over HTTP, for whole requests through the real proxy."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.semconv._incubating.attributes import gen_ai_attributes

from veridical.retrievers.index import build
from veridical.tests.answers import Fail, Held, Say
from veridical.tests.proxy import wait_until
from veridical.tests.upstream import CANBERRA, SYDNEY

SERVER, CLIENT, ERROR = 2, 3, 2
TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
FROM_CLIENT = {"traceparent": f"00-{TRACE}-{PARENT}-01", "tracestate": "theirs=1"}
CONVENTIONS = {value for name, value in vars(gen_ai_attributes).items() if name.startswith("GEN_AI")}


@dataclass
class Collector:
    """A collector of OTLP over HTTP: keeps every span that comes."""

    spans: list[Any] = field(default_factory=list)
    resources: list[dict[str, Any]] = field(default_factory=list)
    raw: bytes = b""

    def __call__(self, body: bytes) -> tuple[int, Any]:
        self.raw += body
        for sent in ExportTraceServiceRequest.FromString(body).resource_spans:
            self.resources.append(attributes(sent.resource))
            self.spans += [span for scope in sent.scope_spans for span in scope.spans]
        return 200, {}

    @property
    def roots(self) -> list[Any]:
        return [span for span in self.spans if span.kind == SERVER]

    def below(self, root: Any) -> list[Any]:
        return [span for span in self.spans if span.parent_span_id == root.span_id]

    def trace(self, count: int = 1) -> tuple[Any, list[Any]]:
        """The last request's span and those of its calls, once `count` requests are over."""
        wait_until(lambda: len(self.roots) >= count, 20)
        root = self.roots[-1]
        return root, self.below(root)


def attributes(span: Any) -> dict[str, Any]:
    return {each.key: value_of(each.value) for each in span.attributes}


def value_of(value: Any) -> Any:
    kind = value.WhichOneof("value")
    found = getattr(value, kind)
    return [value_of(each) for each in found.values] if kind == "array_value" else found


@pytest.fixture
def collector(upstream: Any, monkeypatch: pytest.MonkeyPatch) -> Collector:
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "20")
    found = Collector()
    upstream.serve_at("/v1/traces", found)
    return found


@pytest.fixture
def traced(serve: Any, upstream: Any, collector: Collector) -> Callable[..., Any]:
    tracing = {"traces": True, "traces_endpoint": f"{upstream.url}/traces"}
    return lambda **settings: serve(
        observability={**tracing, **settings.pop("observability", {})}, **settings
    )


def test_a_strategy_is_one_trace_with_a_span_for_each_call(traced, upstream, collector, log):
    upstream.cove("Sydney.", SYDNEY, final="Canberra.")
    response = traced().chat(model="m1+cove", headers=FROM_CLIENT, temperature=0.5)
    root, calls = collector.trace()
    assert (root.name, root.trace_id.hex(), root.parent_span_id.hex()) == (
        "POST /v1/chat/completions",
        TRACE,
        PARENT,
    )
    told = attributes(root)
    assert told["veridical.strategy"] == told["gen_ai.workflow.name"] == "cove"
    assert told["gen_ai.operation.name"] == "invoke_workflow"
    assert told["http.response.status_code"] == 200
    assert told["veridical.id"] == response.headers["x-veridical-id"]
    assert told["veridical.calls"] == len(calls) == response.json["veridical"]["calls"]
    assert {(call.name, call.kind) for call in calls} == {("chat m1", CLIENT)}
    steps = {attributes(call)["veridical.step"]: attributes(call) for call in calls}
    assert steps.keys() == response.json["veridical"]["usage_by_step"].keys()
    draft = steps["draft"]
    assert (draft["gen_ai.operation.name"], draft["gen_ai.provider.name"]) == ("chat", "openai")
    assert (draft["gen_ai.request.model"], draft["gen_ai.request.temperature"]) == ("m1", 0.5)
    assert (draft["gen_ai.usage.input_tokens"], draft["gen_ai.usage.output_tokens"]) == (7, 3)
    assert draft["gen_ai.response.finish_reasons"] == ["stop"]
    assert steps["cove/plan"]["gen_ai.output.type"] == "json"
    assert log.lines(1)[0]["trace_id"] == TRACE
    assert collector.resources[0]["service.name"] == "veridical"


@pytest.mark.parametrize("model", ["m1", "m1+cove"])
@pytest.mark.parametrize("stream", [False, True])
def test_the_context_goes_on_to_the_backend(traced, upstream, collector, model, stream):
    upstream.cove("Canberra.", CANBERRA, final="Canberra.")
    traced().chat(model=model, stream=stream, headers=FROM_CLIENT)
    _, calls = collector.trace()
    sent = {exchange.headers["traceparent"] for exchange in upstream.chats}
    assert sent == {f"00-{TRACE}-{call.span_id.hex()}-01" for call in calls}
    assert {exchange.headers["tracestate"] for exchange in upstream.chats} == {"theirs=1"}


def test_a_streamed_call_tells_the_time_to_its_first_piece(traced, upstream, collector):
    upstream.cove("Sydney.", SYDNEY, final="Canberra.")
    traced().chat(model="m1+cove", stream=True)
    _, calls = collector.trace()
    last = next(a for a in map(attributes, calls) if a["veridical.step"] == "cove/revise")
    assert 0 < last["gen_ai.response.time_to_first_chunk"] < 20
    assert last["gen_ai.request.stream"] is True
    assert last["gen_ai.usage.output_tokens"] == 3


def test_a_relayed_call_tells_its_tokens(traced, upstream, collector):
    upstream.on(draft=Say("Hello.", prompt_tokens=11, completion_tokens=4))
    traced().chat()
    root, (call,) = collector.trace()
    told = attributes(call)
    assert (call.name, told["gen_ai.usage.input_tokens"], told["gen_ai.usage.output_tokens"]) == (
        "chat m1",
        11,
        4,
    )
    assert "gen_ai.workflow.name" not in attributes(root)


def test_a_search_is_a_span(traced, upstream, collector, tmp_path: Path):
    (tmp_path / "pages.jsonl").write_text(json.dumps({"id": "nile", "text": "The Nile flows through Cairo."}))
    build(tmp_path / "pages.jsonl", tmp_path / "index")
    upstream.on(**{"rag/answer": Say("The Nile [1].")})
    proxy = traced(retrievers={"pages": {"type": "index", "path": str(tmp_path / "index")}})
    proxy.ask("Which river flows through Cairo?", model="m1+rag(k=1)")
    _, spans = collector.trace()
    search = next(span for span in spans if span.name == "retrieval default")
    told = attributes(search)
    assert (told["gen_ai.operation.name"], told["gen_ai.data_source.id"]) == ("retrieval", "default")
    assert (told["gen_ai.request.top_k"], told["veridical.passages"]) == (1.0, 1)


@pytest.mark.parametrize("model", ["m1", "m1+cove"])
@pytest.mark.parametrize("stream", [False, True])
def test_what_fails_says_so_by_its_kind(traced, upstream, collector, model, stream):
    upstream.on(draft=Fail(400, "the upstream quotes: sk-secret"))
    response = traced().chat(model=model, stream=stream)
    root, (call,) = collector.trace()
    assert call.status.code == ERROR
    assert attributes(call)["error.type"] in ("BackendRefused", "backend_refused")
    assert attributes(root)["http.response.status_code"] == response.status == 400
    assert root.status.code != ERROR  # the client's fault, as the conventions for HTTP have it
    assert not call.status.message
    assert not call.events


@pytest.mark.parametrize("model", ["m1", "m1+cove"])
def test_a_client_that_leaves_ends_its_spans(traced, upstream, collector, model):
    release = threading.Event()
    upstream.on(draft=Held(Say("Hello."), release))
    with traced().open(model=model, stream=True):
        wait_until(lambda: upstream.chats)
    root, (call,) = collector.trace()
    release.set()
    assert attributes(root)["veridical.outcome"] == "disconnected"
    assert attributes(call)["error.type"] == "CancelledError"


def test_every_attribute_is_of_the_conventions_or_ours(traced, upstream, collector):
    upstream.cove("Sydney.", SYDNEY, final="Canberra.")
    proxy = traced()
    proxy.chat(model="m1+cove", stream=True, seed=1, top_p=0.5, max_tokens=50)
    proxy.chat(model="m1+self_consistency", n=2)
    proxy.request("GET", "/v1/models")
    collector.trace(3)
    names = {name for span in collector.spans for name in attributes(span)}
    assert {"gen_ai.request.seed", "gen_ai.request.top_p", "gen_ai.request.max_tokens"} <= names
    generative = {name for name in names if name.startswith("gen_ai.")}
    assert generative <= CONVENTIONS
    others = {name.partition(".")[0] for name in names - generative}
    assert others <= {"http", "url", "error", "veridical"}


def test_a_trace_that_the_client_does_not_sample_is_not_sent(traced, upstream, collector):
    upstream.on(draft=Say("Hello."))
    proxy = traced()
    proxy.chat(headers={"traceparent": f"00-{TRACE}-{PARENT}-00"})
    proxy.chat(headers={"traceparent": "nonsense"})
    root, _ = collector.trace()
    assert [each.span_id for each in collector.roots] == [root.span_id]
    assert root.trace_id.hex() != TRACE
    assert upstream.chats[0].headers["traceparent"].startswith(f"00-{TRACE}-")
    assert upstream.chats[0].headers["traceparent"].endswith("-00")


def test_a_collector_that_is_down_disturbs_nobody(serve, upstream):
    upstream.on(draft=Say("Hello."))
    proxy = serve(observability={"traces": True, "traces_endpoint": "http://127.0.0.1:9/v1/traces"})
    assert proxy.chat().status == 200


IMPORTED = """
import sys
from veridical.middleware.config import Settings
from veridical.server import create_app
up = {"type": "http", "base_url": "http://127.0.0.1:9/v1"}
create_app(Settings.model_validate({"backends": {"up": up}, "observability": {"metrics": sys.argv[1]}}))
heavy = ("opentelemetry.sdk", "opentelemetry.exporter", "google.protobuf", "requests", "prometheus_client")
print(*(name for name in heavy if name in sys.modules))
"""


@pytest.mark.parametrize(("metrics", "loaded"), [("off", ""), ("protected", "prometheus_client")])
def test_what_is_off_is_not_imported(metrics, loaded):
    env = {"PYTHONPATH": ":".join(sys.path)}
    command = [sys.executable, "-c", IMPORTED, metrics]
    done = subprocess.run(command, env=env, check=True, capture_output=True, text=True)
    assert done.stdout.strip() == loaded


def test_without_traces_the_clients_context_passes_untouched(proxy, upstream):
    upstream.on(draft=Say("Hello."))
    proxy.chat(headers=FROM_CLIENT)
    assert upstream.chats[0].headers["traceparent"] == FROM_CLIENT["traceparent"]
