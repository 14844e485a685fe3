"""Whatever a client sends, it gets an answer in OpenAI's shape that says what is wrong."""

import http.client
import json

import pytest

from veridical.tests.answers import Say
from veridical.tests.proxy import CHAT
from veridical.tests.upstream import CANBERRA

MESSAGES = [{"role": "user", "content": "hello"}]


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"", "JSON"),
        (b"{", "JSON"),
        (b"\xff\xfe", "JSON"),
        (b'{"model": NaN}', "JSON"),
        (b'{"model": "\\ud800"}', "JSON"),
        (b"[" * 100_000, "JSON"),
        (b"[]", "object"),
        (b'"hello"', "object"),
        (b"null", "object"),
    ],
)
def test_a_body_that_is_no_json_object(proxy, body, words):
    response = proxy.request("POST", CHAT, body)
    assert (response.status, response.error["code"]) == (400, "invalid_request")
    assert words in response.error["message"]


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"model": None}, "model"),
        ({"model": ""}, "model"),
        ({"model": 5}, "model"),
        ({"messages": None}, "messages"),
        ({"messages": []}, "messages"),
        ({"messages": "hello"}, "messages"),
        ({"messages": {"role": "user"}}, "messages"),
        ({"messages": ["hello"]}, "messages[0]"),
        ({"messages": [*MESSAGES, {"content": "x"}]}, "messages[1]"),
        ({"messages": [{"role": 5}]}, "messages[0]"),
        ({"messages": [{"role": "user", "content": 5}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": {"text": "x"}}]}, "messages[0].content"),
        ({"stream": "yes"}, "stream"),
        ({"stream": 1}, "stream"),
        ({"stream_options": []}, "stream_options"),
        ({"n": 0}, "n"),
        ({"n": 1.5}, "n"),
        ({"n": True}, "n"),
        ({"n": "2"}, "n"),
        ({"veridical": 5}, "veridical"),
        ({"veridical": []}, "veridical"),
        ({"veridical": {"trace": "all"}}, "veridical.trace"),
        ({"veridical": {"progress": True}}, "veridical.progress"),
        ({"veridical": {"on_limit": "explode"}}, "veridical.on_limit"),
        ({"veridical": {"on_failure": None}}, "veridical.on_failure"),
        ({"veridical": {"budget": 5}}, "veridical.budget"),
        ({"veridical": {"budget": {"max_calls": 0}}}, "veridical.budget.max_calls"),
        ({"veridical": {"budget": {"max_calls": "9"}}}, "veridical.budget.max_calls"),
        ({"veridical": {"budget": {"deadline_s": -1}}}, "veridical.budget.deadline_s"),
    ],
)
def test_a_field_of_the_wrong_shape_is_named(proxy, upstream, fields, param):
    response = proxy.chat(**fields)
    assert (response.status, response.error["type"]) == (400, "invalid_request_error")
    assert response.error["param"] == param
    assert not upstream.chats


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"temperature": "hot"}, "temperature"),
        ({"temperature": 3}, "temperature"),
        ({"temperature": True}, "temperature"),
        ({"top_p": -1}, "top_p"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_completion_tokens": []}, "max_completion_tokens"),
        ({"n": 10_000}, "n"),
        ({"modalities": ["text", "audio"]}, "modalities"),
        ({"modalities": 5}, "modalities"),
        ({"audio": {"voice": "x"}}, "modalities"),
    ],
)
def test_with_a_strategy_what_cannot_be_honoured_is_refused_by_name(proxy, upstream, fields, param):
    response = proxy.chat(model="m1+cove", **fields)
    assert (response.status, response.error["param"]) == (400, param)
    assert not upstream.chats


@pytest.mark.parametrize(
    ("fields", "param", "nearest"),
    [
        ({"strategi": "cove"}, "veridical.strategi", "'strategy'"),
        ({"tracee": "full"}, "veridical.tracee", "'trace'"),
        ({"budget": {"max_call": 5}}, "veridical.budget.max_call", "'max_calls'"),
        ({"zzz": 1}, "veridical.zzz", "unknown field"),
    ],
)
def test_an_unknown_field_of_ours_names_its_nearest(proxy, fields, param, nearest):
    response = proxy.chat(veridical=fields)
    assert (response.status, response.error["param"]) == (400, param)
    assert nearest in response.error["message"]


@pytest.mark.parametrize("model", ["m1", "m1+cove"])
def test_empty_values_are_taken_as_absent(proxy, upstream, model):
    upstream.cove("The capital is Canberra.", CANBERRA)
    nothing = dict.fromkeys(["stream", "n", "stream_options", "strategy", "veridical", "temperature"])
    assert proxy.chat(model=model, **nothing).status == 200


def test_a_body_of_the_wrong_media_type_is_read_all_the_same(proxy, upstream):
    upstream.on(draft=Say("hi"))
    assert proxy.chat(headers={"Content-Type": "text/plain"}).status == 200


@pytest.fixture
def strict(serve):
    return serve(server={"max_body_bytes": 1000})


def test_a_body_that_declares_itself_too_large_is_not_read(strict):
    connection = http.client.HTTPConnection("127.0.0.1", strict.port, timeout=10)
    connection.putrequest("POST", CHAT)
    connection.putheader("Content-Length", "100000000")
    connection.endheaders()
    response = connection.getresponse()
    assert response.status == 413
    assert json.loads(response.read())["error"]["code"] == "request_too_large"
    connection.close()


def test_a_chunked_body_is_counted_as_it_comes(strict, upstream):
    upstream.on(draft=Say("hi"))

    def post(size: int) -> int:
        connection = http.client.HTTPConnection("127.0.0.1", strict.port, timeout=10)
        body = json.dumps({"model": "m1", "messages": MESSAGES, "pad": "x" * size}).encode()
        pieces = (body[at : at + 100] for at in range(0, len(body), 100))
        connection.request("POST", CHAT, pieces, encode_chunked=True)
        status = connection.getresponse().status
        connection.close()
        return status

    assert post(500) == 200
    assert post(2000) == 413
    assert strict.chat(pad="x" * 500).status == 200


def test_a_client_that_leaves_while_it_sends_is_forgotten(proxy, upstream, caplog):
    connection = http.client.HTTPConnection("127.0.0.1", proxy.port, timeout=10)
    connection.putrequest("POST", CHAT)
    connection.putheader("Content-Length", "1000")
    connection.endheaders()
    connection.send(b'{"model": ')
    connection.close()
    assert proxy.request("GET", "/health").status == 200
    assert "Traceback" not in caplog.text


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("POST", "/health", 405),
        ("GET", "/v2/models", 404),
        ("GET", "/" + "x" * 3000, 404),
        ("GET", "/", 404),
    ],
)
def test_a_path_or_method_that_is_not_served(proxy, method, path, status):
    response = proxy.request(method, path)
    assert response.status == status
    assert response.error["type"] == "invalid_request_error"
    assert len(response.raw) < 1000


@pytest.mark.parametrize("model", ["m1", "m1+direct", "m1+cove"])
def test_a_body_nested_without_end_does_no_harm(proxy, upstream, model):
    upstream.cove("The capital is Canberra.", CANBERRA)
    deep = "[" * 600 + "]" * 600
    body = json.dumps({"model": model, "messages": MESSAGES})[:-1] + f', "deep": {deep}}}'
    response = proxy.request("POST", CHAT, body.encode())
    assert response.status in (200, 400)
    if response.status == 400:
        assert "nested" in response.error["message"]
