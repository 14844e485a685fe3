"""A backend and a model, metered and traced: how a strategy talks to a model."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any, TypeVar

import pydantic

from veridical.strategies.backend import Backend, ChatRequest
from veridical.strategies.budget import Budget
from veridical.strategies.errors import BackendRefused, UnparsableOutput
from veridical.strategies.prompting import Ask
from veridical.strategies.reply import Ending, Reply
from veridical.strategies.sharing import Sharing
from veridical.strategies.trace import Call, Trace
from veridical.strategies.types import Answer, Delta, Params

T = TypeVar("T", bound=pydantic.BaseModel)

#: A strategy's own questions are answered greedily, as in the papers, and briefly.
OWN_PARAMS: Params = {"temperature": 0, "max_tokens": 512}

#: Independent draws of one question are numbered in this base, so that draws of draws never meet.
MAX_DRAWS = 1000

_LIMITS = frozenset({"max_tokens", "max_completion_tokens"})


@dataclass(frozen=True)
class LLM:
    """Asks one model within one request's budget and trace.

    Calling it gives text, `parse` a value, `chat` a reply that may still be arriving. `sample`
    numbers its draws, `part` says for which part of a pipe it asks, `served_by` names the backend.
    """

    backend: Backend
    model: str
    budget: Budget
    trace: Trace
    headers: Mapping[str, str] = field(default_factory=dict)
    sample: int = 0
    part: int = 0
    served_by: str = ""

    async def __call__(self, ask: Ask, **params: Any) -> str:
        """The model's visible text, stripped; a strategy's own parameters, not the client's."""
        return (await self._asked(ask, self._own(params))).text.strip()

    async def _asked(self, ask: Ask, own: Params) -> Answer:
        """The answer; once more without our limit where that left no words, as hidden reasoning may."""
        answer = await self.answer(ask, own)
        if answer.finish_reason == "length" and not answer.text.strip():
            unlimited = {key: value for key, value in own.items() if key not in _LIMITS}
            answer = await self.answer(ask, unlimited)
        return answer

    async def answer(self, ask: Ask, params: Params) -> Answer:
        """The whole answer under exactly these parameters."""
        return await (await self.chat(ask, params)).read()

    async def answers(self, ask: Ask, params: Params, n: int) -> list[Answer]:
        """Up to `n` answers of one call, which counts once; none where the backend refuses `n`.

        What it refuses, or gives fewer of, it is not asked for again. The first answer carries
        the usage of all.
        """
        try:
            reply = await self.chat(ask, params, n=n)
        except BackendRefused as refused:
            if refused.status not in (400, 415, 422):
                raise
            return []
        drawn = [await reply.read(), *reply.others][:n]
        if len(drawn) < n:
            self.backend.supports.discard("n")
        return drawn

    async def chat(self, ask: Ask, params: Params, *, stream: bool = False, n: int = 1) -> Reply:
        """A reply under exactly these parameters, counted and traced as its last piece passes.

        A call whose result is shared with an equal one is traced and costs nothing; one that a cache
        answers takes nothing from the budget.

        Raises:
            BudgetExceeded: nothing is left to spend.
            BackendError: the backend did not answer.
        """
        request = ChatRequest(
            self.model, ask.messages, params, stream, self.sample, self.headers, n, ask.step
        )
        free = isinstance(self.backend, Sharing) and self.backend.holds(request)
        if not free:
            self.budget.admit()
        call = self.trace.open(
            ask.step, self.model, ask.prompt, ask.messages, part=self.part, backend=self.served_by
        )
        try:
            reply = await self.backend.chat(request)
        except BaseException as error:
            self._failed(call, error)
            call.shared = free
            raise
        if reply.shared is not None:
            self.trace.share(call, reply.shared)
        elif free:  # the call that was to be shared was given up: this one ran in its place
            self.budget.calls += 1
        call.cached = reply.cached
        if call.cached:
            self.budget.calls -= 1
        self.trace.answering()
        if reply.arrived:
            self._account(reply, call)
        else:
            reply = Reply(self._metered(reply, call), self._closing(reply, call))
        reply.part = self.part
        return reply

    def _closing(self, reply: Reply, call: Call) -> Callable[[], Awaitable[None]]:
        async def close() -> None:
            if call.seconds is None:  # it was never read: what it cost is not known
                call.seconds, call.error = self.trace.seconds - call.at, "Closed"
            await reply.aclose()

        return close

    async def _metered(self, reply: Reply, call: Call) -> AsyncGenerator[Delta | Ending, None]:
        try:
            async for delta in reply:
                yield delta
        except BaseException as error:
            self._failed(call, error)
            raise
        finally:
            answer = self._account(reply, call)
            await reply.aclose()
        yield Ending(answer.usage, answer.envelope, reply.others)

    def _account(self, reply: Reply, call: Call) -> Answer:
        """Meter and trace what has come of a reply: all of it, or as far as it came."""
        answer = reply.answer
        call.seconds = self.trace.seconds - call.at
        call.output, call.others = answer.text, tuple(other.text for other in reply.others)
        if not call.shared:
            call.usage = answer.usage
            if not call.cached:
                self.budget.spend(answer.usage)
        if answer.usage is None and call.error is None:
            self.trace.note("A backend reported no usage for a call: the totals leave it out.")
        return answer

    def _failed(self, call: Call, error: BaseException) -> None:
        call.seconds = self.trace.seconds - call.at
        call.error = type(error).__name__

    async def parse(self, ask: Ask, into: type[T], **params: Any) -> T:
        """The model's answer as `into`, by the backend's JSON schema where it has one.

        Output that does not fit is asked for once more, with the fault named.

        Raises:
            UnparsableOutput: the second answer did not fit either.
        """
        answer = await self.constrained(ask, into, params)
        try:
            return parsed(answer.text, into)
        except ValueError as fault:
            again = _again(ask, answer, fault)
        answer = await self.constrained(again, into, params)
        try:
            return parsed(answer.text, into)
        except ValueError as fault:
            raise UnparsableOutput(
                f"{ask.step}: the model's output does not fit after one retry ({fault})."
            ) from None

    def _own(self, params: Params) -> Params:
        return self.backend.adapted({**OWN_PARAMS, **params})

    def shaped(self, into: type[T], params: Params) -> Params:
        """A strategy's own parameters, with the shape of `into` where the backend can hold to it."""
        return self._shaped(into, self._own(params))

    def _shaped(self, into: type[T], own: Params) -> Params:
        if "json_schema" not in self.backend.supports or not self.backend.adapted({"response_format": None}):
            return own
        lengths = "schema_lengths" in self.backend.supports
        return {**own, "response_format": response_format(into, lengths=lengths)}

    async def constrained(self, ask: Ask, into: type[T], params: Params) -> Answer:
        """The model's answer, unread, held to the shape of `into` where the backend can do that."""
        own = self._own(params)
        shaped = self._shaped(into, own)
        try:
            return await self._asked(ask, shaped)
        except BackendRefused as refused:
            if shaped == own or refused.status not in (400, 415, 422):
                raise
        answer = await self._asked(ask, own)
        self.backend.supports.discard("json_schema")  # it was the schema: do not try again
        return answer

    def drawing(self, sample: int) -> LLM:
        """The same model drawing another independent sample."""
        return replace(self, sample=sample)

    def nth(self, index: int) -> LLM:
        """The same model for the `index`-th of several independent samples, whatever sample this is."""
        return self.drawing((self.sample + 1) * MAX_DRAWS + index)


