"""One request through its strategy: n independent choices, within limits, degrading when they end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from veridical.middleware.cache.asking import Caching
from veridical.middleware.cache.calls import Cached
from veridical.middleware.observing.observation import current
from veridical.middleware.protocol import ChatBody
from veridical.middleware.retrying import Retrying
from veridical.middleware.routing import Mounted, Route
from veridical.strategies.backend import Backend
from veridical.strategies.base import Context, Domain, Retrieve, Strategy
from veridical.strategies.budget import Budget, Limits
from veridical.strategies.errors import (
    BackendError,
    BudgetExceeded,
    DeadlineExceeded,
    RetrievalFailed,
    ToolFailed,
    UnparsableOutput,
    VeridicalError,
)
from veridical.strategies.evidence import supports
from veridical.strategies.llm import LLM
from veridical.strategies.reply import Reply
from veridical.strategies.sharing import Sharing
from veridical.strategies.tools.base import Tool
from veridical.strategies.trace import Call, Retrieval, Trace
from veridical.strategies.types import Answer, Conversation, Delta, Status, total

#: What a strategy may run into and still have a draft to fall back on.
FAILURES = (BackendError, RetrievalFailed, ToolFailed, UnparsableOutput)


@dataclass
class Choice:
    """One of a request's n answers: its trace, and its reply once the strategy has returned one.

    `backends` are its own view of them: what it asks twice, they answer once.
    """

    index: int
    trace: Trace
    reply: Reply | None = None
    backends: dict[str, Backend] = field(default_factory=dict)


@dataclass
class Run:
    """A request's work. Everything that it spends and finds is reached from here.

    `route` leads to the model that drafts: the one asked for, unless a generator is configured.
    """

    id: str
    request: ChatBody
    route: Route
    strategy: Strategy
    limits: Limits
    headers: Mapping[str, str]
    roles: Mapping[str, Route] = field(default_factory=dict)
    retrievers: Mapping[str, Retrieve] = field(default_factory=dict)
    domains: Mapping[str, Domain] = field(default_factory=dict)
    tools: Mapping[str, Tool] = field(default_factory=dict)
    traced: bool = True
    caching: Caching | None = None

    def __post_init__(self) -> None:
        asked = self.request.controls.budget
        self.budget = Budget(self.limits.lowered(asked.max_calls, asked.max_tokens, asked.deadline_s))
        self.choices = [Choice(index, Trace()) for index in range(self.request.n)]
        self.direct = self.strategy.name == "direct"

    def watch(self, on_progress: Callable[[int, str], None] | None, on_status: Callable[[], None]) -> None:
        """Tell of each choice's steps in words, and of the first backend call that is accepted."""
        for choice in self.choices:
            choice.trace.on_status = on_status
            if on_progress:
                choice.trace.on_progress = _numbered(on_progress, choice.index)

    def _context(self, choice: Choice) -> Context:
        params = self.request.params
        if not self.request.stream:
            params.pop("stream_options", None)
        if choice.index and isinstance(params.get("seed"), int):
            params["seed"] += choice.index  # one seed for all would draw the same answer n times
        roles = {name: self._llm(route, choice) for name, route in self.roles.items()}
        return Context(
            self._llm(self.route, choice),
            params,
            self.request.stream,
            roles,
            self.retrievers,
            self.domains,
            self.tools,
        )

    def _llm(self, route: Route, choice: Choice) -> LLM:
        name = route.mounted.name
        if name not in choice.backends:
            choice.backends[name] = self._view(route.mounted)
        used = choice.backends[name]
        return LLM(used, route.model, self.budget, choice.trace, self.headers, choice.index, served_by=name)

    def _view(self, mounted: Mounted) -> Backend:
        """A choice's own view of a backend; what the cache answers has no span, since nothing is called."""
        backend = mounted.backend if self.direct else Retrying(mounted.backend, self.budget)
        backend = current().spanned(backend, mounted.name, "openai" if mounted.http else "langchain")
        if self.caching:
            backend = Cached(backend, mounted, self.caching)
        return backend if self.direct else Sharing(backend)

    async def _begin(self, choice: Choice) -> Reply:
        await self.route.mounted.ready()
        for route in self.roles.values():
            await route.mounted.ready()
        choice.reply = await self.strategy(Conversation(self.request.messages), self._context(choice))
        return choice.reply

    async def whole(self, choice: Choice) -> Answer:
        """The choice's whole answer; the best draft where a limit or a failure ends the run.

        Raises:
            VeridicalError: there is no draft, or the request wants the error.
        """
        try:
            async with asyncio.timeout(max(0.0, self.budget.seconds_left)):
                reply = await self._begin(choice)
                return await reply.read()
        except TimeoutError:
            reply = self._degraded(choice, self._late())
        except (BudgetExceeded, *FAILURES) as error:
            reply = self._degraded(choice, error)
        return await reply.read()

    async def live(self, choice: Choice) -> AsyncGenerator[Delta, None]:
        """The choice's deltas as they arrive. Until its first text a failure still gives the draft.

        Raises:
            VeridicalError: as `whole`, and whatever breaks once text has been passed on.
        """
        spoken = False
        deltas: AsyncIterator[Delta] | None = None
        try:
            while True:
                try:
                    async with asyncio.timeout(max(0.0, self.budget.seconds_left)):
                        if deltas is None:
                            deltas = aiter(await self._begin(choice))
                        delta = await anext(deltas, None)
                except (TimeoutError, BudgetExceeded, *FAILURES) as error:
                    failure = self._late() if isinstance(error, TimeoutError) else error
                    if spoken:
                        raise failure from None
                    draft = self._degraded(choice, failure)
                    break
                if delta is None:
                    return
                spoken |= bool(delta.fields.get("content") or delta.fields.get("tool_calls"))
                yield delta
            async for delta in draft:
                yield delta
        finally:
            if choice.reply:
                await choice.reply.aclose()

    def _late(self) -> DeadlineExceeded:
        return DeadlineExceeded(f"The deadline of {self.budget.limits.deadline_s:g} s has passed.")

    def _degraded(self, choice: Choice, error: VeridicalError) -> Reply:
        """The latest draft in place of an answer that could not be finished, and why."""
        wanted = self.request.controls
        policy = wanted.on_limit if isinstance(error, BudgetExceeded) else wanted.on_failure
        if policy == "error" or not choice.trace.drafts:
            raise error
        choice.trace.note(f"{error.code}: {error.message}")
        draft = choice.trace.drafts[-1].marked(Status.DEGRADED)
        choice.reply = draft.citing(claims=[c for c in choice.trace.claims if c not in draft.claims])
        return choice.reply


