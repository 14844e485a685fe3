"""What becomes known of one request while it runs: metrics, the log and traces are made from it.

Whoever learns something writes it to `current()`, as strategies do to their trace. Nothing here is ever a
prompt, an answer or a key, nor a name that only the client has chosen: models and strategies are those that
were found under what it asked for.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager
from contextvars import ContextVar, Token
from dataclasses import dataclass, field
from types import TracebackType
from typing import TYPE_CHECKING, Literal

from veridical.strategies.backend import Backend
from veridical.strategies.base import Retrieve, Strategy
from veridical.strategies.errors import VeridicalError
from veridical.strategies.trace import Call, Retrieval, Trace
from veridical.strategies.types import Status, Usage

if TYPE_CHECKING:
    from veridical.middleware.observing.tracing import Tracing

Outcome = Literal["ok", "degraded", "error", "disconnected"]
#: The status of a request whose client left before there was one, as nginx writes it.
CLIENT_GONE = 499
#: A client's own name for its request; what looks otherwise is left out of the log.
_CLIENT_ID = re.compile(r"[\w.:+/=-]{1,128}", re.ASCII)
#: The step of a call that was passed on as bytes.
RELAY = "relay"
#: How a call ended that nobody waited for any longer, as its trace has it.
CANCELLED = frozenset({"CancelledError", "GeneratorExit", "Closed"})


@dataclass(slots=True)
class Observation:
    """One request. `seconds` and `first_byte` count from its start; comments of a stream are no bytes.

    `endpoint` is one of a fixed set, `path` what the client sent, without its query. `error` is the code of
    what went wrong, `fault` its class. `calls` are those that backends were asked, and the shared ones.
    """

    method: str = ""
    path: str = ""
    endpoint: str = ""
    client_id: str = ""
    tracing: Tracing | None = None
    id: str = field(default_factory=lambda: os.urandom(12).hex())
    started: float = field(default_factory=time.perf_counter)
    model: str = ""
    backend: str = ""
    strategy: str = ""
    key: str = ""
    status: int = CLIENT_GONE
    streamed: bool = False
    first_byte: float | None = None
    seconds: float = 0.0
    complete: bool = False
    error: str = ""
    fault: str = ""
    trace_id: str = ""
    calls: list[Call] = field(default_factory=list)
    retrievals: list[Retrieval] = field(default_factory=list)
    answers: list[Status] = field(default_factory=list)

    @property
    def elapsed(self) -> float:
        """Seconds since it began."""
        return time.perf_counter() - self.started

    @property
    def outcome(self) -> Outcome:
        """How it ended, in one word."""
        if self.error or (self.complete and self.status >= 400):
            return "error"
        if not self.complete:
            return "disconnected"
        return "degraded" if Status.DEGRADED in self.answers else "ok"

    @property
    def made(self) -> list[Call]:
        """The calls that a backend was asked."""
        return [call for call in self.calls if not call.shared]

    @property
    def usage(self) -> Usage:
        """The tokens of all calls, as far as backends told them."""
        return sum((call.usage for call in self.made if call.usage), Usage())

    def routed(self, backend: str, model: str, strategy: str) -> None:
        """It goes to a backend's model, and a strategy (by its `joined_names`) answers it."""
        self.backend, self.model, self.strategy = backend, model, strategy

    def failed(self, error: BaseException) -> None:
        """Something went wrong that the client is told of."""
        self.error = error.code if isinstance(error, VeridicalError) else "internal_error"
        self.fault = type(error).__name__

    def ran(self, trace: Trace, status: Status | None) -> None:
        """A choice has been worked on, and has an answer if there is a status."""
        self.calls += [call for call in trace.calls if not call.cached]  # those were asked of no backend
        self.retrievals += trace.retrievals
        if status is not None:
            self.answers.append(status)

    def spanned(self, backend: Backend, name: str, provider: str) -> Backend:
        """A backend whose calls are traced, where there is tracing."""
        return backend if self.tracing is None else self.tracing.spanned(backend, name, provider)

    def searched(self, sources: Mapping[str, Retrieve]) -> Mapping[str, Retrieve]:
        """Sources whose searches are traced, where there is tracing."""
        return sources if self.tracing is None else self.tracing.searched(sources)

    def relayed(self, operation: str, model: str, backend: str, headers: dict[str, str]) -> Relayed:
        """A call that goes through as bytes, for as long as it takes; `headers` get the trace's.

        `model` is the backend's name of it, `operation` that of OpenTelemetry's conventions, or nothing.
        """
        call = Call(RELAY, model, None, 1, self.elapsed, backend=backend)
        self.calls.append(call)
        span = self.tracing.relayed(operation, call, headers) if self.tracing else None
        return Relayed(self, call, span)


class Relayed:
    """What `Observation.relayed` enters. A class: a generator would take longer than what it does."""

    __slots__ = ("_call", "_seen", "_span")

    def __init__(self, seen: Observation, call: Call, span: AbstractContextManager[None] | None) -> None:
        self._seen, self._call, self._span = seen, call, span

    def __enter__(self) -> Call:
        """It begins."""
        if self._span:
            self._span.__enter__()
        return self._call

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        """It is over."""
        seen, call = self._seen, self._call
        if error is not None:
            call.error = type(error).__name__
        try:
            if self._span:
                self._span.__exit__(kind, error, at)
        finally:
            call.error = call.error or seen.fault or None
            call.seconds = seen.elapsed - call.at


_current: ContextVar[Observation | None] = ContextVar("observation", default=None)


def current() -> Observation:
    """The request that this task works for; outside of requests, one that nobody looks at."""
    return _current.get() or Observation()


def watch(seen: Observation) -> Token[Observation | None]:
    """Let `current` be this one until `unwatch`."""
    return _current.set(seen)


def unwatch(token: Token[Observation | None]) -> None:
    """Let `current` be again what it was."""
    _current.reset(token)


def joined_names(strategy: Strategy) -> str:
    """A strategy's names without options, inner first."""
    parts = strategy.parts()
    return parts[0].name if len(parts) == 1 else "|".join([part.name for part in parts])


def client_id(headers: Iterable[tuple[bytes, bytes]]) -> str:
    """A client's `X-Request-Id`, if it is harmless."""
    for name, value in headers:
        if name == b"x-request-id":
            found = value.decode("latin-1")
            return found if _CLIENT_ID.fullmatch(found) else ""
    return ""
