"""An answer that may still be arriving: iterate it to stream, `read()` it for the whole."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import replace
from typing import Any, Self

from veridical.strategies.types import Answer, Claim, Delta, Evidence, Message, Status, Usage


class Reply:
    """An assistant message on its way, with what is known of it when the strategy returns.

    One type serves streamed and whole answers. It keeps the deltas that passed, so it can be
    iterated again, and closing it closes the backend's stream. `status`, `claims`, `evidence`
    and `confidence` (0 to 1, where the method gives one) say how the answer was made, `part`
    which part of a pipe made it. One taken over from an equal call has that call's depth as `shared`.
    `cached` says whether it came out of a cache; None where it could not.
    """

    def __init__(
        self,
        deltas: AsyncGenerator[Delta | Ending, None] | Sequence[Delta | Ending],
        on_close: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        self._on_close = on_close
        self._source: AsyncGenerator[Delta | Ending, None] | None = None
        self._seen: list[Delta] = []
        self._ending = Ending()
        self._joined: Answer | None = None
        if isinstance(deltas, Sequence):
            for item in deltas:
                self._keep(item)
        else:
            self._source = deltas
        self.status = Status.VERIFIED
        self.claims: tuple[Claim, ...] = ()
        self.evidence: tuple[Evidence, ...] = ()
        self.confidence: float | None = None
        self.part: int | None = None
        self.shared: int | None = None
        self.cached: bool | None = None

    @classmethod
    def of(cls, answer: Answer, others: tuple[Answer, ...] = ()) -> Self:
        """A reply that has wholly arrived."""
        reply = cls([Delta(answer.message, answer.finish_reason, answer.logprobs)])
        reply._ending = Ending(answer.usage, answer.envelope, others)
        reply._joined = answer
        return reply

    def _keep(self, item: Delta | Ending) -> Delta | None:
        self._joined = None
        if isinstance(item, Ending):
            self._ending = self._ending.joined(item)
            return None
        self._seen.append(item)
        return item

    async def __aiter__(self) -> AsyncIterator[Delta]:
        for delta in list(self._seen):
            yield delta
        if self._source is None:
            return
        async for item in self._source:
            if (fresh := self._keep(item)) is not None:
                yield fresh
        self._source = None

    async def read(self) -> Answer:
        """Wait for the whole answer; the parts that came are joined."""
        if self._source is not None:
            async with aclosing(self._source) as source:
                async for item in source:
                    self._keep(item)
            self._source = None
        return self.answer

    @property
    def arrived(self) -> bool:
        """Whether all of it is there."""
        return self._source is None

    @property
    def answer(self) -> Answer:
        """The answer as far as it has come."""
        if self._joined is None:
            self._joined = joined(self._seen, self._ending)
        return self._joined

    @property
    def items(self) -> list[Delta | Ending]:
        """What has come so far, ending last: enough to make the same reply again."""
        return [*self._seen, self._ending]

    @property
    def others(self) -> tuple[Answer, ...]:
        """The further choices, where several were asked for; they share the answer's usage."""
        return self._ending.others

    async def aclose(self) -> None:
        """Stop: the backend's stream is closed with this one, `on_close` even if nothing was read yet.

        (A generator that was never started runs none of its code when it is closed.)
        """
        if self._source is not None:
            source, self._source = self._source, None
            await source.aclose()
        if self._on_close is not None:
            closing, self._on_close = self._on_close, None
            await closing()

    def citing(self, evidence: Iterable[Evidence] = (), claims: Iterable[Claim] = ()) -> Self:
        """This reply with evidence and checked claims added."""
        self.evidence = (*self.evidence, *evidence)
        self.claims = (*self.claims, *claims)
        return self

    def marked(self, status: Status) -> Self:
        """This reply with another status."""
        self.status = status
        return self

    def confident(self, confidence: float) -> Self:
        """This reply with how sure the method is of it."""
        self.confidence = confidence
        return self


class Ending:
    """What a backend tells when its answer is complete: token counts, top-level fields, and the
    other choices where several were asked for."""

    __slots__ = ("envelope", "others", "usage")

    def __init__(
        self,
        usage: Usage | None = None,
        envelope: Mapping[str, Any] | None = None,
        others: tuple[Answer, ...] = (),
    ) -> None:
        self.usage = usage
        self.envelope = envelope or {}
        self.others = others

    def joined(self, later: Ending) -> Ending:
        """This ending with a later one's facts laid over it."""
        others = later.others or self.others
        return Ending(later.usage or self.usage, {**self.envelope, **later.envelope}, others)


def joined(deltas: Sequence[Delta], ending: Ending) -> Answer:
    """The answer that a run of deltas adds up to."""
    if len(deltas) == 1:  # a whole message keeps its exact shape
        (only,) = deltas
        return Answer(only.fields, only.finish_reason or "stop", only.logprobs, ending.usage, ending.envelope)
    message: dict[str, Any] = {"role": "assistant", "content": None}
    logprobs: dict[str, Any] = {}
    finish = "stop"
    for delta in deltas:
        merge_delta(message, delta.fields)
        _append_logprobs(logprobs, delta.logprobs)
        finish = delta.finish_reason or finish
    return Answer(message, finish, logprobs or None, ending.usage, ending.envelope)


def merge_delta(message: dict[str, Any], fields: Message) -> None:
    """Lay one streamed piece on the message: text is appended, tool calls are merged by index."""
    for key, value in fields.items():
        if key == "tool_calls" and isinstance(value, list):
            calls = message.setdefault(key, [])
            for piece in value:
                _merge_tool_call(calls, piece)
        elif isinstance(value, str) and isinstance(message.get(key), str) and key != "role":
            message[key] += value
        elif value is not None or key not in message:
            message[key] = value


def _merge_tool_call(calls: list[dict[str, Any]], piece: Mapping[str, Any]) -> None:
    index = piece.get("index", len(calls))
    while len(calls) <= index and len(calls) <= _MAX_TOOL_CALLS:
        calls.append({})
    call = calls[min(index, len(calls) - 1)]
    for key, value in piece.items():
        if key == "function" and isinstance(value, Mapping):
            function = call.setdefault("function", {})
            for name, part in value.items():
                known = function.get(name)
                joins = name == "arguments" and isinstance(known, str) and isinstance(part, str)
                function[name] = known + part if joins else part
        elif key != "index" and value is not None:
            call[key] = value


#: A stream that claims more parallel calls than this is broken; what is over it lands on the last.
_MAX_TOOL_CALLS = 512


def _append_logprobs(whole: dict[str, Any], part: Any) -> None:
    if isinstance(part, Mapping):
        for key, value in part.items():
            if isinstance(value, list) and isinstance(whole.get(key), list):
                whole[key] = [*whole[key], *value]
            else:
                whole[key] = value


def unstreamed(message: Message) -> Message:
    """A whole message as one delta: tool calls get the index that a delta needs."""
    calls = message.get("tool_calls")
    if not isinstance(calls, list):
        return message
    return {**message, "tool_calls": [{"index": i, **call} for i, call in enumerate(calls)]}


def rewritten(answer: Answer, text: str) -> Answer:
    """`answer` with other words: log-probabilities of the old ones no longer apply."""
    message = {**answer.message, "content": text}
    return replace(answer, message=message, logprobs=None)
