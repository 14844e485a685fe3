"""Keys on the Responses API and on the paths that are passed through: rights, limits, usage, ownership."""

import json

import pytest

from veridical.tests.access.conftest import bearer
from veridical.tests.access.test_usage import counted
from veridical.tests.answers import Fail, Pieces, Say, Whole
from veridical.tests.proxy import RESPONSES
from veridical.tests.upstream import CANBERRA

USAGE = {"input_tokens": 11, "output_tokens": 5, "total_tokens": 16}
RESPONSE = {"id": "resp_up", "object": "response", "status": "completed", "output": [], "usage": USAGE}
VECTORS = {"object": "list", "data": [], "usage": {"prompt_tokens": 9, "total_tokens": 9}}
FILES = "/v1/files"


def ask(proxy, key, **fields):
    return proxy.request("POST", RESPONSES, {"model": "m1", "input": "hello", **fields}, bearer(key))


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(("model", "calls"), [("m1", 1), ("m1+cove", 4)])
def test_a_translated_response_counts_as_its_calls(guarded, create, upstream, model, calls, stream):
    upstream.cove("The capital is Canberra.", CANBERRA)
    proxy, key = guarded(backend={"responses": False}), create()
    assert ask(proxy, key, model=model, stream=stream).status == 200
    assert counted(proxy, key) == (1, calls, 7 * calls, 3 * calls, 0)


@pytest.mark.parametrize("stream", [False, True])
def test_a_relayed_response_counts_as_the_backend_told(guarded, create, upstream, stream):
    event = {"type": "response.completed", "response": RESPONSE, "sequence_number": 0}
    told = f"event: response.completed\ndata: {json.dumps(event)}\n\n".encode()
    upstream.paths[RESPONSES] = Pieces([told]) if stream else Whole(json.dumps(RESPONSE).encode())
    proxy, key = guarded(), create()
    assert ask(proxy, key, stream=stream).status == 200
    assert counted(proxy, key) == (1, 1, 11, 5, 0)


def test_a_backend_that_has_no_responses_costs_nothing_before_it_is_translated(guarded, create, upstream):
    upstream.paths[RESPONSES] = Fail(404, body=b"{}")
    upstream.on(draft=Say("hi"))
    proxy, key = guarded(), create()
    assert ask(proxy, key).status == 200
    assert counted(proxy, key) == (1, 1, 7, 3, 0)


def test_embeddings_count_as_told_and_files_as_nothing(guarded, create, upstream):
    upstream.paths["/v1/embeddings"] = Whole(json.dumps(VECTORS).encode())
    proxy, key = guarded(), create()
    body = {"model": "m1", "input": "x"}
    assert proxy.request("POST", "/v1/embeddings", body, bearer(key)).status == 200
    assert counted(proxy, key) == (1, 1, 9, 0, 0)
    upstream.paths[FILES] = Whole(b"x" * 10_000, content_type="application/octet-stream")
    other = create(name="bob")
    assert proxy.request("GET", FILES, headers=bearer(other)).status == 200
    assert counted(proxy, other) == (1, 1, 0, 0, 0)


def test_a_key_for_some_models_reaches_nothing_else(guarded, create, upstream):
    upstream.paths |= {"/v1/embeddings": Whole(b"{}"), FILES: Whole(b"{}")}
    proxy, key = guarded(backend={"responses": False}), create(model="m2")
    upstream.on(draft=Say("hi"))
    for path in (RESPONSES, "/v1/embeddings"):
        body = {"model": "m1", "input": "x"}
        assert proxy.request("POST", path, body, bearer(key)).error["code"] == "model_not_found"
        assert proxy.request("POST", path, {**body, "model": "m2"}, bearer(key)).status == 200
    for method, body in (("GET", None), ("DELETE", {"model": "m2"}), ("POST", {})):
        refused = proxy.request(method, FILES, body, bearer(key))
        assert (refused.status, refused.error["code"]) == (403, "not_allowed")
    assert not upstream.at(FILES)


def test_a_key_for_some_strategies_gets_no_bare_model_in_another_way(guarded, create, upstream):
    upstream.paths |= {"/v1/completions": Whole(b"{}"), FILES: Whole(b"{}")}
    proxy, key = guarded(), create(strategy="cove")
    assert ask(proxy, key).error["code"] == "not_allowed"
    body = {"model": "m1", "prompt": "x"}
    assert proxy.request("POST", "/v1/completions", body, bearer(key)).error["code"] == "not_allowed"
    assert proxy.request("GET", FILES, headers=bearer(key)).error["code"] == "not_allowed"
    assert not [each for each in upstream.log if each.path != "/v1/models"]


@pytest.mark.parametrize("path", [RESPONSES, "/v1/embeddings"])
def test_requests_per_minute_hold_everywhere(guarded, create, upstream, path):
    upstream.paths["/v1/embeddings"] = Whole(b"{}")
    upstream.on(draft=Say("hi"))
    proxy, key = guarded(backend={"responses": False}), create(requests_per_minute=1)
    body = {"model": "m1", "input": "x"}
    first = proxy.request("POST", path, body, bearer(key))
    assert (first.status, first.headers["x-ratelimit-remaining-requests"]) == (200, "0")
    second = proxy.request("POST", path, body, bearer(key))
    assert (second.status, second.error["code"]) == (429, "rate_limit_exceeded")


def test_a_response_belongs_to_its_key(guarded, create, upstream):
    upstream.on(draft=Say("hi"))
    proxy, alice, bob = guarded(backend={"responses": False}), create(), create(name="bob")
    made = ask(proxy, alice).json["id"]
    assert proxy.request("GET", f"{RESPONSES}/{made}", headers=bearer(alice)).status == 200
    assert proxy.request("GET", f"{RESPONSES}/{made}", headers=bearer(bob)).status == 404
    assert ask(proxy, bob, previous_response_id=made).error["code"] == "previous_response_not_found"
