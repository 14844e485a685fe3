"""What happened during one request: its calls, drafts and notes. Telemetry travels with the call."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field

from veridical.strategies.reply import Reply
from veridical.strategies.types import Claim, Evidence, Message, Usage, total

#: How many backend calls stand one behind the other up to this point of this task. A task
#: inherits its parent's value, so concurrent calls share a depth and dependent ones add up.
chain: ContextVar[int] = ContextVar("chain", default=0)


@dataclass(slots=True)
class Call:
    """One backend call. `at` and `seconds` count from the start of the request.

    `others` are the further choices of a call for several, `part` is the part of a pipe that
    made it, `backend` the name of the one that was asked. A `shared` one took the result of an equal
    call: it cost nothing. A `cached` one was not made now: its usage tells what it took when it was; None
    where no cache was asked.
    """

    step: str
    model: str
    prompt: str | None
    depth: int
    at: float
    messages: Sequence[Message] = ()
    seconds: float | None = None
    usage: Usage | None = None
    output: str = ""
    error: str | None = None
    others: tuple[str, ...] = ()
    part: int = 0
    shared: bool = False
    backend: str = ""
    cached: bool | None = None


@dataclass(slots=True)
class Retrieval:
    """One search of one source. `found` are the ids of what came back, best first; `failed` are the
    sources that it is made of and did without, each with the code of its error."""

    source: str
    query: str
    at: float
    seconds: float | None = None
    found: tuple[str, ...] = ()
    error: str | None = None
    part: int = 0
    failed: dict[str, str] = field(default_factory=dict)


#: The search that this task is part of, for a source that is made of others to say which of them failed.
searching: ContextVar[Retrieval | None] = ContextVar("searching", default=None)


@dataclass(slots=True)
class Trace:
    """The record of one request. `on_progress` hears each step in words, `on_status` the first reply.

    `claims` are those checked so far, for an answer that a limit or a failure cuts short.
    """

    started: float = field(default_factory=time.perf_counter)
    calls: list[Call] = field(default_factory=list)
    retrievals: list[Retrieval] = field(default_factory=list)
    evidence: dict[str, Evidence] = field(default_factory=dict)
    claims: list[Claim] = field(default_factory=list)
    drafts: list[Reply] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    on_progress: Callable[[str], None] | None = None
    on_status: Callable[[], None] | None = None

    @property
    def seconds(self) -> float:
        """Time since the request began."""
        return time.perf_counter() - self.started

    @property
    def made(self) -> list[Call]:
        """The calls that a backend was asked: all but the shared ones."""
        return [call for call in self.calls if not call.shared]

    @property
    def depth(self) -> int:
        """Calls on the longest dependency chain so far."""
        return max((call.depth for call in self.calls), default=0)

    @property
    def usage(self) -> Usage:
        """Tokens of all calls so far."""
        return total([call.usage for call in self.calls if call.usage])

    def open(
        self,
        step: str,
        model: str,
        prompt: str | None,
        messages: Sequence[Message],
        *,
        part: int = 0,
        backend: str = "",
    ) -> Call:
        """Record that a call starts, one step deeper than what this task waited for."""
        chain.set(chain.get() + 1)
        call = Call(step, model, prompt, chain.get(), self.seconds, messages, part=part, backend=backend)
        self.calls.append(call)
        return call

    def share(self, call: Call, depth: int) -> None:
        """Record that a call took the result of one at `depth`: its task waited for that one at most."""
        call.shared = True
        call.depth = max(call.depth - 1, depth)
        chain.set(call.depth)

    def answering(self) -> None:
        """A backend has accepted a call: its status is known."""
        if self.on_status:
            self.on_status()

    def progress(self, words: str) -> None:
        """Tell whoever watches what is being done now."""
        if self.on_progress:
            self.on_progress(words)

    def note(self, words: str) -> None:
        """Keep a remark for the answer's `veridical.notes`, once."""
        if words not in self.notes:
            self.notes.append(words)
