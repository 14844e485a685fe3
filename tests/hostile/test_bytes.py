"""What is no HTTP, or two requests in the clothes of one: refused, and nothing hidden in it is served."""

import pytest

from veridical.tests.answers import Say
from veridical.tests.hostile.raw import BODY, exchange, get, post

HIDDEN = b"GET /v1/models/hidden HTTP/1.1\r\nHost: x\r\n\r\n"
CHUNKED = b"Transfer-Encoding: chunked"


@pytest.mark.parametrize(
    "raw",
    {
        "both lengths": post(b"0\r\n\r\n" + HIDDEN, CHUNKED),
        "both, the other way": b"POST /v1/files HTTP/1.1\r\n"
        + CHUNKED
        + b"\r\nContent-Length: 5\r\n\r\n0\r\n\r\n",
        "two lengths": post(BODY, b"Content-Length: 5"),
        "a list of lengths": post(BODY, length=b"5, 5"),
        "a negative length": post(BODY, length=b"-5"),
        "a signed length": post(BODY, length=b"+5"),
        "a length in hex": post(BODY, length=b"0x5"),
        "a length past 64 bits": post(BODY, length=b"9" * 30),
        "two numbers as a length": post(BODY, length=b"5 5"),
        "an unknown coding": post(b"0\r\n\r\n", b"Transfer-Encoding: xchunked", length=b""),
        "chunked is not last": post(b"0\r\n\r\n", b"Transfer-Encoding: chunked, identity", length=b""),
        "two codings": post(b"0\r\n\r\n", CHUNKED, b"Transfer-Encoding: identity", length=b""),
        "a space before the colon": post(b"0\r\n\r\n", b"Transfer-Encoding : chunked", length=b""),
        "a folded header": post(b"0\r\n\r\n", b"X: a\r\n " + CHUNKED, length=b""),
        "a control character": post(b"0\r\n\r\n", b"Transfer-Encoding: \x0bchunked", length=b""),
        "line feeds alone": b"GET /health HTTP/1.1\nHost: x\n\n",
        "a carriage return in a header": get(b"/health", b"X: a\rb: c"),
        "a NUL in a header": get(b"/health", b"X: a\x00b"),
        "a header without a name": get(b"/health", b": x"),
        "a space in a name": get(b"/health", b"x y: z"),
        "a chunk past 64 bits": post(b"f" * 20 + b"\r\nabc", CHUNKED, length=b""),
        "a negative chunk": post(b"-1\r\nabc", CHUNKED, length=b""),
        "chunks by line feeds": post(b"1\n{\n0\n\n", CHUNKED, length=b""),
        "a length among the trailers": post(b"0\r\nContent-Length: 50\r\n\r\n", CHUNKED, length=b""),
        "HTTP/2 at once": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        "a version that there is not": b"GET /health HTTP/3.7\r\n\r\n",
        "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(500),
        "a tunnel": b"CONNECT example.com:443 HTTP/1.1\r\nHost: example.com\r\n\r\n",
        "bytes in a path": get(b"/v1/f\xff"),
        "bytes in a query": get(b"/v1/files?a=\xff"),
    }.items(),
    ids=lambda each: each[0],
)
def test_what_is_no_request_is_refused_and_nothing_behind_it_is_read(proxy, upstream, raw):
    first, *others = exchange(proxy.port, raw[1])
    assert (first.status, first.code) == (400, "invalid_http") or "trailers" in raw[0]
    assert first.status == 400
    assert not others
    assert not upstream.log


def test_requests_in_a_row_are_answered_in_a_row(proxy, upstream):
    upstream.on(draft=Say("hi"))
    raw = post() + post(b"{}") + get() + post(BODY, b"Connection: close")
    assert [said.status for said in exchange(proxy.port, raw)] == [200, 400, 200, 200]
    assert len(upstream.chats) == 2


def test_an_offer_of_another_protocol_is_not_taken(proxy, upstream):
    ask = (b"Connection: Upgrade, close", b"Upgrade: websocket", b"Sec-WebSocket-Version: 13")
    (said,) = exchange(proxy.port, get(b"/health", *ask, b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="))
    assert said.status == 200


@pytest.mark.parametrize(
    "path",
    [
        *(b"/v1/../health", b"/v1/%2e%2e/health", b"/v1/..%2fhealth", b"/v1/%252e%252e%252fhealth"),
        *(b"/v1/a\\..\\b", b"/v1/a//b", b"/v1/./a", b"/v1/files;x=/../y", b"/v1/files%3f@evil.example"),
        *(b"/v1//evil.example/", b"/v1/%68ttp:%2f%2fevil.example", b"/v1/a%00b", b"/v1/a%0d%0ab", b"/v1/%ff"),
        *(b"/v1/chat//completions", b"//evil.example/v1/files"),
    ],
)
def test_a_path_that_would_lead_elsewhere_is_not_passed_on(proxy, upstream, path):
    (said,) = exchange(proxy.port, post(b"{}", b"Connection: close", path=path))
    assert said.status in (400, 404)
    assert not upstream.log


@pytest.mark.parametrize(
    "target",
    [
        b"http://evil.example/v1/files",
        b"/v1/@evil.example/x",
        b"/v1/:80/x",
        b"/v1/files?to=http://evil.example",
    ],
)
def test_a_host_in_a_request_chooses_no_backend(proxy, upstream, target):
    exchange(proxy.port, get(target, b"Connection: close", b"X-Forwarded-Host: evil.example"))
    (came,) = upstream.log
    assert came.target.startswith("/v1/")
    assert came.headers["host"] == upstream.url.removeprefix("http://").removesuffix("/v1")


@pytest.mark.parametrize(
    "header",
    [
        *(b"x-veridical-strategy: cov\xe9", b"x-veridical-strategy: " + b"(" * 900),
        *(b"x-veridical-backend: \xff\xfe", b"Authorization: Bearer \xff", b"Content-Type: \xff"),
        *(
            b"Content-Type: multipart/form-data; boundary=\xff",
            b"Connection: close, content-type, x-veridical-id",
        ),
        *(b"Expect: 100-continue", b"Expect: something", b"Accept-Encoding: \xff", b"Cookie: a=\xff"),
    ],
)
@pytest.mark.parametrize(
    "path", [b"/v1/chat/completions", b"/v1/embeddings", b"/v1/responses"], ids=["chat", "other", "responses"]
)
def test_an_odd_header_breaks_nothing(proxy, upstream, header, path):
    upstream.on(draft=Say("hi"))
    *_, said = exchange(proxy.port, post(BODY, header, b"Connection: close", path=path))
    assert said.status != 500
    assert b"proxy failed" not in said.body
