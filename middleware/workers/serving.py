"""Serving with several processes: the parent's part."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Sequence

import aiohttp

from veridical.middleware.config import Settings
from veridical.middleware.errors import log
from veridical.middleware.mounting import Mounts
from veridical.middleware.observing import logs
from veridical.middleware.workers.desk import Desk
from veridical.middleware.workers.supervisor import Supervisor, listening
from veridical.strategies.errors import ConfigError


def serve_workers(settings: Settings, command: Callable[[int, int], Sequence[str]]) -> bool:
    """Serve with `server.workers` processes until a signal stops them; whether they ever served.

    `command` starts one, given the descriptors of its listening socket and of its line to this process.
    An engine is started with what is configured now: a change to it needs a restart.

    Raises:
        ConfigError: the address cannot be had, or responses are kept where workers do not share them.
    """
    if settings.responses.store == "memory":
        raise ConfigError("responses.store = 'memory' is not shared by workers: use 'database'.")
    logs.configure(settings.observability, settings.server.log_level)
    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        return runner.run(_serve(settings, command))


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """The workers' kind of loop, where there is one: every limit that is asked for passes through it."""
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.new_event_loop


async def _serve(settings: Settings, command: Callable[[int, int], Sequence[str]]) -> bool:
    server = settings.server
    try:
        sockets = listening(server.host, server.port, server.workers)
    except OSError as error:
        raise ConfigError(f"{server.host}:{server.port} cannot be listened on: {error.strerror}.") from None
    log.info("%d workers on %s port %d", server.workers, server.host, sockets[0].getsockname()[1])
    engines = Mounts(settings, _no_session, forwards_credentials=False).engines
    supervisor = Supervisor(
        sockets,
        command,
        Desk(engines),
        grace_s=server.drain_s + server.shutdown_s,
        counts=settings.observability.metrics != "off",
    )
    try:
        for engine in engines.values():
            await engine.start()
        return await supervisor.run()
    finally:
        for engine in engines.values():
            await engine.stop()


def _no_session(*, pooled: bool = True) -> aiohttp.ClientSession:
    raise AssertionError("the parent asks no backend")


def worker_command(listener: int, line: int) -> list[str]:
    """This very command line, as one of its workers."""
    return [sys.executable, "-m", "veridical", *sys.argv[1:], "--as-worker", f"{listener},{line}"]
