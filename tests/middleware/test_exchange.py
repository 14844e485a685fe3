"""The lean client over aiohttp's pool, before a server that answers as each test wants."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Awaitable, Callable
from contextlib import suppress

import aiohttp
import pytest

from veridical.middleware.backends.exchange import Exchange, Origin, exchange

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
LIMITS = aiohttp.ClientTimeout(total=None, sock_connect=5, sock_read=5)
#: Called with the number of the connection and of the request on it, its head and a body's reader.
Answer = Callable[[int, int, bytes, asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


class Server:
    """Keeps the heads of the requests and how many connections there were."""

    def __init__(self, answer: Answer) -> None:
        self._answer = answer
        self.heads: list[bytes] = []
        self.connections = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        connection, request = self.connections, 0
        try:
            while not writer.is_closing():
                head = await reader.readuntil(b"\r\n\r\n")
                request += 1
                self.heads.append(head)
                await self._answer(connection, request, head, reader, writer)
        except (asyncio.IncompleteReadError, ConnectionError):
            return
        finally:
            writer.close()
            with suppress(ConnectionError):
                await writer.wait_closed()


async def ok(
    connection: int, request: int, head: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> None:
    length = [line for line in head.split(b"\r\n") if line.startswith(b"Content-Length: ")]
    if length:
        await reader.readexactly(int(length[0].partition(b": ")[2]))
    writer.write(OK)


Ask = Callable[..., Awaitable[Exchange]]


def against(answer: Answer, work: Callable[[Ask, Server], Awaitable[None]], user: str = "") -> Server:
    """Run `work` with a client of a server that answers so."""
    server = Server(answer)

    async def run() -> None:
        listening = await asyncio.start_server(server.serve, "127.0.0.1", 0)
        port = listening.sockets[0].getsockname()[1]
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
            origin = Origin.of(f"http://{user}127.0.0.1:{port}/v1", session)

            async def ask(
                method: str = "POST",
                path: str = "/chat",
                headers: dict[str, str] | None = None,
                body: bytes | None = b"{}",
            ) -> Exchange:
                return await exchange(session, origin, method, path, headers or {}, body, LIMITS)

            await asyncio.wait_for(work(ask, server), 20)
        listening.close()
        await listening.wait_closed()
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)

    asyncio.run(run())
    return server


async def whole(response: Exchange) -> bytes:
    parts = []
    while part := await response.content.readany():
        parts.append(part)
    return b"".join(parts)


def test_requests_share_a_connection_once_an_answer_is_read() -> None:
    async def work(ask: Ask, server: Server) -> None:
        for _ in range(3):
            response = await ask()
            assert (response.status, await whole(response)) == (200, b"ok")
        left = await ask()
        left.close()
        assert await whole(await ask()) == b"ok"

    server = against(ok, work)
    assert len(server.heads) == 5
    assert server.connections <= 2  # the answer that was left may have been whole by then


def test_the_head_is_what_was_asked_for() -> None:
    async def work(ask: Ask, server: Server) -> None:
        await whole(await ask("POST", "/a%2Fb?x=1", {"authorization": "Bearer k", "x-name": "\xe9"}, b"12"))
        await whole(await ask("GET", "/models", {}, None))
        await whole(await ask("DELETE", "/files/1", {}, None))
        await whole(await ask("POST", "/a", {"x-name": "λ"}, b""))

    post, get, delete, greek = against(ok, work).heads
    lines = post.split(b"\r\n")
    assert lines[0] == b"POST /v1/a%2Fb?x=1 HTTP/1.1"
    assert lines[1].startswith(b"Host: 127.0.0.1:")
    assert set(lines[2:5]) == {b"authorization: Bearer k", b"x-name: \xe9", b"Content-Length: 2"}
    assert b"Content-Length" not in get
    assert b"Content-Length: 0" in delete
    assert "x-name: λ".encode() in greek


def test_a_name_and_a_password_in_the_address_are_credentials() -> None:
    async def work(ask: Ask, server: Server) -> None:
        await whole(await ask())
        await whole(await ask(headers={"authorization": "Bearer k"}))

    told, own = against(ok, work, user="me:secret@").heads
    assert b"Authorization: Basic " + base64.b64encode(b"me:secret") in told
    assert (b"Basic" in own, b"Bearer k" in own) == (False, True)


@pytest.mark.parametrize(
    ("path", "headers"),
    [
        ("/a", {"x": "1\r\nEvil: 1"}),
        ("/a", {"x\r\nEvil": "1"}),
        ("/a", {"x": "1\n"}),
        ("/a", {"x": "1\0"}),
        ("/a HTTP/1.1\r\nEvil: 1\r\n", {}),
        ("/a b", {}),
    ],
)
def test_nothing_can_end_its_line(path: str, headers: dict[str, str]) -> None:
    async def work(ask: Ask, server: Server) -> None:
        with pytest.raises(ValueError, match="ends its line"):
            await ask("POST", path, headers)

    assert against(ok, work).heads == []


def test_interim_answers_are_passed_over() -> None:
    async def answer(
        connection: int, request: int, head: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        writer.write(b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n")
        await ok(connection, request, head, reader, writer)

    async def work(ask: Ask, server: Server) -> None:
        response = await ask()
        assert (response.status, await whole(response)) == (200, b"ok")

    against(answer, work)


def test_an_answer_to_head_has_no_body_to_wait_for() -> None:
    async def answer(
        connection: int, request: int, head: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")

    async def work(ask: Ask, server: Server) -> None:
        for _ in range(2):
            response = await ask("HEAD", body=None)
            assert await whole(response) == b""
            assert response.content_length == 1000

    assert against(answer, work).connections == 1


def test_a_connection_whose_request_was_not_read_is_not_used_again() -> None:
    async def answer(
        connection: int, request: int, head: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        if connection == 1:
            writer.write(b"HTTP/1.1 413 Too Large\r\nContent-Length: 3\r\n\r\nbig")
            await writer.drain()
            await asyncio.sleep(10)
        await ok(connection, request, head, reader, writer)

    async def work(ask: Ask, server: Server) -> None:
        refused = await ask(body=b"x" * 50_000_000)
        assert (refused.status, await whole(refused)) == (413, b"big")
        assert await whole(await ask()) == b"ok"

    assert against(answer, work).connections == 2


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_only_what_may_be_repeated_is_asked_again_on_a_dead_connection(method: str) -> None:
    async def answer(
        connection: int, request: int, head: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        if connection == 1 and request == 2:
            writer.close()  # as a server that has just given an idle connection up
            return
        await ok(connection, request, head, reader, writer)

    async def work(ask: Ask, server: Server) -> None:
        body = b"{}" if method == "POST" else None
        await whole(await ask(method, body=body))
        if method == "GET":
            assert await whole(await ask(method, body=body)) == b"ok"
        else:
            with pytest.raises(aiohttp.ClientError):
                await ask(method, body=body)

    assert len(against(answer, work).heads) == (3 if method == "GET" else 2)


def test_what_is_no_http_is_told_as_a_broken_connection() -> None:
    async def answer(
        connection: int, request: int, head: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        writer.write(b"SSH-2.0-OpenSSH\r\n\r\n")

    async def work(ask: Ask, server: Server) -> None:
        with pytest.raises(aiohttp.ClientError):
            await ask()

    against(answer, work)


def test_closing_frees_whoever_still_reads() -> None:
    async def answer(
        connection: int, request: int, head: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\nbegun")
        await writer.drain()
        await asyncio.sleep(10)

    async def work(ask: Ask, server: Server) -> None:
        response = await ask()
        assert await response.content.readany() == b"begun"
        reading = asyncio.create_task(response.content.readany())
        await asyncio.sleep(0)
        response.close()
        with pytest.raises(aiohttp.ClientError):
            await reading

    against(answer, work)