def _numbered(on_progress: Callable[[int, str], None], index: int) -> Callable[[str], None]:
    return lambda words: on_progress(index, words)


def worst(statuses: Sequence[Status]) -> Status:
    """The status of a request with several choices: degraded if one is, then abstained,
    verified if one was rewritten."""
    if len(statuses) == 1:
        return statuses[0]
    order = (Status.DEGRADED, Status.ABSTAINED, Status.VERIFIED, Status.UNCHANGED, Status.DIRECT)
    return min(statuses, key=order.index, default=Status.DEGRADED)


def traced(run: Run, level: str | None) -> dict[str, Any] | None:
    """The answer's `veridical` object, as much of it as was asked for."""
    if not run.traced or level == "none":
        return None
    traces = [choice.trace for choice in run.choices]
    calls = [call for trace in traces for call in trace.calls]
    made = [call for call in calls if not call.shared]
    told = [_told(choice) for choice in run.choices]
    report: dict[str, Any] = {
        "id": run.id,
        "strategy": str(run.strategy),
        "status": worst([each["status"] for each in told]),
        "calls": len(made),
        "depth": max([call.depth for call in calls], default=0),
        "seconds": round(max([trace.seconds for trace in traces]), 3),
        "usage_by_step": _by_step(made),
        "claims": told[0]["claims"] if len(told) == 1 else [],
        "notes": list(dict.fromkeys(note for trace in traces for note in trace.notes)),
    }
    if len(made) < len(calls):
        report["shared_calls"] = len(calls) - len(made)
    if run.caching and (cached := _cached(made)):
        report["cache"] = cached
    if (parts := len(run.strategy.parts())) > 1:
        report["parts"] = [_part(run, index) for index in range(parts)]
    if run.roles:
        report["roles"] = {role: route.name for role, route in run.roles.items()}
    found = {each.id: each for trace in traces for each in trace.evidence.values()}
    if found:
        report["evidence"] = list(found.values())  # which orjson writes as the dataclasses that they are
    if searches := [search for trace in traces for search in trace.retrievals]:
        report["retrievals"] = [_retrieval(search) for search in searches]
    if len(told) > 1:
        report["choices"] = told
    else:
        report |= {key: told[0][key] for key in ("confidence", "support") if key in told[0]}
    if level == "full":
        full: dict[str, list[Any]] = {
            "steps": [[_step(call) for call in trace.calls] for trace in traces],
            "drafts": [[draft.answer.text for draft in trace.drafts] for trace in traces],
            "draft_parts": [[draft.part for draft in trace.drafts] for trace in traces],
        }
        report |= {key: each[0] if len(told) == 1 else each for key, each in full.items()}
    return report


