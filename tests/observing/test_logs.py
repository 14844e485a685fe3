"""The log: a line for each request, and never what was said or a key; not in metrics or spans either."""

from __future__ import annotations

import http.client
import io
import json
import logging
import threading
from contextlib import suppress

import pytest

from veridical.middleware.observing import logs
from veridical.middleware.observing.observation import Observation
from veridical.middleware.observing.settings import ObservabilitySettings
from veridical.tests.answers import Cut, Fail, Held, Pieces, Say, Whole, sse
from veridical.tests.observing.conftest import scraped
from veridical.tests.observing.test_traces import Collector
from veridical.tests.proxy import CHAT, RESPONSES, wait_until
from veridical.tests.upstream import SYDNEY


def test_a_line_tells_what_a_request_was_and_cost(serve, upstream, log):
    upstream.cove("Sydney.", SYDNEY, final="Canberra.")
    response = serve().chat(model="m1+cove", headers={"X-Request-Id": "theirs-1"})
    trail = response.json["veridical"]
    (line,) = log.lines(1)
    assert line["id"] == response.headers["x-veridical-id"] == trail["id"]
    assert (line["client_id"], line["method"], line["path"]) == ("theirs-1", "POST", CHAT)
    assert (line["status"], line["outcome"]) == (200, "ok")
    assert (line["model"], line["strategy"], line["backend"]) == ("m1", "cove", "up")
    used = trail["usage_by_step"].values()
    assert line["calls"] == trail["calls"]
    assert line["prompt_tokens"] == sum(step["prompt_tokens"] for step in used)
    assert line["completion_tokens"] == sum(step["completion_tokens"] for step in used)
    assert 0 < line["ttfb_ms"] <= line["ms"]


def test_a_key_is_told_by_its_id(serve, upstream, log, monkeypatch):
    monkeypatch.setenv("KEY_OF_CLIENT", "sk-client")
    upstream.on(draft=Say("Hello."))
    proxy = serve(auth={"client_keys_env": ["KEY_OF_CLIENT"]})
    proxy.chat(headers={"Authorization": "Bearer sk-client"})
    proxy.chat(headers={"Authorization": "Bearer sk-wrong"})
    assert [line.get("key") for line in log.lines(2)] == ["env:KEY_OF_CLIENT", None]
    assert (log.access[1]["status"], log.access[1]["error"]) == (401, "invalid_api_key")
    assert "sk-" not in log.text


def test_every_answer_has_an_id_and_every_line_one_of_its_own(serve, upstream, log):
    upstream.on(draft=Say("Hello."))
    proxy = serve()
    paths = [("GET", "/v1/models"), ("GET", "/nowhere"), ("GET", "/v1/nowhere"), ("POST", CHAT)]
    ids = [proxy.request(*path, b"{}").headers["x-veridical-id"] for path in paths]
    assert [line["id"] for line in log.lines(4)] == ids
    assert len(set(ids)) == 4


@pytest.mark.parametrize("given", ["a b", 'x"y', "x" * 129, "a\tb", "ä"])
def test_a_clients_id_that_could_be_more_is_left_out(serve, upstream, log, given):
    upstream.on(draft=Say("Hello."))
    serve().chat(headers={"X-Request-Id": given.encode().decode("latin-1")})
    assert "client_id" not in log.lines(1)[0]


def test_failures_are_warnings_and_probes_are_for_debugging(serve, upstream, log):
    upstream.on(draft=Fail(500))
    proxy = serve()
    proxy.chat()
    proxy.chat(model="nope")
    proxy.request("GET", "/health")
    log.lines(3)
    records = [record for record in log.records if record.name == "veridical.access"]
    assert [record.levelname for record in records] == ["WARNING", "INFO", "DEBUG"]
    assert [record.fields.get("error") for record in records] == [None, "model_not_found", None]


def test_lines_are_json_or_text_on_one_line_each(monkeypatch):
    monkeypatch.setattr(logging.getLogger("uvicorn"), "propagate", True)  # a server may have run before
    seen = Observation("GET", "/v1/a\nb", "/v1/*", status=200, complete=True)
    for form in ("json", "text"):
        stream, root = io.StringIO(), logging.getLogger()
        before, root.handlers = root.handlers, []
        try:
            logs.configure(ObservabilitySettings(log_format=form), "info")
            root.handlers[0].setStream(stream)
            logs.write(seen)
            logging.getLogger("uvicorn.error").warning("two %s", "words")
        finally:
            root.handlers = before
        lines = stream.getvalue().splitlines()
        assert len(lines) == 2, lines
        if form == "json":
            first, second = map(json.loads, lines)
            assert (first["id"], first["path"], first["level"]) == (seen.id, "/v1/a\nb", "info")
            assert (second["logger"], second["message"]) == ("uvicorn.error", "two words")
        else:
            assert f"id={seen.id} method=GET" in lines[0]
            assert r'path="/v1/a\nb"' in lines[0]


@pytest.mark.parametrize(
    ("model", "shown"),
    [
        ("m", "m"),
        ("100%s", "100%s"),
        ("a b", '"a b"'),
        ("a b=c", '"a b=c"'),
        ("a=b", '"a=b"'),
        ("a\nid=x", r'"a\nid=x"'),
        ('a"b', r'"a\"b"'),
        ("é", '"é"'),
        ("a\x7fb", '"a\x7fb"'),
    ],
)
def test_no_value_of_a_text_line_can_be_taken_for_two(model, shown):
    seen = Observation("GET", "/v1/models", "/v1/models", model=model, status=200, complete=True)
    line = logs.TextLines().format(logs.RequestRecord(logging.INFO, logs.told(seen)))
    assert f" outcome=ok model={shown} ms=" in line


