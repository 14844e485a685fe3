"""Every other path under /v1 goes to a configured backend, as bytes, and nowhere else."""

import gzip
import http.client
import json
import socket

import pytest

from veridical.tests.answers import Cut, Fail, Pieces, Say, Whole, sse

BINARY = bytes(range(256)) * 400
VECTORS = b'{"object":"list", "data":[{"embedding":[0.10, 1e-3]}], "usage":{"prompt_tokens":1}}'
BOUNDARY = "x.Y'z"


def form(model="m1", *, quoted=True, first=True):
    """A multipart body with a file whose bytes hold all that could mislead a reader."""
    name = f'Content-Disposition: form-data; name="model"\r\n\r\n{model}\r\n'
    trap = b'\r\n--x.Y\r\nContent-Disposition: form-data; name="model"\r\n\r\nno\r\n'
    file = b'Content-Disposition: form-data; name="file"; filename="model"\r\n\r\n' + trap + BINARY + b"\r\n"
    parts = [name.encode(), file] if first else [file, name.encode()]
    mark = b"--" + BOUNDARY.encode()
    raw = b"".join(mark + b"\r\n" + part for part in parts) + mark + b"--\r\n"
    boundary = f'"{BOUNDARY}"' if quoted else BOUNDARY
    return raw, {"Content-Type": f"multipart/form-data; boundary={boundary}"}


@pytest.mark.parametrize("path", ["/v1/embeddings", "/v1/completions", "/v1/moderations", "/v1/rerank"])
def test_json_goes_and_comes_byte_for_byte(proxy, upstream, path):
    upstream.paths[path] = Whole(VECTORS, headers={"X-Request-Id": "abc", "Set-Cookie": "a=b"})
    raw = b'{ "model":"m1", "input":["\\u00e9"], "novel": 1.50, "novel": 2 }'
    response = proxy.request("POST", path, raw)
    assert (response.status, response.raw) == (200, VECTORS)
    assert response.headers["x-request-id"] == "abc"
    assert response.headers["x-veridical-backend"] == "up"
    assert "set-cookie" not in response.headers
    assert upstream.log[-1].raw == raw


def test_the_sdk_gets_embeddings_and_completions(proxy, upstream):
    upstream.paths["/v1/embeddings"] = Whole(VECTORS)
    made = proxy.client.embeddings.create(model="m1", input="x", encoding_format="float")
    assert made.data[0].embedding == [0.1, 0.001]
    chunk = {"choices": [{"index": 0, "text": "hi", "finish_reason": "stop"}]}
    upstream.paths["/v1/completions"] = Pieces([sse(chunk), b"data: [DONE]\n\n"])
    stream = proxy.client.completions.create(model="m1", prompt="x", stream=True)
    assert [each.choices[0].text for each in stream] == ["hi"]


@pytest.mark.parametrize("parts", [[sse({"choices": []}), Cut()], [b'data: {"choi', Cut()]])
def test_a_completion_stream_that_breaks_ends_in_an_error_event(proxy, upstream, parts):
    upstream.paths["/v1/completions"] = Pieces(parts)
    response = proxy.request("POST", "/v1/completions", {"model": "m1", "prompt": "x", "stream": True})
    assert response.events[-1]["error"]["code"] == "backend_failed"


def test_another_stream_that_breaks_breaks_the_connection(proxy, upstream):
    upstream.paths["/v1/audio/speech"] = Pieces([b"data: {}\n\n", Cut()])
    with pytest.raises(http.client.IncompleteRead):
        proxy.request("POST", "/v1/audio/speech", {"model": "m1"})


@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize("quoted", [True, False])
def test_a_multipart_form_finds_its_backend_and_stays_as_it_is(proxy, upstream, first, quoted):
    upstream.paths["/v1/audio/transcriptions"] = Whole(b"WEBVTT", content_type="text/vtt")
    raw, headers = form(first=first, quoted=quoted)
    response = proxy.request("POST", "/v1/audio/transcriptions", raw, headers)
    assert (response.raw, response.headers["content-type"]) == (b"WEBVTT", "text/vtt")
    assert upstream.log[-1].raw == raw
    assert upstream.log[-1].headers["content-type"] == headers["Content-Type"]