def _cached(made: Sequence[Call]) -> dict[str, Any]:
    """How many of the calls that a cache may answer it did, and the tokens of these, which were not spent
    again; empty where it may answer none."""
    calls = [call for call in made if call.cached is not None]
    hits = [call for call in calls if call.cached]
    saved = total([call.usage for call in hits if call.usage])
    told = {"hits": len(hits), "misses": len(calls) - len(hits), "saved_tokens": saved.total_tokens}
    return told if calls else {}


def _told(choice: Choice) -> dict[str, Any]:
    reply = choice.reply
    told: dict[str, Any] = {
        "status": reply.status if reply else Status.DEGRADED,
        "claims": [_claim(claim) for claim in (reply.claims if reply else ())],
        "notes": choice.trace.notes,
    }
    if reply and reply.confidence is not None:
        told["confidence"] = round(reply.confidence, 4)
    if reply and reply.evidence:
        told["support"] = supports(reply.answer.text, reply.evidence)
    return told


def _retrieval(search: Retrieval) -> dict[str, Any]:
    """One search, without what it found: that stands in the evidence."""
    return {
        "source": search.source,
        "query": search.query,
        "at": round(search.at, 3),
        "seconds": None if search.seconds is None else round(search.seconds, 3),
        "found": search.found,
        "error": search.error,
        "part": search.part,
        "failed": search.failed,
    }


def _claim(claim: Any) -> dict[str, Any]:
    found = {
        "text": claim.text,
        "verdict": claim.verdict,
        "evidence": list(claim.evidence),
        "question": claim.question,
        "answer": claim.answer,
    }
    rest = {"correction": claim.correction, "confidence": claim.confidence}
    return found | {name: value for name, value in rest.items() if value is not None}


def _by_step(made: Sequence[Call]) -> dict[str, dict[str, Any]]:
    steps: dict[str, dict[str, Any]] = {}
    for call in made:
        step = steps.setdefault(
            call.step, {"calls": 0, "prompt_tokens": 0, "completion_tokens": 0, "seconds": 0.0}
        )
        step["calls"] += 1
        step["seconds"] = round(step["seconds"] + (call.seconds or 0.0), 3)
        if call.usage:
            step["prompt_tokens"] += call.usage.prompt_tokens
            step["completion_tokens"] += call.usage.completion_tokens
            if call.usage.cached_tokens:
                step["cached_tokens"] = step.get("cached_tokens", 0) + call.usage.cached_tokens
    return steps


def _part(run: Run, index: int) -> dict[str, Any]:
    """What one part of a pipe cost: its calls, and on how many levels of the chain they stood."""
    traces = [choice.trace for choice in run.choices]
    made = [[call for call in trace.made if call.part == index] for trace in traces]
    usage = total([call.usage for calls in made for call in calls if call.usage])
    return {
        "strategy": str(run.strategy.parts()[index]),
        "calls": sum(map(len, made)),
        "depth": max(len({call.depth for call in calls}) for calls in made),
        "retrievals": sum(search.part == index for trace in traces for search in trace.retrievals),
        "drafts": sum(draft.part == index for trace in traces for draft in trace.drafts),
        "usage": usage.to_wire(),
    }


def _step(call: Call) -> dict[str, Any]:
    others = {"others": list(call.others)} if call.others else {}
    return {
        "step": call.step,
        "part": call.part,
        "shared": call.shared,
        **({} if call.cached is None else {"cached": call.cached}),
        "model": call.model,
        "prompt": call.prompt,
        "depth": call.depth,
        "at": round(call.at, 3),
        "seconds": None if call.seconds is None else round(call.seconds, 3),
        "usage": call.usage.to_wire() if call.usage else None,
        "messages": list(call.messages),
        "output": call.output,
        **others,
        "error": call.error,
    }
