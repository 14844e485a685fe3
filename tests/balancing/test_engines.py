"""Engines behind pools: kept over a reload, replaced one behind the other, restarted when they hang."""

import asyncio
import sys
import textwrap
from contextlib import asynccontextmanager

import pytest

from veridical.middleware.assembly import Assembly
from veridical.middleware.config import Settings
from veridical.strategies.backend import ChatRequest
from veridical.strategies.errors import BackendTimeout

# Healthy always. It writes a line at each start; the first one that is started answers no chat.
ENGINE = textwrap.dedent("""
    import http.server, json, os, sys, time
    starts = open(sys.argv[2], "a+")
    starts.write(f"{os.getpid()} {sys.argv[3]}\\n")
    starts.flush()
    starts.seek(0)
    first = len(starts.readlines()) == 1

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.end_headers()
        def do_POST(self):
            if first:
                time.sleep(60)
            message = {"role": "assistant", "content": "well"}
            raw = json.dumps({"choices": [{"message": message, "finish_reason": "stop"}]}).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(raw)))
            self.end_headers()
            self.wfile.write(raw)
        def log_message(self, *args):
            pass

    http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
""")


@pytest.fixture
def settings(tmp_path):
    """Settings of one such engine: a function of its last argument and of what else is set."""
    script = tmp_path / "engine.py"
    script.write_text(ENGINE)

    def make(word="x", **more):
        command = [sys.executable, str(script), "{port}", str(tmp_path / "starts"), word]
        engine = {"type": "vllm", "model": "m", "command": command, "log": str(tmp_path / "log"), **more}
        return Settings.model_validate({"backends": {"e": engine}})

    return make


def starts(tmp_path):
    return [line.split()[1] for line in (tmp_path / "starts").read_text().splitlines()]


@asynccontextmanager
async def opened(settings):
    assembly = Assembly(settings)
    await assembly.open()
    try:
        async with asyncio.timeout(60):
            await assembly.mounts.engines["e"].ready()
            yield assembly
    finally:
        await assembly.close()


def chat(assembly):
    return assembly.mounts.backends["e"].backend.chat(ChatRequest("e", [{"role": "user", "content": "hi"}]))


def test_an_engine_that_hangs_while_it_is_healthy_is_restarted(settings, tmp_path, caplog):
    async def scenario():
        async with opened(settings(read_timeout_s=0.5, hang_timeouts=2)) as assembly:
            for _ in range(2):
                with pytest.raises(BackendTimeout):
                    await chat(assembly)
            assert (await (await chat(assembly)).read()).text == "well"

    asyncio.run(scenario())
    assert starts(tmp_path) == ["x", "x"]
    assert "does not answer any more" in caplog.text


def test_an_unchanged_engine_runs_on_and_a_changed_one_waits_for_the_requests_of_the_old(settings, tmp_path):
    async def scenario():
        async with opened(settings()) as assembly:
            engine = assembly.mounts.engines["e"]
            for same in (settings(), settings(max_concurrency=2, read_timeout_s=9)):
                await assembly.adopt(Assembly(same, assembly))
                assert assembly.mounts.engines["e"] is engine
            assert assembly.mounts.backends["e"].pool.tiers[0][0].replica.capacity.max_concurrency == 2
            before = assembly.generation
            before.requests += 1
            await assembly.adopt(Assembly(settings("y"), assembly))
            waiting = asyncio.create_task(chat(assembly))
            await asyncio.sleep(0)
            assert (engine.is_ready, starts(tmp_path)) == (True, ["x"])
            before.leave()
            assert (await (await waiting).read()).text == "well"
            assert not engine.is_ready
            assert starts(tmp_path) == ["x", "y"]

    asyncio.run(scenario())
