"""`direct`: the backend's own bytes, in both directions, and an honest end when it breaks."""

import gzip
import http.client
import json

import openai
import pytest

from veridical.tests.answers import Cut, Fail, Pieces, Say, Whole, sse
from veridical.tests.proxy import CHAT, wait_until

# White space, a duplicate key, unknown fields, escapes: what a parser would not give back as it was.
ODD = '{"id" : "x",\n "choices":[ {"index":0,"message":{"role":"assistant","content":"caf\\u00e9 é"},'
ODD += '"finish_reason":"stop"} ], "id":"y", "novel": {"a": 1.50}, "usage": {"total_tokens": 1e1}}'


def chunk(text: str, finish: str | None = None) -> bytes:
    return sse({"choices": [{"index": 0, "delta": {"content": text}, "finish_reason": finish}]})


def test_json_comes_back_byte_for_byte(proxy, upstream):
    upstream.on(draft=Whole(ODD.encode(), headers={"X-Request-Id": "abc", "Set-Cookie": "a=b"}))
    response = proxy.chat()
    assert (response.status, response.raw) == (200, ODD.encode())
    assert response.headers["content-type"].startswith("application/json")
    assert response.headers["x-request-id"] == "abc"
    assert "set-cookie" not in response.headers
    assert response.headers["x-veridical-backend"] == "up"
    assert len(response.headers["x-veridical-id"]) == 24


def test_a_stream_comes_back_byte_for_byte_however_it_was_cut(proxy, upstream):
    wire = b": hello\n\n" + chunk("Žluťoučký 🐎") + chunk(" 馬", "stop") + b"data: [DONE]\n\n"
    upstream.on(draft=Pieces([wire[i : i + 5] for i in range(0, len(wire), 5)]))
    response = proxy.chat(stream=True)
    assert response.raw == wire
    assert response.headers["content-type"] == "text/event-stream"
    assert response.headers["x-veridical-backend"] == "up"


def test_a_compressed_answer_is_passed_on_plain(proxy, upstream):
    packed = Whole(gzip.compress(ODD.encode() * 50), headers={"Content-Encoding": "gzip"})
    upstream.on(draft=packed)
    assert proxy.chat().raw == ODD.encode() * 50


def test_the_sdk_reads_a_relayed_stream(proxy, upstream):
    upstream.on(draft=Say("Žluťoučký kůň", cut=4))
    stream = proxy.ask(stream=True, stream_options={"include_usage": True})
    chunks = list(stream)
    assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) == "Žluťoučký kůň"
    assert chunks[-1].usage.total_tokens == 10


def test_the_request_goes_out_byte_for_byte(proxy, upstream):
    upstream.on(draft=Say("hi"))
    raw = b'{ "model":"m1", "messages": [ {"role":"user","content":"\\u00e9"} ], "novel": 1.50, "novel": 2 }'
    assert proxy.chat(raw).status == 200
    assert upstream.chats[0].raw == raw


@pytest.mark.parametrize(
    ("name", "extra"),
    [
        ("m1+direct", {}),
        ("m1", {"strategy": "direct"}),
        ("m1+cove", {"veridical": {"strategy": "direct"}}),
        ("up/m1", {}),
        ("m1", {"veridical": {"trace": "none"}}),
    ],
)
def test_only_names_and_our_fields_are_changed(proxy, upstream, name, extra):
    upstream.on(draft=Say("hi"))
    response = proxy.chat(model=name, **extra, seed=3, novel={"deep": [1, None]})
    assert response.status == 200
    assert "veridical" not in response.json
    sent = {"model": "m1", "messages": [{"role": "user", "content": "hello"}], "seed": 3}
    assert upstream.chats[0].body == {**sent, "novel": {"deep": [1, None]}}


def test_headers_of_one_hop_and_ours_stay_here_and_others_go_on(proxy, upstream):
    upstream.on(draft=Say("hi"))
    given = {"X-Veridical-Strategy": "direct", "Cookie": "a=b", "Te": "trailers", "OpenAI-Project": "p1"}
    assert proxy.chat(headers=given).status == 200
    sent = upstream.chats[0].headers
    assert sent["openai-project"] == "p1"
    assert not sent.keys() & {"x-veridical-strategy", "cookie", "te"}


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("status", "error"),
    [(429, openai.RateLimitError), (503, openai.InternalServerError), (400, openai.BadRequestError)],
)
@pytest.mark.parametrize("with_key", [False, True])
def test_a_refusal_is_passed_on_at_once(serve, upstream, monkeypatch, stream, status, error, with_key):
    monkeypatch.setenv("KEY_OF_UPSTREAM", "sk-secret-of-the-server")
    proxy = serve(backend={"api_key_env": "KEY_OF_UPSTREAM"} if with_key else {})
    upstream.on(draft=Fail(status, "slow down", {"Retry-After": "7"}))
    with pytest.raises(error) as caught:
        proxy.ask(stream=stream)
    assert caught.value.response.headers["retry-after"] == "7"
    assert caught.value.status_code == status
    assert "slow down" in caught.value.message
    assert caught.value.code == "from_upstream"
    assert len(upstream.chats) == 1


