"""The app that is made behind the start: by the first who needs it, once, and without holding up a relay."""

from __future__ import annotations

import asyncio
import logging
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from veridical import server
from veridical.middleware import deferring
from veridical.middleware.deferring import Deferred
from veridical.middleware.lifespan import Lifespan
from veridical.tests.proxy import CHAT, wait_until
from veridical.tests.upstream import Fact, Say

ASKED = {"model": "m1", "messages": [{"role": "user", "content": "Which river?"}]}


class Making:
    """The making of the inner app, under a test's control."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.count, self.allowed, self.error = 0, threading.Event(), None
        self._make = server._inside
        monkeypatch.setattr(server, "_inside", self)

    def __call__(self, assembly: Any) -> Any:
        self.count += 1
        assert self.allowed.wait(20)
        if self.error is not None:
            raise self.error
        return self._make(assembly)


@pytest.fixture
def making(monkeypatch):
    monkeypatch.setattr(deferring, "QUIET_S", 3600.0)
    found = Making(monkeypatch)
    yield found
    found.allowed.set()


def test_first_requests_at_once_wait_for_one_making_and_relays_wait_for_none(serve, upstream, making):
    upstream.cove("The Nile.", Fact("It is the Nile.", "Which is it?", "The Nile."), final="The Nile.")
    upstream.on(direct=Say("The Nile."))
    proxy = serve()
    assert proxy.request("POST", CHAT, ASKED).status == 200
    assert making.count == 0
    with ThreadPoolExecutor(4) as clients:
        waiting = [clients.submit(proxy.request, "GET", path) for path in ("/health", "/ready", "/v1/models")]
        waiting.append(clients.submit(proxy.request, "POST", CHAT, {**ASKED, "model": "m1+cove"}))
        wait_until(lambda: making.count)
        assert proxy.request("POST", CHAT, ASKED).status == 200
        assert not any(each.done() for each in waiting)
        making.allowed.set()
        assert [each.result().status for each in waiting] == [200] * 4
    assert making.count == 1


def test_what_cannot_be_made_is_a_fault_of_ours_until_it_can(serve, upstream, making, caplog):
    making.error = RuntimeError("sk-a-secret")
    making.allowed.set()
    proxy = serve()
    for answer in (
        proxy.request("GET", "/v1/models"),
        proxy.request("POST", CHAT, {**ASKED, "model": "m1+self_refine"}),
    ):
        assert answer.status == 500
        assert answer.error["code"] == "internal_error"
        assert answer.headers["x-veridical-id"]
    assert caplog.text.count("unexpected RuntimeError at") == making.count == 2
    assert "sk-a-secret" not in caplog.text
    making.error = None
    assert proxy.request("GET", "/v1/models").status == 200


def test_it_is_made_unasked_when_the_start_is_over(serve, making, monkeypatch, caplog):
    monkeypatch.setattr(deferring, "QUIET_S", 0.0)
    making.error = RuntimeError("sk-a-secret")
    making.allowed.set()
    with caplog.at_level(logging.ERROR):
        proxy = serve()
        wait_until(lambda: "unexpected RuntimeError at" in caplog.text)
    assert "sk-a-secret" not in caplog.text
    making.error = None
    assert proxy.request("GET", "/health").status == 200
    assert making.count == 2


async def _nobody() -> Any:
    raise AssertionError("nothing is received")


def test_who_leaves_does_not_take_the_making_from_the_others():
    allowed = threading.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send("served")

    def make() -> Any:
        assert allowed.wait(20)
        return app

    async def main() -> list[Any]:
        sent: list[Any] = []

        async def send(message: Any) -> None:
            sent.append(message)

        deferred = Deferred(make)
        leaving, staying = (
            asyncio.ensure_future(deferred({"type": "http"}, _nobody, send)) for _ in range(2)
        )
        await asyncio.sleep(0)
        leaving.cancel()
        await asyncio.wait([leaving])
        allowed.set()
        await staying
        return sent

    assert asyncio.run(main()) == ["served"]


class Opened:
    """What a lifespan opens; may fail at either end."""

    def __init__(self, at_start: Exception | None = None, at_end: Exception | None = None) -> None:
        self.at_start, self.at_end, self.steps = at_start, at_end, []

    async def __aenter__(self) -> None:
        self.steps.append("opened")
        if self.at_start:
            raise self.at_start

    async def __aexit__(self, *_: object) -> None:
        self.steps.append("closed")
        if self.at_end:
            raise self.at_end


async def _lived(opened: Opened) -> list[str]:
    """The messages of a server's life."""
    sent: list[str] = []

    async def receive() -> Any:
        return {}

    async def send(message: Any) -> None:
        sent.append(message["type"])
        opened.steps.append(message["type"])

    lifespan = Lifespan(None, lambda: opened)  # type: ignore[arg-type, return-value]
    try:
        await lifespan({"type": "lifespan"}, receive, send)
    except OSError:
        sent.append("raised")
    return sent


def test_what_a_server_opens_is_open_before_it_listens_and_closed_before_it_ends():
    opened = Opened()
    asyncio.run(_lived(opened))
    assert opened.steps == ["opened", "lifespan.startup.complete", "closed", "lifespan.shutdown.complete"]


@pytest.mark.parametrize(
    ("opened", "told"),
    [
        (Opened(at_start=OSError()), ["lifespan.startup.failed", "raised"]),
        (Opened(at_end=OSError()), ["lifespan.startup.complete", "lifespan.shutdown.failed", "raised"]),
    ],
)
def test_the_server_hears_what_could_not_be_opened_or_closed(opened, told):
    assert asyncio.run(_lived(opened)) == told
