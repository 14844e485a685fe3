"""Supervises an engine (llama.cpp, vLLM) that runs as a child of the proxy.

The engine is started on a free loopback port, watched until it is healthy, restarted when it
crashes and taken down with the proxy. It runs under `engine_guard`, which alone survives a
SIGKILL of the proxy and then ends the engine.
"""

from __future__ import annotations

import asyncio
import os
import socket
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol

import aiohttp

from veridical.middleware.backends import engine_guard
from veridical.middleware.backends.engine_log import trim
from veridical.middleware.errors import log
from veridical.strategies.errors import BackendTimeout, BackendUnreachable

Command = Sequence[str] | Callable[[int], Sequence[str]]

_FIRST_POLL_S, _SLOWEST_POLL_S, _POLL_TIMEOUT_S = 0.05, 1.0, 2.0
#: What the guard may take beyond the engine's own grace before it is killed itself.
_GUARD_GRACE_S = 5.0


@dataclass(frozen=True, slots=True)
class EngineSpec:
    """How to run one engine.

    `command` is an argument list in which `{port}` stands for the port, or a function of it.
    `env` is laid over the proxy's environment. A run that ends before it was healthy for
    `pause_s` is a failure; after each, the next start waits `backoff_s`, doubled every time.
    `max_failures` in a row are a crash loop: requests are refused for `pause_s`, and the next
    one after that tries again. The log is looked at every `log_check_s` and cut when it is over
    `log_bytes`.
    """

    name: str
    command: Command
    log_file: Path
    env: Mapping[str, str] = field(default_factory=dict)
    health_path: str = "/health"
    start_timeout_s: float = 120.0
    stop_grace_s: float = 10.0
    backoff_s: float = 0.5
    max_failures: int = 3
    pause_s: float = 30.0
    log_bytes: int = 20_000_000
    log_check_s: float = 30.0

    def argv(self, port: int) -> list[str]:
        """The command for this port."""
        if callable(self.command):
            return list(self.command(port))
        # No str.format: arguments may hold JSON, whose braces are not ours.
        return [word.replace("{port}", str(port)) for word in self.command]


class Engine(Protocol):
    """An engine as its users see it, whoever runs it."""

    @property
    def is_ready(self) -> bool:
        """Whether it can be used now."""
        ...

    @property
    def base_url(self) -> str:
        """Where it speaks OpenAI."""
        ...

    async def start(self, behind: asyncio.Task[None] | None = None) -> None:
        """Start it, `behind` something that must be over first."""
        ...

    async def ready(self) -> None:
        """Wait until it can be used.

        Raises:
            BackendUnreachable, BackendTimeout: it cannot.
        """
        ...

    async def stop(self) -> None:
        """End it."""
        ...

    def restart(self) -> None:
        """End one that does not answer any more, at which it is started again."""
        ...


