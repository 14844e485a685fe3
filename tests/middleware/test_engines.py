"""The supervisor against real processes: a small fake engine, started, crashed, stopped, orphaned."""

import asyncio
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from veridical.middleware.backends.engine_log import trim
from veridical.middleware.backends.engines import EngineProcess, EngineSpec
from veridical.strategies.errors import BackendTimeout, BackendUnreachable

# Healthy at its second check; /pid tells the process, /crash ends it, /say/X fills the log. With a second
# argument it starts a worker, as vLLM does, and writes the worker's number there; with a third it ignores
# SIGTERM.
FAKE_ENGINE = textwrap.dedent("""
    import http.server, os, signal, subprocess, sys
    print("engine output", flush=True)
    if len(sys.argv) > 2:
        worker = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
        open(sys.argv[2], "w").write(str(worker.pid))
    if len(sys.argv) > 3:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)

    class Handler(http.server.BaseHTTPRequestHandler):
        checks = 0
        def do_GET(self):
            if self.path == "/crash":
                os._exit(3)
            if self.path.startswith("/say/"):
                print(self.path[5:] * 100, flush=True)
            Handler.checks += self.path == "/health"
            self.send_response(503 if self.path == "/health" and Handler.checks < 2 else 200)
            self.end_headers()
            self.wfile.write(str(os.getpid()).encode())
        def log_message(self, *args):
            pass

    http.server.HTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
""")


@pytest.fixture
def spec(tmp_path) -> EngineSpec:
    script = tmp_path / "fake_engine.py"
    script.write_text(FAKE_ENGINE)
    return EngineSpec(
        "fake",
        (sys.executable, str(script), "{port}"),
        tmp_path / "logs" / "engine.log",
        start_timeout_s=20,
        stop_grace_s=10,
        backoff_s=0.01,
    )


def broken(spec: EngineSpec, **changes) -> EngineSpec:
    return replace(spec, command=(sys.executable, "-c", "raise SystemExit(7)"), **changes)


@asynccontextmanager
async def running(spec: EngineSpec):
    engine = EngineProcess(spec)
    await engine.start()
    try:
        yield engine
    finally:
        await engine.stop()


def get(engine: EngineProcess, path: str) -> str:
    with urllib.request.urlopen(engine.base_url.removesuffix("/v1") + path, timeout=10) as response:
        return response.read().decode()


def crash(engine: EngineProcess) -> None:
    with pytest.raises((urllib.error.URLError, ConnectionError)):
        get(engine, "/crash")


