"""/metrics: what is counted, under which labels, and who may read it."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from veridical.retrievers.index import build
from veridical.strategies.errors import ConfigError
from veridical.tests.answers import Cut, Fail, Held, Pieces, Say, sse
from veridical.tests.observing.conftest import Scrape, scraped
from veridical.tests.proxy import CHAT, RESPONSES, wait_until
from veridical.tests.upstream import SYDNEY

DIRECT = {"strategy": "direct", "model": "m1", "backend": "up"}


def test_a_relayed_chat_is_counted_with_the_tokens_that_the_backend_tells(serve, upstream):
    upstream.on(draft=Say("Hello.", prompt_tokens=11, completion_tokens=4))
    proxy = serve()
    assert proxy.chat().status == 200
    assert b"[DONE]" in proxy.chat(stream=True, stream_options={"include_usage": True}).raw
    seen = scraped(proxy)
    ended = {"endpoint": CHAT, "status": "200", "outcome": "ok", **DIRECT}
    assert seen.value("veridical_requests_total", **ended) == 2
    assert seen.value("veridical_calls_total", step="relay", outcome="ok", **DIRECT) == 2
    assert seen.value("veridical_tokens_total", kind="prompt", **DIRECT) == 22
    assert seen.value("veridical_tokens_total", kind="completion", **DIRECT) == 8
    assert seen.value("veridical_request_seconds_count", strategy="direct", outcome="ok") == 2
    assert seen.value("veridical_call_seconds_count", strategy="direct", step="relay") == 2
    assert seen.value("veridical_first_byte_seconds_count", strategy="direct") == 1


def test_a_stream_without_usage_is_counted_as_such_and_its_bytes_stay(serve, upstream):
    upstream.on(draft=Say("Hello."))
    proxy = serve()
    through, straight = proxy.chat(stream=True), b"".join(map(sse, Say("Hello.").chunks({"model": "m1"})))
    assert through.raw == straight + b"data: [DONE]\n\n"
    seen = scraped(proxy)
    assert seen.value("veridical_calls_without_usage_total", model="m1", backend="up") == 1
    assert seen.samples("veridical_tokens_total") == []


def test_a_strategy_is_counted_by_step_and_by_the_model_that_was_asked(serve, upstream):
    upstream.cove("Sydney.", SYDNEY, final="Canberra.")
    proxy = serve(roles={"verifier": "m2"})
    trail = proxy.ask(model="m1+cove(max_questions=2)").veridical
    seen = scraped(proxy)
    steps = {step: used["calls"] for step, used in trail["usage_by_step"].items()}
    found = {s.labels["step"]: s.value for s in seen.samples("veridical_call_seconds_count")}
    assert found == steps
    assert seen.value("veridical_calls_total", strategy="cove") == trail["calls"]
    assert (
        seen.value("veridical_calls_total", step="cove/check", model="m2", outcome="ok")
        == steps["cove/check"]
    )
    assert seen.value("veridical_answers_total", strategy="cove", status="verified") == 1
    asked = [s for s in seen.samples("veridical_requests_total") if s.labels["endpoint"] == CHAT]
    assert {s.labels["strategy"] for s in asked} == {"cove"}  # and not its options
    prompt = sum(used["prompt_tokens"] for used in trail["usage_by_step"].values())
    assert seen.value("veridical_tokens_total", kind="prompt") == prompt


def test_a_degraded_answer_and_the_call_that_failed_are_counted(serve, upstream):
    upstream.cove("Sydney.", SYDNEY)
    upstream.on(plan=Fail(400))
    proxy = serve()
    assert proxy.ask(model="m1+cove").veridical["status"] == "degraded"
    seen = scraped(proxy)
    assert seen.value("veridical_requests_total", strategy="cove", outcome="degraded", status="200") == 1
    assert seen.value("veridical_answers_total", status="degraded") == 1
    assert seen.value("veridical_calls_total", step="cove/plan", outcome="BackendRefused") >= 1
    assert seen.samples("veridical_errors_total") == []


@pytest.mark.parametrize("stream", [False, True])
def test_errors_are_counted_by_code(serve, upstream, stream):
    upstream.on(draft=Fail(500))
    proxy = serve()
    proxy.chat(stream=stream)
    proxy.chat(stream=stream, model="m1+cove", veridical={"budget": {"deadline_s": 0.2}})
    proxy.chat(stream=stream, model="no-such-model-" + "x" * 50)
    seen = scraped(proxy)
    assert seen.value("veridical_requests_total", outcome="error", status="500", **DIRECT) == 1
    assert seen.value("veridical_calls_total", step="relay", outcome="BackendFailed") == 1
    assert seen.value("veridical_errors_total", code="model_not_found") == 1
    assert "no-such-model" not in seen.raw
    assert seen.value("veridical_requests_total", outcome="error") == 3


def test_a_stream_that_breaks_is_an_error_though_its_status_was_200(serve, upstream):
    upstream.on(draft=Pieces([sse(Say("Hi").chunks({"model": "m1"})[0]), Cut()]))
    proxy = serve()
    proxy.chat(stream=True)
    seen = scraped(proxy)
    assert seen.value("veridical_requests_total", outcome="error", status="200") == 1
    assert seen.value("veridical_errors_total", code="backend_failed") == 1
    assert seen.value("veridical_calls_total", step="relay", outcome="BackendFailed") == 1


@pytest.mark.parametrize("model", ["m1", "m1+cove"])
def test_a_client_that_leaves_is_counted_with_what_it_has_cost(serve, upstream, model):
    release = threading.Event()
    upstream.on(draft=Held(Say("Hello."), release))
    proxy = serve()
    with proxy.open(model=model):
        wait_until(lambda: upstream.chats)
        scraped(proxy, running=1)
    seen = scraped(proxy)
    assert seen.value("veridical_requests_total", outcome="disconnected", status="499") == 1
    assert seen.value("veridical_calls_total", model="m1", outcome="cancelled") == 1
    release.set()


def test_searches_are_counted_by_source(serve, upstream, tmp_path: Path):
    (tmp_path / "pages.jsonl").write_text(json.dumps({"id": "nile", "text": "The Nile flows through Cairo."}))
    build(tmp_path / "pages.jsonl", tmp_path / "index")
    upstream.on(**{"rag/answer": Say("The Nile [1].")})
    proxy = serve(retrievers={"pages": {"type": "index", "path": str(tmp_path / "index")}})
    proxy.ask("Which river flows through Cairo?", model="m1+rag(k=1)")
    seen = scraped(proxy)
    assert seen.value("veridical_retrievals_total", source="default", outcome="ok") == 1
    assert seen.value("veridical_retrieved_passages_total", source="default") == 1
    assert seen.value("veridical_retrieval_seconds_count", source="default") == 1


def test_labels_are_bounded_whatever_clients_ask_for(serve, upstream):
    upstream.on(draft=Say("Hello."))
    proxy = serve(pipelines={"twice": "direct|direct"})
    for model in ("m1+direct|direct", "m1+direct|direct|direct", "m1+twice", "m1+nonsense", "m9"):
        proxy.chat(model=model)
    proxy.request("GET", "/secret-path")
    proxy.request("GET", "/v1/files/secret-file")
    seen = scraped(proxy)
    assert seen.labels("veridical_requests_total", "strategy") <= {"", "direct", "direct|direct", "pipe"}
    assert seen.labels("veridical_requests_total", "model") <= {"", "m1"}
    assert {"/v1/*", "other"} <= seen.labels("veridical_requests_total", "endpoint")
    assert "secret" not in seen.raw


def test_other_endpoints_are_counted(serve, upstream):
    reply = {"object": "list", "data": [], "usage": {"prompt_tokens": 5, "total_tokens": 5}}
    upstream.serve_at("/v1/embeddings", lambda raw: (200, reply))
    upstream.on(draft=Say("Hello."))
    proxy = serve()
    assert proxy.request("POST", "/v1/embeddings", {"model": "m2", "input": "x"}).json == reply
    proxy.request("POST", RESPONSES, {"model": "m1", "input": "hello"})
    seen = scraped(proxy)
    assert seen.value("veridical_tokens_total", model="m2", kind="prompt") == 5
    assert seen.value("veridical_requests_total", endpoint=RESPONSES, outcome="ok") == 1


def test_what_the_server_is_doing_now(proxy):
    seen = scraped(proxy)
    assert seen.value("veridical_backend_ready", backend="up") == 1
    assert len(seen.samples("veridical_build_info")) == 1
    assert seen.value("process_resident_memory_bytes") > 1e6
    wanted = proxy.request("GET", "/metrics", headers={"Accept": "application/openmetrics-text"})
    assert wanted.headers["content-type"].startswith("application/openmetrics-text")
    assert wanted.raw.endswith(b"# EOF\n")


def test_where_clients_need_keys_so_do_scrapers(serve, monkeypatch):
    monkeypatch.setenv("KEY_OF_CLIENT", "sk-client")
    monkeypatch.setenv("KEY_OF_SCRAPER", "sk-scraper")
    auth = {"client_keys_env": ["KEY_OF_CLIENT"]}
    proxy = serve(auth=auth, observability={"metrics_key_env": "KEY_OF_SCRAPER"})
    status = {key: proxy.request("GET", "/metrics", headers=bearer(key)).status for key in KEYS}
    assert status == {"": 401, "sk-client": 403, "sk-scraper": 200, "sk-scraperx": 401}
    assert proxy.request("GET", "/v1/models", headers=bearer("sk-scraper")).status == 401
    opened = serve(auth=auth, observability={"metrics": "open"})
    assert opened.request("GET", "/metrics").status == 200
    guarded = serve(observability={"metrics_key_env": "KEY_OF_SCRAPER"})
    assert guarded.request("GET", "/metrics").status == 401
    assert guarded.request("GET", "/metrics", headers=bearer("sk-scraper")).status == 200
    assert "sk-" not in guarded.request("GET", "/metrics", headers=bearer("sk-scraper")).raw.decode()


KEYS = ("", "sk-client", "sk-scraper", "sk-scraperx")


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"} if key else {}


def test_without_metrics_nothing_is_there_and_a_missing_key_is_named(serve, upstream):
    upstream.on(draft=Say("Hello."))
    proxy = serve(observability={"metrics": "off", "access_log": False})
    assert proxy.request("GET", "/metrics").status == 404
    assert proxy.chat().status == 200
    with pytest.raises(ConfigError, match="NOT_SET"):
        serve(observability={"metrics_key_env": "NOT_SET"})


SEVERAL = """
import asyncio, sys
from veridical.middleware.observing.metrics import Metrics
from veridical.middleware.observing.observation import Observation
metrics = Metrics()
metrics.counter("things", "Things", ("kind",), lambda: {("a",): 3.0})
for _ in range(int(sys.argv[1])):
    metrics.began()
    metrics.ended(Observation(endpoint="/x", status=200, complete=True))
metrics.began()
print(asyncio.run(metrics.exposition(""))[0].decode())
"""


def test_several_processes_add_up(tmp_path: Path):
    def scrape(requests: int) -> str:
        env = {"PROMETHEUS_MULTIPROC_DIR": str(tmp_path), "PYTHONPATH": ":".join(sys.path)}
        command = [sys.executable, "-c", SEVERAL, str(requests)]
        return subprocess.run(command, env=env, check=True, capture_output=True, text=True).stdout

    scrape(2)
    seen = Scrape(scrape(3))
    assert seen.value("veridical_requests_total") == 5
    assert seen.value("veridical_things_total", kind="a") == 6
    assert seen.value("veridical_request_seconds_count") == 5
    assert seen.value("veridical_requests_running") == 2  # each has one left