@pytest.mark.parametrize("first", [True, False])
def test_an_alias_is_changed_in_json_and_in_a_form(serve, upstream, first):
    proxy = serve(backend={"models": {"mine": "whisper-žluť"}})
    upstream.paths["/v1/audio/transcriptions"] = upstream.paths["/v1/embeddings"] = Whole(b"{}")
    raw, headers = form("mine", first=first)
    assert proxy.request("POST", "/v1/audio/transcriptions", raw, headers).status == 200
    assert upstream.log[-1].raw == form("whisper-žluť", first=first)[0]
    assert proxy.request("POST", "/v1/embeddings", {"model": "mine", "input": "x"}).status == 200
    assert upstream.log[-1].body == {"model": "whisper-žluť", "input": "x"}


def test_the_sdk_sends_audio_and_gets_it(proxy, upstream):
    upstream.paths["/v1/audio/transcriptions"] = Whole(b'{"text": "hi"}')
    upstream.paths["/v1/audio/speech"] = Whole(BINARY, content_type="audio/mpeg")
    said = proxy.client.audio.transcriptions.create(model="m1", file=("a.wav", BINARY))
    assert said.text == "hi"
    assert BINARY in upstream.log[-1].raw
    assert proxy.client.audio.speech.create(model="m1", input="hi", voice="alloy").content == BINARY


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"])
def test_any_method_and_query_without_a_model_goes_to_the_first_backend(proxy, upstream, method):
    upstream.paths["/v1/files/f 1"] = Whole(BINARY, content_type="application/octet-stream")
    response = proxy.request(method, "/v1/files/f%201?after=a%2Fb&limit=2")
    assert response.raw == BINARY
    assert (upstream.log[-1].method, upstream.log[-1].target) == (
        method,
        "/v1/files/f%201?after=a%2Fb&limit=2",
    )


def test_head_has_headers_only(proxy, upstream):
    upstream.paths["/v1/files/f1"] = Whole(b"abc")
    response = proxy.request("HEAD", "/v1/files/f1")
    assert (response.status, response.raw, response.headers["content-length"]) == (200, b"", "3")


def test_a_backend_is_chosen_by_model_or_by_header(serve, upstream):
    up = {"type": "http", "base_url": upstream.url, "models": ["m1"]}
    down = {"type": "http", "base_url": "http://127.0.0.1:9", "models": ["m2"]}
    proxy = serve(backends={"up": up, "down": down})
    upstream.paths["/v1/embeddings"] = upstream.paths["/v1/files"] = Whole(b"{}")
    assert proxy.request("POST", "/v1/embeddings", {"model": "m1"}).status == 200
    response = proxy.request("POST", "/v1/embeddings", {"model": "m2"})
    assert (response.status, response.error["code"]) == (502, "backend_unreachable")
    assert proxy.request("GET", "/v1/files").status == 200
    assert proxy.request("GET", "/v1/files", headers={"X-Veridical-Backend": "down"}).status == 502
    response = proxy.request("GET", "/v1/files", headers={"X-Veridical-Backend": "http://evil.test"})
    assert (response.status, response.error["param"]) == (404, "x-veridical-backend")


def test_an_unknown_model_is_not_found(proxy, upstream):
    response = proxy.request("POST", "/v1/embeddings", {"model": "m11", "input": "x"})
    assert (response.status, response.error["code"]) == (404, "model_not_found")


@pytest.mark.parametrize(
    ("path", "fields", "headers", "param"),
    [
        ("/v1/embeddings", {"model": "m1+cove"}, {}, "model"),
        ("/v1/images/generations", {"model": "m1+cove"}, {}, "model"),
        ("/v1/completions", {"model": "m1", "strategy": "cove"}, {}, "strategy"),
        ("/v1/completions", {"model": "m1", "veridical": {"strategy": "cove"}}, {}, "veridical.strategy"),
        ("/v1/rerank", {"model": "m1"}, {"X-Veridical-Strategy": "cove"}, "x-veridical-strategy"),
    ],
)
def test_a_strategy_is_refused_where_it_cannot_work(proxy, upstream, path, fields, headers, param):
    upstream.paths[path] = Whole(b"{}")
    response = proxy.request("POST", path, fields, headers)
    assert (response.status, response.error["param"]) == (400, param)
    assert not upstream.at(path)


