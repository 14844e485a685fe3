"""`direct` before a backend that has the Responses API itself: its own bytes, and how that is known."""

import json

import openai
import pytest

from veridical.tests.answers import Cut, Fail, Pieces, Say, Whole
from veridical.tests.proxy import RESPONSES
from veridical.tests.upstream import SYDNEY

# White space and a duplicate key: what a parser would not give back as it was.
ODD = (
    b'{"id": "resp_up",\n "object":"response", "novel": 1.50, "novel": 2, "output": [], "status":"completed"}'
)


def frames(*kinds):
    events = [
        {"type": kind, "response": json.loads(ODD), "sequence_number": i} for i, kind in enumerate(kinds)
    ]
    return [f"event: {event['type']}\ndata: {json.dumps(event)}\n\n".encode() for event in events]


WIRE = frames("response.created", "response.in_progress", "response.completed")


def post(proxy, **fields):
    return proxy.request("POST", RESPONSES, {"model": "m1", "input": "hi", **fields})


@pytest.mark.parametrize("setting", [{}, {"responses": True}])
def test_the_backends_own_bytes_both_ways(serve, upstream, setting):
    proxy = serve(backend=setting)
    upstream.paths[RESPONSES] = Whole(ODD, headers={"X-Request-Id": "abc"})
    raw = b'{ "model":"m1", "input":"hi", "tools":[{"type":"web_search"}], "novel": 1.50, "novel": 2 }'
    for _ in range(2):
        response = proxy.request("POST", RESPONSES, raw)
        assert (response.status, response.raw) == (200, ODD)
        assert response.headers["x-request-id"] == "abc"
        assert response.headers["x-veridical-backend"] == "up"
    assert [exchange.raw for exchange in upstream.at(RESPONSES)] == [raw, raw]
    assert not upstream.chats


def test_a_stream_comes_back_byte_for_byte(serve, upstream):
    wire = b"".join(WIRE)
    upstream.paths[RESPONSES] = Pieces([wire[i : i + 7] for i in range(0, len(wire), 7)])
    assert post(serve(), stream=True).raw == wire


@pytest.mark.parametrize(
    "parts", [WIRE[:2], [*WIRE[:2], Cut()], [*WIRE[:2], WIRE[2][:40], Cut()], [WIRE[0], 0.01]]
)
def test_a_stream_that_breaks_ends_in_an_error_event(serve, upstream, parts):
    proxy = serve()
    upstream.paths[RESPONSES] = Pieces(parts)
    assert post(proxy, stream=True).events[-1]["error"]["code"] == "backend_failed"
    with pytest.raises(openai.APIError) as caught:
        list(proxy.client.responses.create(model="m1", input="hi", stream=True))
    assert caught.value.code == "backend_failed"


def test_a_very_long_last_event_is_an_end_all_the_same(serve, upstream):
    last = WIRE[2].replace(b'"output": []', b'"output": ["' + b"x" * 300_000 + b'"]')
    upstream.paths[RESPONSES] = Pieces([*WIRE[:2], last[:100_000], last[100_000:]])
    assert post(serve(), stream=True).raw == b"".join([*WIRE[:2], last])


def test_only_our_names_and_fields_are_changed(serve, upstream):
    proxy = serve(backend={"models": {"mine": "m1"}})
    upstream.paths[RESPONSES] = Whole(ODD)
    assert post(proxy, model="mine+direct", veridical={"trace": "none"}, input=[1]).raw == ODD
    assert upstream.at(RESPONSES)[0].body == {"model": "m1", "input": [1]}


def test_with_a_strategy_it_is_translated(serve, upstream):
    proxy = serve(backend={"responses": True})
    upstream.cove("The capital of Australia is Sydney.", SYDNEY, final="Canberra.")
    assert proxy.client.responses.create(model="m1+cove", input="Capital?").output_text == "Canberra."
    assert not upstream.at(RESPONSES)


def test_a_conversation_begun_with_a_strategy_goes_on_here(serve, upstream):
    proxy = serve(backend={"responses": True})
    upstream.cove("The capital of Australia is Sydney.", SYDNEY, final="Canberra.")
    first = proxy.client.responses.create(model="m1+cove", input="Capital?")
    upstream.on(draft=Say("Yes."))
    second = proxy.client.responses.create(model="m1", input="Sure?", previous_response_id=first.id)
    assert second.output_text == "Yes."
    upstream.paths[RESPONSES] = Whole(ODD)
    assert post(proxy, previous_response_id="resp_up").raw == ODD


@pytest.mark.parametrize(
    "refusal",
    [
        *(Fail(404), Fail(405, body=b"{}"), Fail(404, body=b'{"detail":"Not Found"}')),
        Fail(404, body=b'{"error": {"message": "Not Found", "code": {"is": "odd"}}}'),
    ],
)
def test_a_backend_without_the_api_is_asked_for_it_once(serve, upstream, refusal):
    if not refusal.body:
        refusal = Fail(404, body=b'{"error": {"message": "File Not Found", "code": 404}}')
    proxy = serve()
    upstream.paths[RESPONSES] = refusal
    upstream.on(draft=Say("hi"))
    for _ in range(2):
        assert proxy.client.responses.create(model="m1", input="hi").output_text == "hi"
    assert len(upstream.at(RESPONSES)) == 1


def test_a_404_about_something_else_is_passed_on(serve, upstream):
    proxy = serve()
    upstream.paths[RESPONSES] = Fail(404, "no such model")  # it names `model`
    for _ in range(2):
        response = post(proxy)
        assert (response.status, response.error["message"]) == (404, "no such model")
    assert len(upstream.at(RESPONSES)) == 2


def test_a_backend_that_fails_is_not_taken_for_one_without_the_api(serve, upstream):
    proxy = serve()
    upstream.paths[RESPONSES] = Fail(503, "busy")
    assert post(proxy).status == 503
    upstream.paths[RESPONSES] = Whole(ODD)
    assert post(proxy).raw == ODD


def test_a_setting_keeps_the_backend_from_being_asked(serve, upstream):
    proxy = serve(backend={"responses": False})
    upstream.paths[RESPONSES] = Whole(ODD)
    upstream.on(draft=Say("hi"))
    assert proxy.client.responses.create(model="m1", input="hi").output_text == "hi"
    assert not upstream.at(RESPONSES)


@pytest.mark.parametrize(("method", "rest"), [("GET", ""), ("DELETE", ""), ("GET", "/input_items?limit=3")])
def test_a_backends_own_response_is_asked_of_the_backend(serve, upstream, method, rest):
    path = f"{RESPONSES}/resp_up{rest}"
    upstream.paths[path.partition("?")[0]] = Whole(ODD)
    assert serve().request(method, path).raw == ODD
    assert (upstream.log[-1].method, upstream.log[-1].target) == (method, path)
