"""The parent of several workers: starts them, starts those again that end, passes signals on.

Each worker listens on a socket of its own, bound to the one address with SO_REUSEPORT, so that the kernel
spreads the connections. The parent holds these sockets too: connections that come while a worker is started
again wait for it, none is refused. Where there is no SO_REUSEPORT that spreads, all share one socket.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from veridical.middleware.errors import log
from veridical.middleware.workers.desk import Desk

#: A worker that ends sooner than this is started again later each time, at most after LONGEST_PAUSE_S.
STEADY_S = 10.0
LONGEST_PAUSE_S = 10.0
#: Seconds beyond their own grace after which workers that should have stopped are killed.
LAST_GRACE_S = 5.0
BACKLOG = 2048
#: Where prometheus_client keeps the numbers of several processes.
METRICS_FOLDER = "PROMETHEUS_MULTIPROC_DIR"


def listening(host: str, port: int, count: int) -> list[socket.socket]:
    """`count` sockets that listen on one address; with port 0, on one that is free.

    Raises:
        OSError: the address cannot be had.
    """
    spreads = sys.platform == "linux"
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    sockets: list[socket.socket] = []
    for _ in range(count if spreads else 1):
        listener = socket.socket(family, socket.SOCK_STREAM)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if spreads:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        listener.bind((host, port))
        listener.listen(BACKLOG)
        listener.setblocking(False)
        port = listener.getsockname()[1]
        sockets.append(listener)
    return sockets if spreads else sockets * count


class Supervisor:
    """Keeps one worker for each of `sockets` alive, until a signal stops them all.

    `command` starts a worker, given the two descriptors that it inherits: where it listens, and its line to
    the parent. Workers get `grace_s` seconds to stop in. `counts` says that they keep metrics.
    """

    def __init__(
        self,
        sockets: Sequence[socket.socket],
        command: Callable[[int, int], Sequence[str]],
        desk: Desk,
        *,
        grace_s: float,
        counts: bool,
    ) -> None:
        self._sockets, self._command, self._desk = sockets, command, desk
        self._grace_s = grace_s
        self._running: dict[int, asyncio.subprocess.Process] = {}
        self._stopping = asyncio.Event()
        self._served = False
        self._metrics = tempfile.mkdtemp(prefix="veridical-metrics-") if counts else None

    async def run(self) -> bool:
        """Run the workers; whether they ever served. Returns when all have ended."""
        loop = asyncio.get_running_loop()
        for each in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(each, self._stop, each)
        loop.add_signal_handler(signal.SIGHUP, self._pass_on, signal.SIGHUP)
        looking = asyncio.create_task(self._desk.look_on())
        killing = asyncio.create_task(self._kill_late())
        try:
            await asyncio.gather(*(self._keep(at, each) for at, each in enumerate(self._sockets)))
        finally:
            looking.cancel()
            killing.cancel()
            if self._metrics:
                shutil.rmtree(self._metrics, ignore_errors=True)
        return self._served

    async def _keep(self, index: int, listener: socket.socket) -> None:
        """Keep one worker running."""
        pause = 0.0
        while not self._stopping.is_set():
            began = time.monotonic()
            status = await self._once(index, listener)
            if self._stopping.is_set():
                return
            if not self._served:  # whatever is wrong, it is so at the start and has been said
                self._stop(signal.SIGTERM)
                return
            steady = time.monotonic() - began > STEADY_S
            pause = 0.0 if steady else min(LONGEST_PAUSE_S, 2 * pause or 0.1)
            log.error("worker %d ended with status %d: it is started again", index, status)
            try:
                async with asyncio.timeout(pause):
                    await self._stopping.wait()
            except TimeoutError:
                continue

    async def _once(self, index: int, listener: socket.socket) -> int:
        """Run one worker until it ends; its status."""
        ours, theirs = socket.socketpair()
        with theirs:
            process = await asyncio.create_subprocess_exec(
                *self._command(listener.fileno(), theirs.fileno()),
                pass_fds=(listener.fileno(), theirs.fileno()),
                env={**os.environ, **({METRICS_FOLDER: self._metrics} if self._metrics else {})},
                start_new_session=True,  # Ctrl-C is the parent's, which passes it on once
            )
        self._running[index] = process
        try:
            await self._desk.serve(ours, self._serves)
            return await process.wait()
        finally:
            del self._running[index]
            self._forget(process.pid)

    def _serves(self) -> None:
        self._served = True

    def _forget(self, pid: int) -> None:
        """The gauges of a process that has ended count no more; its counters do."""
        if self._metrics:
            for left in Path(self._metrics).glob(f"gauge_live*_{pid}.db"):
                left.unlink()

    def _stop(self, sent: signal.Signals) -> None:
        if not self._stopping.is_set():
            self._stopping.set()
            for listener in self._sockets:
                listener.close()
        self._pass_on(sent)

    def _pass_on(self, sent: signal.Signals) -> None:
        for process in self._running.values():
            if process.returncode is None:
                process.send_signal(sent)

    async def _kill_late(self) -> None:
        await self._stopping.wait()
        await asyncio.sleep(self._grace_s + LAST_GRACE_S)
        log.error("workers that did not stop in time are killed")
        self._pass_on(signal.SIGKILL)
