"""Usage by key: equal to what the upstream told, streamed or not; who may see it; nothing lost at the end."""

import os
import signal
import subprocess
import sys
from collections import Counter
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import pytest

from veridical.tests.access.conftest import bearer, id_of
from veridical.tests.answers import Cut, Fail, Pieces, Say, Whole, sse
from veridical.tests.proxy import Proxy, wait_until
from veridical.tests.servers import free_port, listens
from veridical.tests.upstream import SYDNEY

WRONG, RIGHT = "The capital of Australia is Sydney.", "The capital of Australia is Canberra."
TODAY = f"{datetime.now(UTC):%Y-%m-%d}"
ASKED = [{"role": "user", "content": "hello"}]
WITH_USAGE = {"include_usage": True}


def usage(proxy, key, query=""):
    return proxy.request("GET", f"/v1/usage{query}", headers=bearer(key))


def counted(proxy, key):
    """The figures of the only line: requests, calls, prompt and completion tokens, estimated calls."""
    wait_until(lambda: usage(proxy, key).json["data"])
    (line,) = usage(proxy, key).json["data"]
    names = ("requests", "calls", "prompt_tokens", "completion_tokens", "estimated_calls")
    return tuple(line[name] for name in names)


def test_usage_equals_what_the_upstream_told(guarded, create, upstream):
    """Every way to ask; the upstream gives each call other figures and keeps the sums."""
    told = Counter()
    figures = iter(range(1, 1000))

    upstream.cove(WRONG, SYDNEY, final=RIGHT)
    for step, script in list(upstream.script.items()):
        upstream.on(**{step: lambda exchange, script=script: _counted(script, exchange, figures, told)})
    proxy, key = guarded(), create()
    client = proxy.client_with(key)
    for model in ("m1", "m2", "m1+cove"):
        client.chat.completions.create(model=model, messages=ASKED)
        list(
            client.chat.completions.create(
                model=model, messages=ASKED, stream=True, stream_options=WITH_USAGE
            )
        )
    client.chat.completions.create(model="m1", messages=ASKED, extra_body={"veridical": {"trace": "summary"}})
    found = usage(proxy, key).json
    assert told["calls"] == len(upstream.chats) > 12
    assert found["total"] == {
        "requests": 7,
        "calls": told["calls"],
        "prompt_tokens": told["prompt"],
        "completion_tokens": told["completion"],
        "total_tokens": told["prompt"] + told["completion"],
        "estimated_calls": 0,
    }
    lines = {(line["model"], line["strategy"]): line["requests"] for line in found["data"]}
    assert lines == {("m1", "direct"): 3, ("m2", "direct"): 2, ("m1", "cove"): 2}
    assert {(line["day"], line["key_id"], line["key_name"]) for line in found["data"]} == {
        (TODAY, id_of(key), "alice")
    }


def _counted(script, exchange, figures, told):
    answer = script(exchange) if callable(script) else script
    n = next(figures)
    told.update(calls=1, prompt=10 * n, completion=n)
    return Say(answer.text, prompt_tokens=10 * n, completion_tokens=n)


def test_a_stream_without_usage_is_estimated_and_unchanged(guarded, create, upstream):
    upstream.on(draft=Say("".join(f"word{i} " for i in range(20)), cut=6))
    proxy, key = guarded(), create()
    assert proxy.chat(stream=True, headers=bearer(key)).events[-1] == "[DONE]"
    assert "stream_options" not in upstream.chats[0].body
    requests, calls, prompt, completion, estimated = counted(proxy, key)
    assert (requests, calls, estimated) == (1, 1, 1)
    assert 1 <= prompt <= 10
    assert abs(completion - len(upstream.script["draft"].pieces())) <= 3


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (Fail(400), (1, 1, 0, 0, 0)),
        (Fail(500), (1, 1, 0, 0, 0)),
        (Whole(b'{"usage": {"prompt_tokens": 5, "completion_tokens": 2}}'), (1, 1, 5, 2, 0)),
        (Whole(b'{"usage": {"input_tokens": 5, "output_tokens": 2}}'), (1, 1, 5, 2, 0)),
        (Whole(b'{"usage": {"prompt_tokens": "many", "completion_tokens": -3}}'), (1, 1, 0, 0, 0)),
        (Whole(b'{"choices": [], "usage": null, "text": "0123456789"}'), (1, 1, 6, 13, 1)),
        (Whole(b"no JSON at all, but 40 bytes of an answer"), (1, 1, 6, 10, 1)),
        (Whole(b'{"usage": ' * 5), (1, 1, 6, 12, 1)),
        (
            Pieces([sse({"choices": [], "usage": {"prompt_tokens": 9, "completion_tokens": 4}}), Cut()]),
            (1, 1, 9, 4, 0),
        ),
    ],
)
def test_whatever_the_backend_answers_is_counted_and_harms_nothing(
    guarded, create, upstream, answer, expected
):
    upstream.on(draft=answer)
    proxy, key = guarded(), create()
    proxy.chat(headers=bearer(key))
    assert counted(proxy, key) == expected


@pytest.mark.parametrize("stream", [False, True])
def test_words_of_the_model_are_not_taken_for_usage(guarded, create, upstream, stream):
    lie = '"usage": {"prompt_tokens": 0, "completion_tokens": 0} ' * 3
    upstream.on(draft=Say(lie, cut=len(lie), prompt_tokens=70, completion_tokens=30))
    proxy, key = guarded(), create()
    options = {"stream_options": WITH_USAGE} if stream else {}
    proxy.chat(stream=stream, headers=bearer(key), **options)
    assert counted(proxy, key) == (1, 1, 70, 30, 0)


