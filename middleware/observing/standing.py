"""Metrics of what stands behind the requests: servers with their queues and breakers, and the cache."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from veridical.middleware.balancing.replica import Replica
from veridical.middleware.cache.cache import Counts
from veridical.middleware.routing import Router

if TYPE_CHECKING:
    from veridical.middleware.observing.metrics import Metrics

_LEVELS = {"in_flight": "Calls that a server is working on", "queued": "Calls that wait for a turn"}
_COUNTS = {
    "calls": "Calls that a server was given",
    "failures": "Calls that a server failed",
    "rate_limited": "Answers of 429 from a server",
    "opened": "Times that a server was set aside after failures",
}
_CACHED = {
    "hits": "Calls answered from the cache",
    "misses": "Calls that the cache had no answer to",
    "stores": "Answers put into the cache",
    "errors": "Looks or puts that failed in the cache",
}


def watch_backends(metrics: Metrics, router: Callable[[], Router]) -> None:
    """Tell which backends can take a request, and how each balanced or limited server fares. `router` is
    asked each time: a reload brings another."""
    metrics.gauge(
        "backend_ready",
        "Whether a backend can take a request",
        ("backend",),
        lambda: {(mounted.name,): float(mounted.is_ready()) for mounted in router().mounted},
        over_processes="livemin",
    )

    def servers() -> Sequence[Replica]:
        return router().servers

    for name, words in _LEVELS.items():
        metrics.gauge(f"server_{name}", words, ("server",), _of(servers, name))
    metrics.gauge(
        "server_state",
        "1 for the state that a server is in",
        ("server", "state"),
        lambda: {(server.name, server.state): 1.0 for server in servers()},
    )
    for name, words in _COUNTS.items():
        metrics.counter(f"server_{name}", words, ("server",), _of(servers, name))


def _of(servers: Callable[[], Sequence[Replica]], name: str) -> Callable[[], Mapping[tuple[str, ...], float]]:
    return lambda: {(server.name,): float(server.standing[name]) for server in servers()}


def watch_cache(metrics: Metrics, counts: Counts) -> None:
    """Tell what the cache has done."""
    for name, words in _CACHED.items():
        metrics.counter(f"cache_{name}", words, (), _count(counts, name))


def _count(counts: Counts, name: str) -> Callable[[], Mapping[tuple[str, ...], float]]:
    return lambda: {(): float(getattr(counts, name))}
