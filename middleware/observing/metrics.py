"""Prometheus metrics, of prometheus_client: counted when a request is over, read at /metrics.

Labels come from bounded sets. With PROMETHEUS_MULTIPROC_DIR in the environment (before this module is
imported) the numbers are kept in that folder's files and /metrics tells the sums over all processes; what is
only known when it is asked for (`gauge`, `counter`) is then written by each process every REFRESH_S.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import Any, Literal

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector
from prometheus_client.exposition import choose_encoder
from prometheus_client.multiprocess import MultiProcessCollector

from veridical.middleware.observing.observation import CANCELLED, Observation
from veridical.strategies.trace import Call, Retrieval

#: Seconds: from a relay on one machine to a strategy of many calls.
BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0)
#: Names of one kind that get a series of their own; those that come later share OTHER.
MAX_NAMES = 500
OTHER = "other"
#: A pipe that only a request has composed.
PIPE = "pipe"
#: Seconds between writings of what is read, where there are several processes.
REFRESH_S = 5.0

#: What a gauge or a counter stands at now, by the values of its labels.
Reading = Callable[[], Mapping[tuple[str, ...], float]]


#: Two series that are counted together, found by one look.
_Counted = tuple[Callable[..., None], Callable[..., None]]


@dataclass
class _Watched:
    metric: Any
    read: Reading
    counts: bool
    last: dict[tuple[str, ...], float] = field(default_factory=dict)

    def refresh(self) -> None:
        """Bring the metric to where its reading stands."""
        now = self.read()
        for labels, value in now.items():
            child = self.metric.labels(*labels) if labels else self.metric
            if self.counts:
                child.inc(max(0.0, value - self.last.get(labels, 0.0)))
            else:
                child.set(value)
        gone = () if self.counts else self.last.keys() - now.keys()
        for labels in gone:
            self.metric.remove(*labels)
        self.last = dict(now)


class _Names:
    """Passes the first MAX_NAMES names; every other is OTHER."""

    def __init__(self) -> None:
        self._known: set[str] = set()

    def __call__(self, name: str) -> str:
        if name not in self._known:
            if len(self._known) >= MAX_NAMES:
                return OTHER
            self._known.add(name)
        return name


class Metrics:
    """Counts requests. `pipes` are the joined names of the pipes that the server itself knows.

    Other parts keep their own numbers and have them read: see `gauge` and `counter`.
    """

    def __init__(self, pipes: Iterable[str] = ()) -> None:
        self._pipes = frozenset(pipes)
        self._models, self._steps = _Names(), _Names()
        self._registry = CollectorRegistry()
        self._several = "PROMETHEUS_MULTIPROC_DIR" in os.environ
        self._watched: list[_Watched] = []
        self._children: dict[tuple[Any, ...], Any] = {}
        self._ended: dict[tuple[Any, ...], _Counted] = {}
        self._made: dict[tuple[Any, ...], _Counted] = {}
        self._used: dict[tuple[Any, ...], _Counted] = {}
        self._searched: dict[tuple[str, str], tuple[Callable[..., None], ...]] = {}
        self._refreshing: asyncio.Task[None] | None = None
        self._running = 0
        self._define()
        if not self._several:
            ProcessCollector(registry=self._registry)
        self.gauge("build_info", "The version that runs", ("version",), _build, over_processes="livemax")
        self.gauge("requests_running", "Requests that are being answered", (), lambda: {(): self._running})

    def _define(self) -> None:
        self._requests = self._counter(
            "requests", "Requests that are over", "endpoint strategy model backend status outcome"
        )
        self._seconds = self._histogram(
            "request_seconds", "Seconds that requests took", "endpoint strategy outcome"
        )
        self._first = self._histogram(
            "first_byte_seconds", "Seconds to the first words of a stream", "endpoint strategy"
        )
        self._errors = self._counter("errors", "Errors that clients were told", "endpoint code")
        self._answers = self._counter("answers", "Answers by what became of the draft", "strategy status")
        self._calls = self._counter("calls", "Backend calls", "strategy step model backend outcome")
        self._call_seconds = self._histogram(
            "call_seconds", "Seconds that backend calls took", "strategy step"
        )
        self._shared = self._counter(
            "shared_calls", "Calls that took the result of an equal one", "strategy step"
        )
        self._tokens = self._counter(
            "tokens", "Tokens of backend calls, as backends tell them", "strategy model backend kind"
        )
        self._silent = self._counter(
            "calls_without_usage", "Calls whose tokens the backend did not tell", "model backend"
        )
        self._searches = self._counter("retrievals", "Searches of a source of evidence", "source outcome")
        self._search_seconds = self._histogram("retrieval_seconds", "Seconds that searches took", "source")
        self._passages = self._counter("retrieved_passages", "Passages that searches found", "source")

    def _counter(self, name: str, words: str, labels: str) -> Counter:
        return Counter(f"veridical_{name}", words + ".", labels.split(), registry=self._registry)

    def _histogram(self, name: str, words: str, labels: str) -> Histogram:
        return Histogram(
            f"veridical_{name}", words + ".", labels.split(), registry=self._registry, buckets=BUCKETS
        )

    def gauge(
        self,
        name: str,
        words: str,
        labels: Sequence[str],
        read: Reading,
        *,
        over_processes: Literal["livesum", "livemax", "livemin"] = "livesum",
    ) -> None:
        """Have `veridical_NAME` tell what `read` gives; series that it no longer gives go."""
        metric = Gauge(
            f"veridical_{name}",
            words + ".",
            labels,
            registry=self._registry,
            multiprocess_mode=over_processes,
        )
        self._watched.append(_Watched(metric, read, counts=False))

    def counter(self, name: str, words: str, labels: Sequence[str], read: Reading) -> None:
        """Have `veridical_NAME_total` tell what `read` gives, which only ever grows."""
        metric = Counter(f"veridical_{name}", words + ".", labels, registry=self._registry)
        self._watched.append(_Watched(metric, read, counts=True))

    def began(self) -> None:
        """A request has begun."""
        self._running += 1

    def ended(self, seen: Observation) -> None:
        """Count a request that is over."""
        self._running -= 1
        strategy, model = self._strategy(seen.strategy), self._models(seen.model)
        where, outcome = (seen.endpoint, strategy), seen.outcome
        ending = (*where, model, seen.backend, seen.status, outcome)
        if (counted := self._ended.get(ending)) is None:
            requests = self._requests.labels(*where, model, seen.backend, str(seen.status), outcome)
            counted = self._ended[ending] = (requests.inc, self._seconds.labels(*where, outcome).observe)
        count, observe = counted
        count()
        observe(seen.seconds)
        if seen.streamed and seen.first_byte is not None:
            self._of(self._first, *where).observe(seen.first_byte)
        if seen.error:
            self._of(self._errors, seen.endpoint, seen.error).inc()
        for status in seen.answers:
            self._of(self._answers, strategy, str(status)).inc()
        for call in seen.calls:
            self._call(strategy, call)
        for search in seen.retrievals:
            self._search(search)

    def _call(self, strategy: str, call: Call) -> None:
        step = self._steps(call.step)
        if call.shared:
            self._of(self._shared, strategy, step).inc()
            return
        outcome = "cancelled" if call.error in CANCELLED else call.error or "ok"
        model = self._models(call.model)
        made = (strategy, step, model, call.backend, outcome)
        if (counted := self._made.get(made)) is None:
            calls, seconds = self._calls.labels(*made), self._call_seconds.labels(strategy, step)
            counted = self._made[made] = (calls.inc, seconds.observe)
        count, observe = counted
        count()
        if call.seconds is not None:
            observe(call.seconds)
        served = (model, call.backend)
        if call.usage is None:
            if outcome == "ok":
                self._of(self._silent, *served).inc()
            return
        used = call.usage
        if (tokens := self._used.get((strategy, *served))) is None:
            kinds = [self._tokens.labels(strategy, *served, kind) for kind in ("prompt", "completion")]
            tokens = self._used[strategy, *served] = (kinds[0].inc, kinds[1].inc)
        tokens[0](used.prompt_tokens)
        tokens[1](used.completion_tokens)
        if used.cached_tokens:
            self._of(self._tokens, strategy, *served, "cached").inc(used.cached_tokens)

    def _search(self, search: Retrieval) -> None:
        source, outcome = made = search.source, search.error or "ok"
        if (counted := self._searched.get(made)) is None:
            count = self._searches.labels(source, outcome).inc
            found, seconds = self._passages.labels(source), self._search_seconds.labels(source)
            counted = self._searched[made] = (count, found.inc, seconds.observe)
        count, add, observe = counted
        count()
        add(len(search.found))
        if search.seconds is not None:
            observe(search.seconds)

    def _strategy(self, names: str) -> str:
        """A strategy's name, or that of a pipe that the server knows: clients can compose any number."""
        return names if "|" not in names or names in self._pipes else PIPE

    def _of(self, metric: Any, *labels: str) -> Any:
        """The series of these labels; finding it here takes a third of the time that `labels` takes."""
        found = self._children.get((metric, *labels))
        if found is None:
            found = self._children[(metric, *labels)] = metric.labels(*labels)
        return found

    async def open(self) -> None:
        """Where there are several processes, write what is read from now on."""
        if self._several:
            self._refreshing = asyncio.create_task(self._refresh_on())

    async def close(self) -> None:
        """Stop writing."""
        if self._refreshing is not None:
            self._refreshing.cancel()
            await asyncio.gather(self._refreshing, return_exceptions=True)

    async def _refresh_on(self) -> None:
        while True:
            self._refresh()
            await asyncio.sleep(REFRESH_S)

    def _refresh(self) -> None:
        for watched in self._watched:
            watched.refresh()

    async def exposition(self, accept: str) -> tuple[bytes, str]:
        """All metrics in the format that the scraper prefers, and its content type."""
        self._refresh()
        registry = self._registry
        if self._several:
            registry = CollectorRegistry()
            MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
        encode, content_type = choose_encoder(accept)
        return await asyncio.to_thread(encode, registry), content_type


def _build() -> Mapping[tuple[str, ...], float]:
    return {(version("veridical"),): 1.0}