class EngineProcess:
    """One engine and the task that keeps it running. All methods belong to one event loop."""

    def __init__(self, spec: EngineSpec) -> None:
        self.spec = spec
        self._port = 0
        self._ready = False
        self._fault = ""
        self._failures = 0
        self._retry_at = 0.0
        self._stopped = False
        self._settled = asyncio.Event()  # it is known whether the engine can be used
        self._supervision: asyncio.Task[None] | None = None
        self._guard: asyncio.subprocess.Process | None = None

    @property
    def is_ready(self) -> bool:
        """Whether the engine is running and has been healthy since it started."""
        return self._ready

    @property
    def base_url(self) -> str:
        """Where the engine speaks OpenAI; changes on a restart only if the port was taken."""
        self._port = self._port or _free_port(0)
        return f"http://127.0.0.1:{self._port}/v1"

    async def start(self, behind: asyncio.Task[None] | None = None) -> None:
        """Start the engine in the background and return at once; does nothing if it is under way.

        It is started `behind` something that must be over first, such as the engine in whose place it comes.
        """
        self._stopped = False
        if self._supervision is None or self._supervision.done():
            self._settled.clear()
            self._supervision = asyncio.create_task(self._supervise(behind), name=f"engine {self.spec.name}")

    def restart(self) -> None:
        """End an engine that does not answer any more, at which it is started again."""
        if self._ready and self._guard and self._guard.stdin:
            log.warning("the engine %s does not answer any more: it is restarted", self.spec.name)
            self._ready = False
            self._settled.clear()  # requests wait for the restart
            self._guard.stdin.close()

    async def ready(self) -> None:
        """Wait until the engine can be used, for no longer than its start may take.

        Raises:
            BackendUnreachable: it was stopped, or ends every time it is started.
            BackendTimeout: it is still starting.
        """
        await self._revive()
        try:
            async with asyncio.timeout(self.spec.start_timeout_s):
                while not self._ready:
                    await self._settled.wait()
                    self._raise_fault()
        except TimeoutError:
            raise BackendTimeout(
                f"The engine {self.spec.name!r} was not ready in {self.spec.start_timeout_s:g} s;"
                f" its log is {self.spec.log_file}."
            ) from None

    async def _revive(self) -> None:
        if self._stopped:
            raise BackendUnreachable(f"The engine {self.spec.name!r} has been stopped.")
        idle = self._supervision is None or self._supervision.done()
        if idle and asyncio.get_running_loop().time() >= self._retry_at:
            await self.start()

    def _raise_fault(self) -> None:
        if self._settled.is_set() and not self._ready:
            fault = "it was stopped" if self._stopped else self._fault
            raise BackendUnreachable(
                f"The engine {self.spec.name!r} cannot be used: {fault}; its log is {self.spec.log_file}."
            )

    async def stop(self) -> None:
        """End the engine: SIGTERM to its process group, SIGKILL after the grace. May be called twice."""
        self._stopped = True
        if self._supervision is not None:
            self._supervision.cancel()
            await asyncio.wait([self._supervision])
        self._settled.set()

    async def _supervise(self, behind: asyncio.Task[None] | None = None) -> None:
        loop = asyncio.get_running_loop()
        try:
            if behind is not None:
                await asyncio.wait([behind])
            while True:
                healthy_s = await self._run()
                recovered = healthy_s > 0 and healthy_s >= self.spec.pause_s
                self._failures = 1 if recovered else self._failures + 1
                if self._failures >= self.spec.max_failures:
                    return
                await asyncio.sleep(self.spec.backoff_s * 2 ** (self._failures - 1))
        finally:
            self._retry_at = loop.time() + self.spec.pause_s
            self._settled.set()

    async def _run(self) -> float:
        """Run the engine once, until it ends; return for how long it was healthy."""
        self._settled.clear()
        try:
            guard = self._guard = await self._spawn()
        except OSError as error:
            self._fault = f"it could not be started ({error.strerror})"
            return 0.0
        loop = asyncio.get_running_loop()
        healthy_since = loop.time()
        try:
            if not await self._healthy(guard):
                return 0.0
            healthy_since = loop.time()
            self._ready = True
            self._settled.set()
            await self._outlive(guard)
            self._fault = f"it ended with status {guard.returncode}"
            return loop.time() - healthy_since
        finally:
            self._ready = False
            self._settled.clear()  # requests wait for the restart
            await self._end(guard)

    async def _spawn(self) -> asyncio.subprocess.Process:
        self._port = _free_port(self._port)
        self.spec.log_file.parent.mkdir(parents=True, exist_ok=True)
        if self.spec.log_file.exists():
            await asyncio.to_thread(trim, self.spec.log_file, self.spec.log_bytes)
        with self.spec.log_file.open("ab") as log:
            # The command stays out of the log: it may hold a key.
            log.write(f"--- {datetime.now(UTC):%FT%TZ} {self.spec.name} on port {self._port}\n".encode())
            log.flush()
            return await asyncio.create_subprocess_exec(
                *self._guarded(),
                stdin=asyncio.subprocess.PIPE,
                stdout=log,
                stderr=log,
                env={**os.environ, **self.spec.env},
                start_new_session=True,  # Ctrl-C is the proxy's: it ends the engine in its own time
            )

    def _guarded(self) -> list[str]:
        guard = [sys.executable, "-I", "-S", engine_guard.__file__]
        return [*guard, str(self.spec.stop_grace_s), "--", *self.spec.argv(self._port)]

    async def _healthy(self, guard: asyncio.subprocess.Process) -> bool:
        """Poll until the engine is healthy (True) or has ended or taken too long (False, and the fault)."""
        try:
            async with asyncio.timeout(self.spec.start_timeout_s), _session() as session:
                pause = _FIRST_POLL_S
                while guard.returncode is None:
                    if await self._answers(session):
                        return True
                    await asyncio.sleep(pause)
                    pause = min(pause * 1.2, _SLOWEST_POLL_S)
        except TimeoutError:
            self._fault = f"it was not healthy after {self.spec.start_timeout_s:g} s"
        else:
            self._fault = f"it ended with status {guard.returncode} before it was healthy"
        return False

    async def _outlive(self, guard: asyncio.subprocess.Process) -> None:
        """Wait until the engine ends, and keep its log short meanwhile."""
        while guard.returncode is None:
            try:
                async with asyncio.timeout(self.spec.log_check_s):
                    await guard.wait()
            except TimeoutError:
                await asyncio.to_thread(trim, self.spec.log_file, self.spec.log_bytes)

    async def _answers(self, session: aiohttp.ClientSession) -> bool:
        url = f"http://127.0.0.1:{self._port}{self.spec.health_path}"
        try:
            async with session.get(url) as response:
                return response.status == 200
        except (aiohttp.ClientError, TimeoutError):
            return False

    async def _end(self, guard: asyncio.subprocess.Process) -> None:
        if guard.stdin is not None:
            guard.stdin.close()  # the guard's sign to end the engine
        try:
            async with asyncio.timeout(self.spec.stop_grace_s + _GUARD_GRACE_S):
                await guard.wait()
        except TimeoutError:
            guard.kill()
            await guard.wait()


def _session() -> aiohttp.ClientSession:
    """A session for health checks: short time-outs, and no proxy from the environment."""
    return aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=_POLL_TIMEOUT_S), trust_env=False)


def _free_port(wanted: int) -> int:
    """`wanted` if it is free on the loopback interface (and not 0), else a port that is."""
    with socket.socket() as probe:
        # Connections of an engine that has just ended linger; they must not cost us the port.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", wanted))
        except OSError:
            probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