def test_direct_is_no_strategy_and_anothers_field_is_not_ours(proxy, upstream):
    upstream.paths["/v1/completions"] = upstream.paths["/v1/vector_stores"] = Whole(b"{}")
    assert (
        proxy.request("POST", "/v1/completions", {"model": "m1+direct", "strategy": "direct"}).status == 200
    )
    assert upstream.log[-1].body == {"model": "m1"}
    raw = b'{"strategy": {"type": "auto"} }'
    assert proxy.request("POST", "/v1/vector_stores", raw).status == 200
    assert upstream.log[-1].raw == raw


def test_headers_of_one_hop_stay_here_in_both_directions(proxy, upstream):
    hops = {"Connection": "X-Secret, close", "X-Secret": "1", "Keep-Alive": "timeout=5", "X-Kept": "2"}
    upstream.paths["/v1/files"] = Whole(b"{}", headers=hops)
    response = proxy.request("GET", "/v1/files", headers={**hops, "Connection": "X-Secret"})
    assert response.headers["x-kept"] == upstream.log[-1].headers["x-kept"] == "2"
    assert not response.headers.keys() & {"x-secret", "keep-alive"}
    assert not upstream.log[-1].headers.keys() & {"x-secret", "keep-alive"}


def test_a_compressed_answer_is_passed_on_plain(proxy, upstream):
    packed = Whole(gzip.compress(BINARY), headers={"Content-Encoding": "gzip"})
    upstream.paths["/v1/files/f1/content"] = packed
    assert proxy.request("GET", "/v1/files/f1/content").raw == BINARY


def test_a_redirect_is_passed_on_and_not_followed(proxy, upstream):
    upstream.paths["/v1/files"] = Fail(302, headers={"Location": "http://127.0.0.1:9/"})
    response = proxy.request("GET", "/v1/files")
    assert (response.status, response.headers["location"]) == (302, "http://127.0.0.1:9/")


def test_a_refusal_is_passed_on_without_our_key(serve, upstream, monkeypatch):
    monkeypatch.setenv("KEY_OF_UPSTREAM", "sk-secret-of-the-server")
    proxy = serve(backend={"api_key_env": "KEY_OF_UPSTREAM"})
    upstream.paths["/v1/files"] = Fail(403, "sk-secret-of-the-server may not")
    response = proxy.request("GET", "/v1/files")
    assert (response.status, response.error["message"]) == (403, "[key] may not")
    assert upstream.log[-1].headers["authorization"] == "Bearer sk-secret-of-the-server"


TRICKS = [
    "/v1/../admin",
    "/v1/files/../../admin",
    "/v1/files/..",
    "/v1/./files",
    "/v1/%2e%2e/admin",
    "/v1/%2E%2e%2fadmin",
    "/v1/files%2f..%2f..%2fadmin",
    "/v1/%252e%252e/admin",
    "/v1/%25252e%25252e/admin",
    "/v1/..%5cadmin",
    "/v1/..\\admin",
    "/v1//evil.test/x",
    "/v1/%2f/evil.test/x",
    "/v1/http://evil.test/x",
    "/v1/files%00",
    "/v1/files%0d%0aHost:evil",
    "/v1/files%3f/..",
    "/v1/%ff%fe",
    "/v1/%c0%ae%c0%ae/admin",
    "/v1/%2525252525252e/admin",
    "/%76%31/files",
]


def raw_status(proxy, target):
    """The status of a request whose target goes out exactly so."""
    with socket.create_connection(("127.0.0.1", proxy.port), timeout=10) as connection:
        head = f"GET {target} HTTP/1.1\r\nHost: evil.test\r\nConnection: close\r\n\r\n"
        connection.sendall(head.encode())
        return int(connection.makefile("rb").readline().split()[1])