def test_no_trail_unless_it_is_asked_for(proxy, upstream):
    upstream.on(draft=Say("hi"))
    assert "veridical" not in proxy.ask().to_dict()
    told = proxy.ask(veridical={"trace": "summary"}).to_dict()
    assert told["veridical"]["status"] == told["veridical"]["strategy"] == "direct"
    assert told["veridical"]["calls"] == 1
    assert told["usage"]["total_tokens"] == 10
    *_, last = proxy.ask(stream=True, veridical={"trace": "summary"})
    assert last.to_dict()["veridical"]["status"] == "direct"


@pytest.mark.parametrize(
    "parts",
    [
        [chunk("half an ans"), Cut()],
        [chunk("half"), b'data: {"choices": [{"index": 0, "del', Cut()],
        [chunk("half"), "data: é".encode()[:-1], Cut()],
        [chunk("half an answer")],
        [chunk("half"), b"\n", 0.01],
    ],
)
def test_a_stream_that_breaks_ends_in_an_error_event(proxy, upstream, parts):
    upstream.on(draft=Pieces(parts))
    seen = []
    with pytest.raises(openai.APIError) as caught:
        seen += [c.choices[0].delta.content for c in proxy.ask(stream=True)]
    assert caught.value.code == "backend_failed"
    response = proxy.chat(stream=True)
    assert response.events[0]["choices"][0]["delta"]["content"].startswith("half")
    assert response.events[-1]["error"].keys() == {"message", "type", "param", "code"}


def test_a_stream_without_done_but_with_a_finish_reason_is_whole(proxy, upstream):
    upstream.on(draft=Pieces([chunk("all"), chunk("", "stop")]))
    assert proxy.chat(stream=True).raw == chunk("all") + chunk("", "stop")


def test_an_upstreams_own_error_event_reaches_the_client(proxy, upstream):
    upstream.on(draft=Pieces([chunk("half"), sse({"error": {"message": "out of memory"}})]))
    with pytest.raises(openai.APIError, match="out of memory"):
        list(proxy.ask(stream=True))


def test_a_whole_answer_that_breaks_never_looks_whole(proxy, upstream, caplog):
    upstream.on(draft=Whole(b'{"choices": [', length=500))
    with pytest.raises((http.client.IncompleteRead, ConnectionError)):
        proxy.chat()
    assert "Traceback" not in caplog.text


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_leaves_takes_the_backends_call_with_it(proxy, upstream, stream):
    upstream.on(draft=Pieces([chunk("begin"), 20.0]) if stream else Say("late", delay=20))
    with proxy.open(stream=stream) as connection:
        if stream:
            assert connection.recv(10)
        wait_until(lambda: upstream.chats)
    assert upstream.chats[0].gone.wait(3)


@pytest.mark.parametrize("stream", [False, True])
def test_no_backend_and_no_answer_in_time_are_told_apart(serve, upstream, stream):
    silent = serve(backend={"read_timeout_s": 0.2})
    upstream.on(draft=Say("late", delay=5))
    response = silent.chat(stream=stream)
    assert (response.status, response.error["code"]) == (504, "backend_timeout")
    nobody = serve(backend={"base_url": "http://127.0.0.1:9", "models": ["m1"]})
    response = nobody.chat(stream=stream)
    assert (response.status, response.error["code"]) == (502, "backend_unreachable")
    assert "127.0.0.1" not in response.error["message"]


def test_a_stream_that_falls_silent_ends_in_an_error_event(serve, upstream):
    upstream.on(draft=Pieces([chunk("begin"), 5.0]))
    response = serve(backend={"read_timeout_s": 0.2}).chat(stream=True)
    assert response.status == 200
    assert response.events[-1]["error"]["code"] == "backend_timeout"


def test_a_deadline_counts_for_direct_too(proxy, upstream):
    upstream.on(draft=Say("late", delay=5))
    response = proxy.chat(veridical={"budget": {"deadline_s": 0.2}})
    assert (response.status, response.error["code"]) == (504, "deadline_exceeded")


def test_connections_to_the_backend_are_kept(proxy, upstream):
    upstream.on(draft=Say("hi"))
    connection = http.client.HTTPConnection("127.0.0.1", proxy.port)
    body = json.dumps({"model": "m1", "messages": [{"role": "user", "content": "hello"}]})
    for _ in range(3):
        connection.request("POST", CHAT, body)
        assert connection.getresponse().read()
    connection.close()
    assert len({exchange.peer for exchange in upstream.chats}) == 1
