"""SIGHUP: the configuration read again, on a real process, with requests under way."""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest

from veridical.middleware.config import ServerSettings, Settings
from veridical.middleware.reloading import changed
from veridical.tests.answers import Held, Say
from veridical.tests.proxy import Proxy, wait_until
from veridical.tests.servers import free_port, listens


@dataclass
class Running(Proxy):
    """A proxy in a process of its own, before a configuration file."""

    process: subprocess.Popen[bytes] | None = None
    file: Path = Path()
    log: Path = Path()

    def reload(self, text: str, until: str) -> None:
        """Write another configuration, ask for it, and wait for these words in the log."""
        before = self.log.read_text().count(until)
        self.file.write_text(text)
        assert self.process is not None
        os.kill(self.process.pid, signal.SIGHUP)
        wait_until(lambda: self.log.read_text().count(until) > before, 20)


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Callable[[str], Running]]:
    proxies: list[Running] = []

    def start(text: str) -> Running:
        file, log, port = tmp_path / "veridical.toml", tmp_path / "log", free_port()
        file.write_text(text)
        command = [sys.executable, "-m", "veridical", "serve", "--config", str(file), "--port", str(port)]
        with log.open("wb") as out:
            process = subprocess.Popen(command, stderr=out, cwd=tmp_path)
        proxies.append(Running(port, process=process, file=file, log=log))
        wait_until(lambda: listens(port) or process.poll() is not None, 60)
        assert process.poll() is None, log.read_text()
        return proxies[-1]

    yield start
    for proxy in proxies:
        proxy.close()
        proxy.process.terminate()
        proxy.process.wait(20)


def backend(up, name="up", **more):
    rest = "".join(f"{key} = {value}\n" for key, value in more.items())
    return f'[backends.{name}]\nbase_url = "{up.url}"\nmodels = ["m1"]\n{rest}'


def test_requests_that_have_begun_end_where_they_began_and_new_ones_go_elsewhere(running, ups):
    old, new, _ = ups
    proxy, release = running(backend(old)), threading.Event()
    old.on(draft=Held(Say("old"), release))
    new.on(draft=Say("new"))
    with ThreadPoolExecutor(2) as threads:
        begun = [threads.submit(proxy.chat, stream=stream) for stream in (False, True)]
        wait_until(lambda: len(old.chats) == 2)
        proxy.reload(backend(new, "other"), "has been read again")
        answer = proxy.chat()
        assert (answer.json["choices"][0]["message"]["content"], answer.status) == ("new", 200)
        assert answer.headers["x-veridical-backend"] == "other"
        release.set()
        assert [each.result().status for each in begun] == [200, 200]
        assert all(b"old" in each.result().raw for each in begun)
    _what_is_wrong_changes_nothing(proxy, new)


def _what_is_wrong_changes_nothing(proxy, up):
    """The same process, to save the time of another."""
    for text, words in (
        (backend(up, "other", max_concurency=3), "Did you mean 'max_concurrency'"),
        ("[backends", "is not TOML"),
        (backend(up, "other") + '[models.x]\ntargets = ["gone/m1"]\n', "models.x: 'gone/m1'"),
        (backend(up, "other") + '[roles]\nverifier = "m3"\n', "role 'verifier'"),
        (backend(up, "other", api_key_env='"NOT_SET_ANYWHERE"'), "NOT_SET_ANYWHERE is not set"),
    ):
        proxy.reload(text, "stays as it was")
        told = [line for line in proxy.log.read_text().splitlines() if "stays as it was" in line]
        assert words in told[-1]
        assert proxy.chat().status == 200
    proxy.reload(backend(up, "third") + "[state]\nflush_s = 3\n", "has been read again")
    assert "state.flush_s has changed: that needs a restart" in proxy.log.read_text()
    assert proxy.chat().headers["x-veridical-backend"] == "third"


def test_what_waits_for_a_restart_is_named():
    old = Settings(server=ServerSettings(port=8000, max_n=4))
    new = Settings(server=ServerSettings(port=9000, max_n=8), default_strategy="cove")
    settings, waiting = changed(old, new)
    assert (settings.server.port, settings.server.max_n, settings.default_strategy) == (8000, 8, "cove")
    assert waiting == ["server.port"]