@pytest.mark.parametrize("target", TRICKS)
def test_a_path_cannot_leave_the_api_root(proxy, upstream, target):
    assert raw_status(proxy, target) in (400, 404)
    assert not upstream.log


@pytest.mark.parametrize("target", ["//evil.test/v1/files", "http://evil.test/v1/files", "evil.test:80"])
def test_no_target_names_another_host(proxy, upstream, target):
    upstream.paths["/v1/files"] = Whole(b"{}")
    assert raw_status(proxy, target) in (200, 400, 404)
    assert [exchange.target for exchange in upstream.log] in ([], ["/v1/files"])


def test_a_name_with_a_quoted_slash_is_a_path_like_any(proxy, upstream):
    upstream.paths["/v1/fine_tuning/org/model"] = Whole(b"{}")
    assert raw_status(proxy, "/v1/fine_tuning/org%2Fmodel") == 200
    assert upstream.log[-1].target == "/v1/fine_tuning/org%2Fmodel"


def test_the_configuration_names_what_may_pass(serve, upstream):
    proxy = serve(passthrough=["embeddings", "audio/*"])
    upstream.paths |= dict.fromkeys(("/v1/embeddings", "/v1/audio/speech", "/v1/files"), Whole(b"{}"))
    assert proxy.request("POST", "/v1/embeddings", {"model": "m1"}).status == 200
    assert proxy.request("POST", "/v1/audio/speech", {"model": "m1"}).status == 200
    response = proxy.request("GET", "/v1/files")
    assert (response.status, response.error["code"]) == (404, "path_not_found")
    assert proxy.request("GET", "/v1/files/audio/x").status == 404


@pytest.mark.parametrize("path", ["/v1/chat/completions/", "/v1/responses/"])
def test_what_is_ours_is_not_passed_on_under_another_spelling(proxy, upstream, path):
    upstream.paths[path] = Whole(b"{}")
    response = proxy.request("POST", path, {"model": "m1"})
    assert (response.status, response.error["code"]) == (404, "path_not_found")
    assert not upstream.log


def test_client_keys_guard_these_paths_too(serve, upstream, monkeypatch):
    monkeypatch.setenv("A_CLIENT_KEY", "sk-client")
    proxy = serve(auth={"client_keys_env": ["A_CLIENT_KEY"]})
    upstream.paths["/v1/files"] = Whole(b"{}")
    assert proxy.request("GET", "/v1/files").status == 401
    assert proxy.request("GET", "/v1/files", headers={"Authorization": "Bearer sk-client"}).status == 200
    assert "authorization" not in upstream.log[-1].headers


def test_a_body_over_the_limit_is_refused(serve, upstream):
    proxy = serve(server={"max_body_bytes": 1000})
    assert proxy.request("POST", "/v1/files", b"x" * 1001).status == 413
    assert not upstream.log


def test_a_backend_that_is_no_http_server_has_no_other_paths(serve):
    chain = {
        "type": "langchain",
        "model_class": "langchain_core.language_models.fake_chat_models:FakeListChatModel",
        "kwargs": {"responses": ["Polly"]},
        "models": ["parrot"],
    }
    proxy = serve(backends={"chain": chain})
    response = proxy.request("POST", "/v1/embeddings", {"model": "parrot", "input": "x"})
    assert (response.status, response.error["code"]) == (404, "path_not_found")
    made = proxy.client.responses.create(model="parrot", input="Polly")
    assert made.output_text == "Polly"


def test_a_client_that_leaves_takes_the_backends_call_with_it(proxy, upstream):
    upstream.paths["/v1/images/generations"] = Say("late", delay=20)
    body = json.dumps({"model": "m1"})
    with socket.create_connection(("127.0.0.1", proxy.port), timeout=10) as connection:
        head = f"POST /v1/images/generations HTTP/1.1\r\nHost: p\r\nContent-Length: {len(body)}\r\n\r\n"
        connection.sendall((head + body).encode())
        while not upstream.at("/v1/images/generations"):
            pass
    assert upstream.log[-1].gone.wait(3)