def test_an_empty_value_is_quoted_wherever_it_stands():
    for fields in ({"a": "", "b": 1}, {"a": 1, "b": ""}):
        line = logs.TextLines().format(logs.RequestRecord(logging.INFO, fields))
        assert line.endswith(" ".join(f"{name}={value or chr(34) * 2}" for name, value in fields.items()))


SECRETS = ("PROMPT-7f3", "ANSWER-9c1", "sk-of-the-server", "sk-of-the-client", "vrd_", "UPSTREAM-SAYS")


def fail_in_many_ways(proxy, upstream):
    """Good, bad and broken answers, each for `direct` and for a strategy, streamed and not."""
    chunk = sse(Say("ANSWER-9c1").chunks({"model": "m1"})[1])
    answers = [
        Say("ANSWER-9c1 sk-of-the-server"),
        Fail(400, "UPSTREAM-SAYS PROMPT-7f3 sk-of-the-server"),
        Fail(401, "UPSTREAM-SAYS sk-of-the-server sk-of-the-client"),
        Fail(429, "UPSTREAM-SAYS", {"Retry-After": "99999"}),
        Fail(404, body=b"UPSTREAM-SAYS"),
        Whole(b'{"choices": "ANSWER-9c1"}'),
        Whole(b'{"ANSWER-9c1', length=500),
        Pieces([chunk, b"data: {ANSWER-9c1\n\n", Cut()]),
        Pieces([chunk, Cut()]),
    ]
    held = threading.Event()
    for answer in answers:
        upstream.on(draft=answer)
        for model in ("m1", "m1+cove"):
            for stream in (False, True):
                with suppress(http.client.IncompleteRead):  # what broke off must not look whole
                    ask(proxy, model=model, stream=stream)
    bad = [{"model": "PROMPT-7f3"}, {"model": "m1+cove(x=PROMPT-7f3)"}, {"messages": "PROMPT-7f3"}]
    for fields in [*bad, {"strategy": {"name": "PROMPT-7f3"}}, {"veridical": {"PROMPT-7f3": 1}}]:
        ask(proxy, **fields)
    for raw in (b"PROMPT-7f3", b'{"model": PROMPT-7f3', b"[" * 5000):
        proxy.request("POST", CHAT, raw, KEY)
        proxy.request("POST", RESPONSES, raw, KEY)
    proxy.request("GET", "/v1/models?key=sk-of-the-client", headers={"Authorization": "Bearer vrd_x_y"})
    proxy.request("POST", RESPONSES, {"model": "m1", "input": "PROMPT-7f3"}, KEY)
    upstream.on(draft=Held(Say("ANSWER-9c1"), held))
    before = len(upstream.chats)
    with proxy.open(KEY, messages=[{"role": "user", "content": "PROMPT-7f3"}]):
        wait_until(lambda: len(upstream.chats) > before, 20)
    held.set()


KEY = {"Authorization": "Bearer sk-of-the-client"}


def ask(proxy, **fields):
    return proxy.chat(headers=KEY, **{"messages": [{"role": "user", "content": "PROMPT-7f3"}], **fields})


@pytest.mark.timeout(300)
def test_nothing_that_was_said_and_no_key_is_ever_written(serve, upstream, log, monkeypatch):
    monkeypatch.setenv("KEY_OF_UPSTREAM", "sk-of-the-server")
    monkeypatch.setenv("KEY_OF_CLIENT", "sk-of-the-client")
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "20")
    collector = Collector()
    upstream.serve_at("/v1/traces", collector)
    proxy = serve(
        backend={"api_key_env": "KEY_OF_UPSTREAM"},
        auth={"client_keys_env": ["KEY_OF_CLIENT"]},
        budget={"deadline_s": 5},
        observability={"metrics": "open", "traces": True, "traces_endpoint": f"{upstream.url}/traces"},
    )
    fail_in_many_ways(proxy, upstream)
    wait_until(lambda: any(line["outcome"] == "disconnected" for line in log.access), 20)
    asked = len(log.access)
    collector.trace(asked)  # a line is written once its request's span has ended
    metrics = scraped(proxy).raw
    assert asked >= 40
    assert {"ok", "error", "disconnected"} <= {line["outcome"] for line in log.access}
    for secret in SECRETS:
        assert secret not in log.text
        assert secret not in metrics
        assert secret.encode() not in collector.raw


def test_content_is_logged_only_where_it_is_asked_for(serve, upstream, log, monkeypatch):
    monkeypatch.setenv("KEY_OF_CLIENT", "sk-of-the-client")
    upstream.on(draft=Say("ANSWER-9c1"))
    proxy = serve(auth={"client_keys_env": ["KEY_OF_CLIENT"]}, observability={"log_content": True})
    assert any(record.levelname == "WARNING" and "log_content" in record.msg for record in log.records)
    response = ask(proxy)
    (line,) = log.lines(1, "veridical.content")
    assert line["id"] == response.headers["x-veridical-id"]
    assert json.loads(line["request"])["messages"][0]["content"] == "PROMPT-7f3"
    assert line["response"] == response.raw.decode()
    assert "sk-of-the-client" not in log.text


def test_long_content_is_cut_and_says_so(serve, upstream, log):
    upstream.on(draft=Say("x" * 100_000))
    response = serve(observability={"log_content": True}).chat()
    (line,) = log.lines(1, "veridical.content")
    assert (len(line["response"]), line["response_bytes"]) == (65_536, len(response.raw))
    assert "request_bytes" not in line