def _again(ask: Ask, answer: Answer, fault: ValueError) -> Ask:
    remark = f"That could not be read: {fault}. Reply again with nothing but the JSON object asked for."
    return ask_more(ask, answer.text[:2000] or "(nothing)", remark)


def ask_more(ask: Ask, answer: str, remark: str) -> Ask:
    """`ask` with its answer and a further user message behind it."""
    more = ({"role": "assistant", "content": answer}, {"role": "user", "content": remark})
    return replace(ask, messages=(*ask.messages, *more))


_DECODER = json.JSONDecoder()
_FENCE = re.compile(r"```(?:json)?\s*(.*?)```", re.DOTALL)


def parsed(text: str, into: type[T]) -> T:
    """Read one JSON value out of `text`: bare, fenced, or inside a sentence.

    Raises:
        ValueError: there is none, or it does not fit `into`; says in what, never quotes the text.
    """
    for candidate in _candidates(text):
        try:
            value, _ = _DECODER.raw_decode(candidate)
        except (ValueError, RecursionError):
            continue
        try:
            return into.model_validate(value)
        except pydantic.ValidationError as wrong:
            first = wrong.errors(include_input=False, include_url=False)[0]
            where = ".".join(map(str, first["loc"])) or "the object"
            raise ValueError(f"{where}: {first['msg']}") from None
    raise ValueError("no JSON value found")


def _candidates(text: str) -> Iterator[str]:
    """What of `text` may be the value: all of it, what is fenced, what begins with a bracket."""
    yield text.strip()
    yield from (match.strip() for match in _FENCE.findall(text))
    yield from (text[at:] for at in (text.find("{"), text.find("[")) if at >= 0)


@lru_cache(maxsize=128)
def response_format(into: type[pydantic.BaseModel], *, lengths: bool = False) -> dict[str, Any]:
    """OpenAI's strict JSON-schema response format for a model class.

    `lengths` keeps the bounds on strings, which keep a small model from rambling inside one;
    grammar-based engines honour them, OpenAI's strict mode refuses them.
    """
    dropped = _PROSE if lengths else _PROSE | _LENGTHS
    schema = _strict(into.model_json_schema(), dropped)
    return {
        "type": "json_schema",
        "json_schema": {"name": into.__name__.lower(), "strict": True, "schema": schema},
    }


_PROSE = frozenset({"title", "default", "description"})
_LENGTHS = frozenset({"minLength", "maxLength"})


def _strict(schema: Any, dropped: frozenset[str]) -> Any:
    """`schema` as strict mode wants it: every property required and no others."""
    if isinstance(schema, list):
        return [_strict(item, dropped) for item in schema]
    if not isinstance(schema, dict):
        return schema
    strict = {key: _strict(value, dropped) for key, value in schema.items() if key not in dropped}
    if isinstance(properties := schema.get("properties"), dict):
        strict["properties"] = {name: _strict(value, dropped) for name, value in properties.items()}
        strict["required"] = list(properties)
        strict["additionalProperties"] = False
    return strict
