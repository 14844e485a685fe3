"""Each shape of request: with `direct` the backend's own bytes, with a strategy kept or refused by name."""

import http.client
import json
from urllib.parse import urlsplit

import pytest

from veridical.tests.answers import Say
from veridical.tests.middleware.shapes import SHAPES
from veridical.tests.proxy import CHAT
from veridical.tests.upstream import CANBERRA, SYDNEY

EVERY = pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: shape.name)
STREAMED = pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
#: Ours to answer for; every other field must reach the backend.
HANDLED = {"model", "n", "stream", "stream_options"}


def test_the_corpus_is_large_and_its_names_differ():
    assert len({shape.name for shape in SHAPES}) == len(SHAPES) >= 60


def straight(upstream, body):
    """The upstream's answer without a proxy: status, content type, bytes."""
    place = urlsplit(upstream.url)
    connection = http.client.HTTPConnection(place.hostname, place.port, timeout=20)
    connection.request("POST", CHAT, body, {"Content-Type": "application/json"})
    response = connection.getresponse()
    found = response.status, response.getheader("content-type"), response.read()
    connection.close()
    return found


@EVERY
@STREAMED
def test_direct_gives_and_takes_the_same_bytes(proxy, upstream, shape, stream):
    upstream.on(draft=shape.said)
    fields = {**shape.body, "stream": True} if stream else shape.body
    body = json.dumps(fields, ensure_ascii=len(shape.name) % 2 == 0).encode()
    expected = straight(upstream, body)
    found = proxy.request("POST", CHAT, body)
    assert (found.status, found.headers["content-type"], found.raw) == expected
    assert expected[0] == 200
    assert [exchange.raw for exchange in upstream.chats] == [body, body]


@EVERY
@STREAMED
def test_a_strategy_keeps_it_or_refuses_it_by_name(proxy, upstream, shape, stream):
    upstream.cove("", CANBERRA)
    upstream.on(draft=shape.said)
    response = proxy.chat({**shape.body, "model": "m1+cove", "stream": stream})
    if shape.refused:
        assert (response.status, response.error["param"]) == (400, shape.refused)
        assert not upstream.chats
        return
    assert response.status == 200, response.raw
    drafts = upstream.asked("draft")
    assert len(drafts) == (shape.fields.get("n") or 1)
    kept = {name: value for name, value in shape.body.items() if name not in HANDLED}
    for index, draft in enumerate(drafts):
        seed = {"seed": kept["seed"] + index} if isinstance(kept.get("seed"), int) else {}
        assert {k: v for k, v in draft.body.items() if k not in HANDLED} == {**kept, **seed}
        asked = shape.fields.get("stream_options") or {}
        assert draft.body.get("stream_options") == ({**asked, "include_usage": True} if stream else None)
    if isinstance(shape.said, Say):
        (streamed if stream else whole)(response, shape.said)


def whole(response, said):
    """Everything that the upstream said is in the completion."""
    completion = response.json
    (choice,) = completion["choices"]
    expected = said.completion({"model": "m1"})
    assert choice["message"].items() >= expected["choices"][0]["message"].items()
    assert (choice["finish_reason"], choice["logprobs"]) == (said.finish, said.logprobs)
    assert completion.items() >= dict(said.extra).items()
    assert completion["veridical"]["status"] == "unchanged"


def streamed(response, said):
    """Every delta that the upstream sent is in the stream, in its order."""
    *chunks, done = response.events
    assert done == "[DONE]"
    deltas = [choice for chunk in chunks for choice in chunk["choices"]]
    sent = [dict(piece) for piece in said.pieces()]
    found = [delta["delta"] for delta in deltas if delta["delta"]]
    assert [{**piece, "role": "assistant"} for piece in found] == [
        {**piece, "role": "assistant"} for piece in sent if piece
    ]
    assert [delta["finish_reason"] for delta in deltas if delta["finish_reason"]] == [said.finish]
    assert [delta["logprobs"] for delta in deltas if delta["logprobs"]] == (
        [said.logprobs] if said.logprobs else []
    )
    assert chunks[-1].items() >= dict(said.extra).items()


@pytest.mark.parametrize(
    "shape", [s for s in SHAPES if isinstance(s.said, Say) and s.said.text], ids=lambda shape: shape.name
)
def test_the_final_words_are_asked_for_with_the_same_parameters(proxy, upstream, shape):
    upstream.cove("", SYDNEY, final="Canberra.")
    upstream.on(draft=shape.said)
    assert proxy.chat({**shape.body, "model": "m1+cove(max_passages=1)"}).status == 200
    (final,) = upstream.asked("revise")
    kept = {name: value for name, value in shape.body.items() if name not in {*HANDLED, "messages"}}
    forbidden = {"tool_choice": "none"} if kept.get("tools") else {}
    assert {k: v for k, v in final.body.items() if k not in {*HANDLED, "messages"}} == {**kept, **forbidden}