def alive(pid: int) -> bool:
    """Whether the process runs: a zombie that nobody has waited for yet is dead."""
    try:
        return about(pid)[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


def about(pid: int) -> list[str]:
    """The state of a process, its parent's number and more."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while not holds():  # noqa: ASYNC110 -- what other processes do sets no event
            await asyncio.sleep(0.02)


def test_requests_wait_until_the_engine_is_healthy(spec):
    async def scenario():
        async with running(spec) as engine:
            assert not engine.is_ready
            await asyncio.gather(engine.ready(), engine.ready())
            assert engine.is_ready
            assert engine.base_url.startswith("http://127.0.0.1:")
            assert engine.base_url.endswith("/v1")
            assert int(await asyncio.to_thread(get, engine, "/pid")) != os.getpid()

    asyncio.run(scenario())


def test_the_first_request_starts_an_engine_that_was_not_started(spec):
    async def scenario():
        engine = EngineProcess(spec)
        await engine.ready()
        await engine.stop()

    asyncio.run(scenario())


def test_output_goes_to_the_log_and_is_appended(spec, capfd):
    spec.log_file.parent.mkdir()
    spec.log_file.write_text("before\n")

    async def scenario():
        async with running(spec) as engine:
            await engine.ready()

    asyncio.run(scenario())
    log = spec.log_file.read_text()
    assert log.startswith("before\n")
    assert "engine output" in log
    assert capfd.readouterr() == ("", "")


def test_a_crashed_engine_is_restarted_where_it_was(spec):
    async def scenario():
        async with running(spec) as engine:
            await engine.ready()
            where, first = engine.base_url, await asyncio.to_thread(get, engine, "/pid")
            await asyncio.to_thread(crash, engine)
            await until(lambda: not engine.is_ready)
            await engine.ready()
            assert await asyncio.to_thread(get, engine, "/pid") != first
            assert engine.base_url == where

    asyncio.run(scenario())


def test_a_taken_port_is_left_to_its_owner(spec):
    async def scenario():
        first, second = EngineProcess(spec), EngineProcess(spec)
        second._port = int(first.base_url.split(":")[2].split("/")[0])
        await first.ready()
        await second.ready()
        assert first.base_url != second.base_url
        await second.stop()
        await first.stop()

    asyncio.run(scenario())


def test_a_long_log_is_cut_while_the_engine_writes_it_and_one_older_file_is_kept(spec):
    older = spec.log_file.with_name("engine.log.1")

    async def scenario():
        async with running(replace(spec, log_bytes=1000, log_check_s=0.02)) as engine:
            await engine.ready()
            for word in ("first", "second"):
                for _ in range(3):
                    await asyncio.to_thread(get, engine, f"/say/{word}")
                await until(lambda word=word: older.exists() and word in older.read_text())
                await until(lambda: spec.log_file.stat().st_size <= 1000)
            assert engine.is_ready
        assert older.stat().st_size <= 1000
        assert len([*spec.log_file.parent.iterdir()]) == 2

    asyncio.run(scenario())


def test_no_more_than_the_limit_is_kept_of_a_log_that_grows_while_it_is_cut(tmp_path):
    log, older = tmp_path / "engine.log", tmp_path / "engine.log.1"
    log.touch()
    done = threading.Event()

    def engine():
        with log.open("ab", buffering=0) as file:
            while not done.is_set():
                file.write(b"x" * 600)

    with ThreadPoolExecutor() as pool:
        writing = pool.submit(engine)
        try:
            sizes = []
            while len(sizes) < 100 and not writing.done():
                trim(log, 1000)
                sizes += [older.stat().st_size] if older.exists() else []
        finally:
            done.set()
    assert len(sizes) == 100
    assert max(sizes) <= 1000


def test_a_log_that_was_left_long_is_cut_at_the_start(spec):
    spec.log_file.parent.mkdir()
    spec.log_file.write_text("x" * 5000)

    async def scenario():
        async with running(replace(spec, log_bytes=1000)) as engine:
            await engine.ready()

    asyncio.run(scenario())
    assert "x" not in spec.log_file.read_text()
    assert spec.log_file.with_name("engine.log.1").read_text() == "x" * 1000


def test_a_crash_loop_is_reported_with_its_log_and_then_left_in_peace(spec):
    async def scenario():
        async with running(broken(spec, pause_s=600)) as engine:
            with pytest.raises(BackendUnreachable, match="status 7") as caught:
                await engine.ready()
            assert str(spec.log_file) in caught.value.message
            with pytest.raises(BackendUnreachable, match="status 7"):
                await engine.ready()
        assert spec.log_file.read_text().count("---") == spec.max_failures

    asyncio.run(scenario())


def test_after_the_pause_a_request_tries_again(spec, tmp_path):
    flag = tmp_path / "mended"
    script = f"import os, sys; os.path.exists({str(flag)!r}) or sys.exit(7)\n" + FAKE_ENGINE

    async def scenario():
        mendable = replace(spec, command=(sys.executable, "-c", script, "{port}"), pause_s=0)
        async with running(mendable) as engine:
            with pytest.raises(BackendUnreachable):
                await engine.ready()
            flag.touch()
            await engine.ready()

    asyncio.run(scenario())


@pytest.mark.parametrize("command", [("no-such-engine-here",), ("/",)])
def test_a_command_that_does_not_exist_is_a_crash_loop_too(spec, command):
    async def scenario():
        async with running(replace(spec, command=command)) as engine:
            with pytest.raises(BackendUnreachable, match="status 127"):
                await engine.ready()

    asyncio.run(scenario())
    assert f"cannot start '{command[0]}'" in spec.log_file.read_text()


def test_an_unwritable_log_is_reported(spec, tmp_path):
    (tmp_path / "file").touch()

    async def scenario():
        async with running(replace(spec, log_file=tmp_path / "file" / "log")) as engine:
            with pytest.raises(BackendUnreachable, match="could not be started"):
                await engine.ready()

    asyncio.run(scenario())


def test_an_engine_that_never_gets_healthy_times_out(spec):
    async def scenario():
        async with running(replace(spec, health_path="/crash", start_timeout_s=1.0, backoff_s=600)) as engine:
            with pytest.raises(BackendTimeout, match=r"engine\.log"):
                await engine.ready()

    asyncio.run(scenario())


def test_stop_ends_the_engine_with_its_workers(spec, tmp_path):
    async def scenario():
        noted = tmp_path / "worker"
        async with running(replace(spec, command=(*spec.command, str(noted)))) as engine:
            await engine.ready()
            pids = [int(await asyncio.to_thread(get, engine, "/pid")), int(noted.read_text())]
            assert all(map(alive, pids))
        assert not any(map(alive, pids))
        assert not engine.is_ready
        with pytest.raises(BackendUnreachable, match="stopped"):
            await engine.ready()
        await engine.stop()

    asyncio.run(scenario())


def test_an_engine_deaf_to_sigterm_is_killed_after_the_grace(spec, tmp_path):
    async def scenario():
        deaf = replace(spec, command=(*spec.command, str(tmp_path / "worker"), "deaf"), stop_grace_s=0.2)
        async with running(deaf) as engine:
            await engine.ready()
            pid = int(await asyncio.to_thread(get, engine, "/pid"))
        assert not alive(pid)

    asyncio.run(scenario())


def test_stop_while_starting_frees_those_who_wait(spec):
    async def scenario():
        async with running(replace(spec, health_path="/nothing-yet", env={"PYTHONSTARTUP": ""})) as engine:
            waiting = asyncio.create_task(engine.ready())
            await asyncio.sleep(0)
        with pytest.raises(BackendUnreachable, match="stopped"):
            await waiting

    asyncio.run(scenario())


PARENT = textwrap.dedent("""
    import asyncio, pathlib, sys
    from veridical.middleware.backends.engines import EngineProcess, EngineSpec

    async def main():
        script, worker, log = sys.argv[1:]
        command = (sys.executable, script, "{port}", worker)
        engine = EngineProcess(EngineSpec("fake", command, pathlib.Path(log)))
        await engine.ready()
        print(engine.base_url, flush=True)
        await asyncio.sleep(600)

    asyncio.run(main())
""")


def test_the_engine_dies_with_a_killed_proxy(spec, tmp_path):
    noted = tmp_path / "worker"
    command = [sys.executable, "-c", PARENT, spec.command[1], str(noted), str(spec.log_file)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as parent:
        base_url = parent.stdout.readline().strip()
        with urllib.request.urlopen(base_url.replace("/v1", "/pid"), timeout=10) as response:
            pids = [int(response.read()), int(noted.read_text())]
        assert all(map(alive, pids))
        parent.send_signal(signal.SIGKILL)
    wait_until_dead(pids)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="PR_SET_PDEATHSIG is Linux's")
def test_the_engine_dies_with_a_killed_guard(spec):
    async def scenario():
        async with running(spec) as engine:
            await engine.ready()
            pid = int(await asyncio.to_thread(get, engine, "/pid"))
            os.kill(int(about(pid)[1]), signal.SIGKILL)
            await until(lambda: not alive(pid))
            await engine.ready()

    asyncio.run(scenario())


def wait_until_dead(pids: list[int]) -> None:
    limit = time.monotonic() + 30
    while any(map(alive, pids)):
        assert time.monotonic() < limit, "the engine outlived its proxy"
        time.sleep(0.02)
