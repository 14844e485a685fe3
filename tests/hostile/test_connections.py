"""Clients that send too slowly, too much or not at all, that do not read, or that come in crowds."""

import asyncio
import itertools
import socket
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import pytest

from veridical.tests.answers import Answer, Exchange, Out, Say, sse
from veridical.tests.hostile.raw import (
    BODY,
    chat,
    connect,
    exchange,
    get,
    post,
    responses,
    send,
    until_closed,
)
from veridical.tests.proxy import wait_until

#: A proxy that waits for ever fails by the socket's own 20 s.
SHORT = {"receive_timeout_s": 0.5, "send_timeout_s": 0.5}


@pytest.fixture
def hasty(serve, upstream):
    upstream.on(draft=Say("hi"))
    return serve(server=SHORT)


@pytest.mark.parametrize(
    "begun",
    [
        b"GET /hea",
        b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nX-Slow: ",
        post(BODY[:20], length=b"100"),
        post(b"5\r\nhello", b"Transfer-Encoding: chunked", length=b""),
        post(BODY[:20], length=b"100", path=b"/health"),
        post(BODY[:20], length=b"100", path=b"/v1/embeddings"),
    ],
    ids=["line", "header", "body", "chunks", "unread body", "passed-on body"],
)
def test_a_request_that_does_not_come_is_given_up(hasty, upstream, begun):
    *_, said = exchange(hasty.port, begun)
    assert (said.status, said.code) == (408, "request_timeout")
    assert not upstream.chats


def test_a_request_that_comes_by_drops_is_given_up_all_the_same(hasty):
    """Slow loris: every byte in time, and never whole."""
    drops = itertools.repeat(b"X: y\r\n", 200)
    with connect(hasty.port) as connection, pytest.raises(ConnectionError):
        send(connection, itertools.chain([b"GET /health HTTP/1.1\r\n"], drops), pause=0.05)


@pytest.mark.parametrize("begun", [b"", b"\r\n", b"\r\n\r\n\r\n"])
def test_a_connection_without_a_request_is_closed(hasty, begun):
    assert exchange(hasty.port, begun) == []


def test_a_connection_that_was_used_is_not_held_open_by_empty_lines(hasty):
    with connect(hasty.port) as connection:
        connection.sendall(get())
        assert connection.recv(1000).startswith(b"HTTP/1.1 200")
        connection.sendall(b"\r\n")
        assert until_closed(connection) == b""


def test_a_body_that_keeps_coming_has_its_time(serve, upstream):
    """Half a megabyte at some 100 kB/s takes ten times the time-out."""
    upstream.on(draft=Say("hi"))
    proxy = serve(server=SHORT)
    raw = post(chat(pad="x" * 500_000), b"Connection: close")
    with connect(proxy.port) as connection:
        send(connection, (raw[at : at + 50_000] for at in range(0, len(raw), 50_000)), pause=0.1)
        (said,) = responses(until_closed(connection))
    assert said.status == 200


@pytest.mark.parametrize(
    "request_",
    [
        get(b"/health", b"X: " + b"x" * 70_000),
        get(b"/health", *[b"X%d: y" % number for number in range(9000)]),
        get(b"/" + b"x" * 70_000),
        b"GET /health HTTP/1.1\r\nX: " + b"x" * 400_000,
    ],
    ids=["long header", "many headers", "long path", "half a header"],
)
def test_a_head_that_is_too_large_is_refused(proxy, request_):
    (said,) = exchange(proxy.port, request_)
    assert (said.status, said.code) == (431, "request_header_fields_too_large")


def test_a_head_without_end_is_not_read_to_its_end(proxy):
    endless = itertools.repeat(b"x" * 100_000, 2000)  # 200 MB, if it went on
    with connect(proxy.port) as connection, pytest.raises(ConnectionError):
        send(connection, itertools.chain([b"GET /health HTTP/1.1\r\nX: "], endless))


@dataclass(frozen=True)
class Endless(Answer):
    """A stream that goes on until its reader is gone; counts its bytes."""

    sent: list[int] = field(default_factory=list)

    async def give(self, exchange: Exchange, out: Out) -> None:
        await out.begin()
        part = sse({"choices": [{"index": 0, "delta": {"content": "x" * 10_000}}]})
        while True:
            await out.write(part)
            self.sent.append(len(part))
            await asyncio.sleep(0)


@pytest.mark.parametrize(
    "fields", [{}, {"veridical": {"trace": "summary"}}, {"strategy": "self_consistency(n=1)"}]
)
def test_a_client_that_does_not_read_holds_nothing_for_long(hasty, upstream, fields: dict[str, Any]):
    upstream.on(draft=(endless := Endless()) if "strategy" not in fields else Say("x" * 10_000_000))
    with connect(hasty.port) as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.sendall(post(chat(stream=True, **fields)))
        wait_until(lambda: bool(upstream.chats), 20)
        if "strategy" not in fields:
            assert upstream.chats[0].gone.wait(20)
            assert sum(endless.sent) < 30_000_000  # what sockets hold, not what a proxy might
        wait_until(lambda: _is_broken(connection), 20)


def _is_broken(connection: socket.socket) -> bool:
    """Whether the other side has gone: what it had sent before can still be read."""
    try:
        connection.sendall(b"\r\n")
    except OSError:
        return True
    return False


def test_over_the_bound_a_connection_is_told_so(serve):
    proxy = serve(server={"max_connections": 20})
    with ExitStack() as stack:
        held = [stack.enter_context(connect(proxy.port)) for _ in range(20)]
        for each in held:
            each.sendall(get())
            assert each.recv(1000).startswith(b"HTTP/1.1 200")
        (said,) = exchange(proxy.port)
        assert (said.status, said.code) == (503, "too_many_connections")
        held[0].close()
        wait_until(lambda: exchange(proxy.port, get(b"/health", b"Connection: close"))[0].status == 200, 20)


def test_hundreds_of_idle_connections_are_in_nobodys_way(serve, upstream):
    upstream.on(draft=Say("hi"))
    proxy = serve()
    with ExitStack() as stack:
        for _ in range(800):
            stack.enter_context(connect(proxy.port))
        assert proxy.chat().status == 200
