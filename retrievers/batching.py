"""Concurrent calls made into batches: a model encodes sixteen queries in little more time than one."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from queue import Empty, SimpleQueue
from typing import Generic, TypeVar

T = TypeVar("T")
R = TypeVar("R")


class Batcher(Generic[T, R]):
    """Calls `fn` on lists of items in one thread of its own; what arrives meanwhile makes the next list.

    A list is closed when `gap` seconds pass without another item, when it is `window` seconds old or
    when it is `most` long: a single caller waits one gap, a crowd comes together. The thread ends by
    itself after `idle` seconds without work.
    """

    def __init__(
        self,
        fn: Callable[[Sequence[T]], Sequence[R]],
        *,
        most: int = 64,
        gap: float = 0.001,
        window: float = 0.01,
        idle: float = 5.0,
    ) -> None:
        self._fn = fn
        self._most, self._gap, self._window, self._idle = most, gap, window, idle
        self._queue: SimpleQueue[tuple[T, Future[R]]] = SimpleQueue()
        self._lock = threading.Lock()
        self._running = False

    def submit(self, item: T) -> Future[R]:
        """Hand in an item; the future holds its result, or the error of its whole batch."""
        future: Future[R] = Future()
        with self._lock:
            self._queue.put((item, future))
            if not self._running:
                self._running = True
                threading.Thread(target=self._work, name="batcher", daemon=True).start()
        return future

    async def __call__(self, item: T) -> R:
        """Hand in an item and wait for its result."""
        return await asyncio.wrap_future(self.submit(item))

    def _work(self) -> None:
        while batch := self._collect():
            batch = [(item, future) for item, future in batch if future.set_running_or_notify_cancel()]
            if batch:
                self._settle(batch)

    def _collect(self) -> list[tuple[T, Future[R]]]:
        try:
            batch = [self._queue.get(timeout=self._idle)]
        except Empty:
            with self._lock:
                self._running = not self._queue.empty()
                return [self._queue.get()] if self._running else []
        end = time.monotonic() + self._window
        while len(batch) < self._most and time.monotonic() < end:
            try:
                batch.append(self._queue.get(timeout=self._gap))
            except Empty:
                break
        return batch

    def _settle(self, batch: list[tuple[T, Future[R]]]) -> None:
        try:
            results = self._fn([item for item, _ in batch])
        except BaseException as error:  # noqa: BLE001 - each caller gets it from its future
            for _, future in batch:
                future.set_exception(error)
        else:
            for (_, future), result in zip(batch, results, strict=True):
                future.set_result(result)
