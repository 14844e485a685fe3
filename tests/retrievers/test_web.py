"""Against loopback servers that answer as SearxNG's JSON format and Tavily's search API do."""

import asyncio
import time
from collections.abc import Callable
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from pydantic import ValidationError

from veridical.retrievers.errors import (
    RetrieverBroken,
    RetrieverError,
    RetrieverMisconfigured,
    RetrieverRateLimited,
    RetrieverTimeout,
    RetrieverUnavailable,
)
from veridical.retrievers.web import WebRetriever

RESULTS = [
    {
        "url": "https://a.example/1",
        "title": "First",
        "content": "The first text.",
        "engine": "e",
        "score": 2.5,
        "category": "general",
    },
    {"url": "https://b.example/2", "title": "Second", "content": "The second text."},
    {"url": "https://a.example/1", "title": "Again", "content": "The first page again."},
    {"url": "javascript:alert(1)", "title": "Bad", "content": "No page."},
    {"url": "https://c.example/3", "title": "Empty", "content": " "},
    {"url": "https://d.example/4", "title": None, "content": "x" * 5000},
]


class Server:
    """Remembers requests; answers with the results, or with what `override` makes."""

    def __init__(self, override: Callable[[web.Request], web.StreamResponse | None] = lambda _: None) -> None:
        self.override = override
        self.requests: list[web.Request] = []
        self.bodies: list[Any] = []

    async def __call__(self, request: web.Request) -> web.StreamResponse:
        self.requests.append(request)
        self.bodies.append(await request.json() if request.method == "POST" else None)
        query = self.bodies[-1]["query"] if request.method == "POST" else request.query.get("q")
        return self.override(request) or web.json_response({"query": query, "results": RESULTS})


def test_searxng_is_asked_for_json_and_each_address_is_given_once(serve: Any) -> None:
    server = Server()
    docs = WebRetriever(
        url=serve(server) + "/search", language="de", options={"engines": "wikipedia"}
    ).invoke("a b")
    assert dict(server.requests[0].query) == {
        "q": "a b",
        "format": "json",
        "language": "de",
        "safesearch": "1",
        "engines": "wikipedia",
    }
    assert [doc.metadata["url"] for doc in docs] == [
        "https://a.example/1",
        "https://b.example/2",
        "https://d.example/4",
    ]
    assert docs[0].page_content == "The first text."
    assert docs[0].metadata == {
        "source": "https://a.example/1",
        "title": "First",
        "url": "https://a.example/1",
        "score": 2.5,
        "retriever": "web",
    }
    assert docs[1].metadata["score"] is None
    assert (docs[2].metadata["title"], len(docs[2].page_content)) == ("", 2000)


def test_tavily_gets_a_body_and_a_key(serve: Any) -> None:
    server = Server()
    retriever = WebRetriever(
        url=serve(server) + "/search", api="tavily", api_key="s3cret", options={"search_depth": "basic"}
    )
    assert len(retriever.invoke("a b", k=2)) == 2
    assert server.bodies == [{"query": "a b", "max_results": 2, "search_depth": "basic"}]
    assert server.requests[0].headers["Authorization"] == "Bearer s3cret"
    assert "s3cret" not in repr(retriever) + retriever.identity


def test_a_session_of_the_caller_is_used_and_stays_open(serve: Any) -> None:
    server = Server()
    url = serve(server)

    async def ask() -> bool:
        async with aiohttp.ClientSession(headers={"X-Mine": "1"}) as session:
            retriever = WebRetriever(url=url, session=session)
            await retriever.ainvoke("a")
            await retriever.aclose()
            return session.closed

    assert asyncio.run(ask()) is False
    assert server.requests[0].headers["X-Mine"] == "1"


def test_one_retriever_serves_one_event_loop_after_another(serve: Any) -> None:
    retriever = WebRetriever(url=serve(Server()))

    async def ask() -> int:
        try:
            return len(await retriever.ainvoke("a"))
        finally:
            await retriever.aclose()

    assert [asyncio.run(ask()), asyncio.run(ask()), len(retriever.invoke("a"))] == [3, 3, 3]


def test_a_sync_call_in_async_code_is_told_what_to_do(serve: Any) -> None:
    retriever = WebRetriever(url=serve(Server()))

    async def wrong() -> None:
        retriever.invoke("a")

    with pytest.raises(RetrieverMisconfigured, match="ainvoke"):
        asyncio.run(wrong())


def test_an_empty_query_asks_nobody(serve: Any) -> None:
    server = Server()
    assert WebRetriever(url=serve(server)).invoke("  ") == []
    assert server.requests == []


def answering(**kwargs: Any) -> Callable[[web.Request], web.Response]:
    return lambda _: web.Response(**kwargs)


@pytest.mark.parametrize(
    ("override", "error", "message"),
    [
        (
            answering(status=403, text="<html>"),
            RetrieverUnavailable,
            "must have json among its search formats",
        ),
        (answering(status=500, text="oops"), RetrieverUnavailable, "HTTP 500"),
        (answering(status=429), RetrieverRateLimited, "HTTP 429"),
        (answering(text="<html>", content_type="text/html"), RetrieverBroken, "no JSON but text/html"),
        (answering(text="null"), RetrieverBroken, "no results"),
        (answering(text='{"results": "none"}'), RetrieverBroken, "no results"),
        (answering(text='{"results": [1]}'), RetrieverBroken, "no results"),
        (answering(text=" " * 5_000_000), RetrieverBroken, "more than 4,194,304 bytes"),
        (answering(status=302, headers={"Location": "/again"}), RetrieverBroken, "broke off"),
    ],
)
def test_what_is_no_answer_is_an_error(
    serve: Any, override: Any, error: type[RetrieverError], message: str
) -> None:
    with pytest.raises(error, match=message):
        WebRetriever(url=serve(Server(override)) + "/search", retries=0).invoke("a")


def test_a_short_pause_is_kept_and_the_search_made_again(serve: Any) -> None:
    server = Server()
    server.override = lambda _: (
        web.Response(status=429, headers={"Retry-After": "0"}) if len(server.requests) == 1 else None
    )
    assert len(WebRetriever(url=serve(server)).invoke("a")) == 3


def test_no_server_is_an_error() -> None:
    with pytest.raises(RetrieverUnavailable, match="cannot be reached"):
        WebRetriever(url="http://127.0.0.1:9/search").invoke("a")


async def broken_off(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse(headers={"Content-Length": "1000"})
    await response.prepare(request)
    await response.write(b'{"results": ')
    assert request.transport
    request.transport.close()
    return response


def test_a_body_that_breaks_off_is_an_error(serve: Any) -> None:
    with pytest.raises(RetrieverBroken, match="broke off"):
        WebRetriever(url=serve(broken_off)).invoke("a")


async def drip(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse()
    await response.prepare(request)
    try:
        for _ in range(100):
            await response.write(b" ")
            await asyncio.sleep(0.05)
    except (ConnectionError, asyncio.CancelledError):
        pass
    return response


def test_a_dripping_server_is_given_up_in_time(serve: Any) -> None:
    start = time.perf_counter()
    with pytest.raises(RetrieverTimeout):
        WebRetriever(url=serve(drip), timeout=0.3).invoke("a")
    assert time.perf_counter() - start < 1.5


@pytest.mark.parametrize(
    "settings", [{"url": "file:///etc/passwd"}, {"url": ""}, {"url": "http://x", "api": "bing"}]
)
def test_impossible_settings_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        WebRetriever(**settings)
