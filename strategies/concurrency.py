"""Structured concurrency behind one helper: a failure cancels its siblings and comes out plain."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterable
from typing import Any, TypeVar

from veridical.strategies.trace import chain

T = TypeVar("T")
R = TypeVar("R")


async def concurrently(fn: Callable[[T], Coroutine[Any, Any, R]], items: Iterable[T]) -> list[R]:
    """Run `fn` on every item at once and return the results in order.

    The first failure cancels the others and is raised as it is. After the join the caller
    stands behind the longest chain of calls that any item made (`trace.chain`). One item alone needs
    no task of its own.
    """
    items = list(items)
    if not items:
        return []
    if len(items) == 1:
        return [await fn(items[0])]

    async def follow(item: T) -> tuple[R, int]:
        result = await fn(item)
        return result, chain.get()

    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(follow(item)) for item in items]
    except BaseExceptionGroup as failures:
        raise failures.exceptions[0] from None
    results = [task.result() for task in tasks]
    chain.set(max((depth for _, depth in results), default=chain.get()))
    return [result for result, _ in results]
