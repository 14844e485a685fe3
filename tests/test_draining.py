"""A process told to stop: not ready first, then closed to new clients; streams end or are seen to break."""

import signal
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import openai
import pytest

from veridical.tests.answers import Halfway, Held, Say
from veridical.tests.processes import serving
from veridical.tests.proxy import wait_until
from veridical.tests.servers import listens
from veridical.tests.upstream import CANBERRA

pytestmark = pytest.mark.timeout(300)
RIGHT = "The capital of Australia is Canberra."


def words(stream: Any) -> str:
    return "".join(chunk.choices[0].delta.content or "" for chunk in stream if chunk.choices)


@pytest.fixture
def begun(upstream):
    """Opens a stream of each kind on a proxy, and reads until words have come; released, they go on."""
    release = threading.Event()

    def open_streams(proxy):
        upstream.cove(RIGHT, CANBERRA)
        upstream.on(plan=Held(upstream.script["plan"], release))
        checked = proxy.ask(model="m1+cove", stream=True)
        upstream.on(draft=Halfway(Say(RIGHT), release))
        plain = proxy.ask(stream=True)
        assert next(plain).choices[0].delta.role == "assistant"
        return plain, checked

    open_streams.release = release
    yield open_streams
    release.set()


def test_streams_are_finished_while_nobody_new_comes_in(upstream, begun, tmp_path):
    (tmp_path / "veridical.toml").write_text("[server]\ndrain_s = 4\nshutdown_s = 60")
    with serving(tmp_path, "--base-url", upstream.url) as replica:
        proxy = replica.proxy
        assert proxy.request("GET", "/ready").status == 200
        plain, checked = begun(proxy)
        replica.process.send_signal(signal.SIGTERM)
        wait_until(lambda: proxy.request("GET", "/ready").status == 503)
        told = proxy.request("GET", "/ready").json
        assert told == {"ready": False, "stopping": True, "backends": {}}
        upstream.on(draft=Say("Still here."))
        late = proxy.chat()
        assert (late.status, late.headers["connection"]) == (200, "close")
        wait_until(lambda: not listens(proxy.port), 20)
        assert replica.process.poll() is None
        with ThreadPoolExecutor(2) as pool:
            reading = [pool.submit(words, stream) for stream in (plain, checked)]
            begun.release.set()
            assert [each.result(30) for each in reading] == [RIGHT, RIGHT]
        assert replica.process.wait(30) in (0, -signal.SIGTERM)


def test_a_stream_that_outlasts_the_shutdown_is_seen_to_break(upstream, begun, tmp_path):
    (tmp_path / "veridical.toml").write_text("[server]\nshutdown_s = 1")
    with serving(tmp_path, "--base-url", upstream.url) as replica:
        streams = begun(replica.proxy)
        replica.process.send_signal(signal.SIGTERM)
        for stream in streams:
            with pytest.raises((httpx.RemoteProtocolError, openai.APIError)):
                words(stream)
        assert replica.process.wait(30) in (0, -signal.SIGTERM)
        assert "Cancel 2 running task(s)" in replica.log.read_text()


def test_an_interrupt_does_not_wait_for_balancers(upstream, tmp_path):
    (tmp_path / "veridical.toml").write_text("[server]\ndrain_s = 100")
    with serving(tmp_path, "--base-url", upstream.url) as replica:
        replica.process.send_signal(signal.SIGINT)
        replica.process.wait(30)
    with serving(tmp_path, "--base-url", upstream.url) as replica:
        replica.process.send_signal(signal.SIGTERM)
        wait_until(lambda: replica.proxy.request("GET", "/ready").status == 503)
        replica.process.send_signal(signal.SIGTERM)
        assert replica.process.wait(30) in (0, -signal.SIGTERM)