def test_a_very_large_answer_is_counted_from_its_end(guarded, create, upstream):
    words = '"usage": {"prompt_tokens": 1} ' * 60_000
    upstream.on(draft=Say(words, prompt_tokens=70, completion_tokens=30))
    proxy, key = guarded(), create()
    assert proxy.chat(headers=bearer(key)).json["choices"][0]["message"]["content"] == words
    assert counted(proxy, key) == (1, 1, 70, 30, 0)


@pytest.mark.parametrize("model", ["m1", "m1+cove"])
@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_leaves_is_counted_with_what_had_come(guarded, create, upstream, model, stream):
    upstream.on(draft=Say("never", delay=30))
    proxy, key = guarded(), create()
    with proxy.open(model=model, stream=stream, headers=bearer(key)):
        wait_until(lambda: upstream.chats)
    assert upstream.chats[0].gone.wait(5)
    assert counted(proxy, key) == (1, 1, 6, 0, 1)


def test_a_key_sees_its_own_and_an_admin_everybodys(guarded, create, upstream):
    upstream.on(draft=Say("hi"))
    proxy = guarded()
    alice, bob, admin = create(), create(name="bob"), create(name="root", admin=True)
    for key in (alice, bob, bob):
        proxy.chat(headers=bearer(key))
    assert [line["requests"] for line in usage(proxy, alice).json["data"]] == [1]
    refused = usage(proxy, alice, f"?key={id_of(bob)}")
    assert (refused.status, refused.error["code"], refused.error["param"]) == (403, "not_allowed", "key")
    everybody = usage(proxy, admin).json
    assert {line["key_name"]: line["requests"] for line in everybody["data"]} == {"alice": 1, "bob": 2}
    (only,) = usage(proxy, admin, f"?key={id_of(bob)}").json["data"]
    assert only["requests"] == 2


def test_days_can_be_chosen_and_a_wrong_one_is_named(guarded, create, upstream):
    upstream.on(draft=Say("hi"))
    proxy, key = guarded(), create()
    proxy.chat(headers=bearer(key))
    assert usage(proxy, key, f"?since={TODAY}&until={TODAY}").json["total"]["requests"] == 1
    past = usage(proxy, key, "?since=2020-01-01&until=2020-12-31").json
    assert (past["data"], past["total"]["requests"], past["has_more"]) == ([], 0, False)
    wrong = usage(proxy, key, "?since=yesterday")
    assert (wrong.status, wrong.error["param"]) == (400, "since")


def test_where_no_usage_is_kept_it_says_so(serve, monkeypatch, state):
    monkeypatch.setenv("KEY_OF_CLIENTS", "sk-1")
    found = usage(serve(auth={"client_keys_env": ["KEY_OF_CLIENTS"]}), "sk-1")
    assert (found.status, "auth.keys" in found.error["message"]) == (404, True)
    assert serve().request("GET", "/v1/usage").status == 404
    assert not state.exists()


@contextmanager
def process(upstream, state, *arguments):
    """`veridical serve --keys` as a process of its own."""
    proxy = Proxy(free_port())
    command = [sys.executable, "-m", "veridical", "serve", "--keys", "--base-url", upstream.url]
    with (
        Path("log").open("ab") as log,
        subprocess.Popen(
            [*command, "--port", str(proxy.port), *arguments],
            env={**os.environ, "VERIDICAL_STATE_PATH": str(state), "VERIDICAL_STATE_FLUSH_S": "300"},
            stdout=log,
            stderr=log,
        ) as child,
    ):
        try:
            wait_until(lambda: listens(proxy.port), 120)
            yield proxy, child
        finally:
            proxy.close()
            child.kill()


@pytest.mark.timeout(300)
def test_a_graceful_end_loses_nothing_not_even_of_streams_that_it_cuts(create, upstream, state, guarded):
    Path("veridical.toml").write_text("[server]\nshutdown_s = 1")
    key = create()
    upstream.on(draft=[Say("hi")] * 5 + [Pieces([sse({"choices": [{"delta": {"content": "a"}}]}), 30.0])])
    with process(upstream, state) as (proxy, child):
        for _ in range(5):
            assert proxy.chat(headers=bearer(key)).status == 200
        with proxy.open(stream=True, headers=bearer(key)) as connection:
            while b"delta" not in connection.recv(4096):
                pass
            child.send_signal(signal.SIGTERM)
            assert child.wait(60) in (0, -signal.SIGTERM)
    assert counted(guarded(), key)[:2] == (6, 6)
    assert key.split("_")[2] not in Path("log").read_text()


def test_a_database_that_fails_for_a_while_loses_nothing(guarded, create, upstream, monkeypatch, caplog):
    from veridical.middleware.errors import StateUnavailable
    from veridical.middleware.state.sqlite import SQLite

    upstream.on(draft=Say("hi"))
    proxy, key = guarded(state={"flush_s": 0.05}), create()
    proxy.chat(headers=bearer(key))
    write = SQLite.write

    async def fail(self, *statements):
        raise StateUnavailable("disk full")

    monkeypatch.setattr(SQLite, "write", fail)
    for _ in range(3):
        assert proxy.chat(headers=bearer(key)).status == 200
    wait_until(lambda: "usage cannot be written (disk full)" in caplog.text)
    assert usage(proxy, key).status == 503
    monkeypatch.setattr(SQLite, "write", write)
    assert counted(proxy, key) == (4, 4, 28, 12, 0)
    assert caplog.text.count("usage cannot be written") == 1
