"""What a strategy is: it has the signature of what it wraps, "answer this conversation"."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from typing import Any, ClassVar, TypeVar

from veridical.strategies.errors import InvalidRequest, ToolFailed, VeridicalError, shown
from veridical.strategies.llm import LLM
from veridical.strategies.prompting import Ask
from veridical.strategies.reply import Reply
from veridical.strategies.tools.base import Tool
from veridical.strategies.tools.registry import make_tool
from veridical.strategies.trace import Retrieval, Trace, searching
from veridical.strategies.types import Answer, Conversation, Evidence, Params, Status

T = TypeVar("T")

Retrieve = Callable[[str, int], Awaitable[list[Evidence]]]


@dataclass(frozen=True)
class Domain:
    """A field of knowledge: what it covers, in words for a model, and where it is looked up.

    `sources` maps a source's name to what its queries are written in: "text", or "sparql".
    """

    description: str
    sources: Mapping[str, str]


@dataclass(frozen=True)
class Context:
    """Everything a strategy may use during one request; nothing in it outlives the request.

    `params` are the client's and reach the draft and the final words only. `stream` says
    whether the client streams; drafts are then streamed too, so that one returned unchanged
    can be replayed as it arrived. `inner` is the strategy to the left in a pipe, `part` the
    place in it of the strategy that has this context. `domains` are the fields of knowledge
    that the server's sources are sorted into, if they are.
    """

    llm: LLM
    params: Params = field(default_factory=dict)
    stream: bool = False
    roles: Mapping[str, LLM] = field(default_factory=dict)
    retrievers: Mapping[str, Retrieve] = field(default_factory=dict)
    domains: Mapping[str, Domain] = field(default_factory=dict)
    tools: Mapping[str, Tool] = field(default_factory=dict)
    inner: Within | None = None
    part: int = 0

    @property
    def trace(self) -> Trace:
        """The request's record."""
        return self.llm.trace

    @property
    def structured(self) -> bool:
        """Whether the client wants output of a format, which must stay in one piece. `{"type":
        "text"}`, the default, asks for nothing."""
        wanted = self.params.get("response_format")
        return bool(wanted) and not (isinstance(wanted, dict) and wanted.get("type") == "text")

    def role(self, name: str) -> LLM:
        """The model for a role such as "verifier"; the answering model where none is set."""
        return self.roles.get(name, self.llm)

    def at(self, part: int) -> Context:
        """This context for another part of the pipe."""
        return self._with(lambda llm: replace(llm, part=part), part=part)

    def nth(self, index: int, params: Params) -> Context:
        """This context for the `index`-th of several independent runs, with these client parameters.

        Whatever happens in it, down to the innermost strategy, draws samples of its own, and whole:
        of several runs none can be streamed before all have ended.
        """
        inner = self.inner and replace(self.inner, ctx=self.inner.ctx.nth(index, params))
        return self._with(lambda llm: llm.nth(index), params=params, stream=False, inner=inner)

    def _with(self, change: Callable[[LLM], LLM], **changes: Any) -> Context:
        roles = {name: change(llm) for name, llm in self.roles.items()}
        return replace(self, llm=change(self.llm), roles=roles, **changes)

    async def generate(self, conversation: Conversation) -> Reply:
        """An answer from within: the inner strategy's, or the model's with the client's parameters."""
        if self.inner is not None:
            return await self.inner(conversation)
        return await self.llm.chat(Ask("draft", conversation.messages), self.params, stream=self.stream)

    async def draft(self, conversation: Conversation) -> tuple[Reply, Answer]:
        """An answer from within, read whole and kept as the fallback: the reply and what it says."""
        self.trace.progress("Drafting an answer")
        reply = await self.generate(conversation)
        answer = await reply.read()
        self.keep(reply, self.part if self.inner is None else self.part - 1)
        return reply, answer

    def keep(self, reply: Reply, part: int | None = None) -> None:
        """Keep a reply, read whole, as the fallback for the case that nothing better is finished."""
        reply.part = self.part if part is None else part
        self.trace.drafts.append(reply)

    async def reply(self, ask: Ask) -> Reply:
        """The final words, with the client's own parameters, still arriving if the client streams.

        Tools stay in the prompt (they are part of what the model was told, and of its cached
        prefix) but may not be called: the client's question is being answered here.
        """
        forbidden = {"tools": "tool_choice", "functions": "function_call"}
        params = {**self.params, **{by: "none" for what, by in forbidden.items() if self.params.get(what)}}
        return await self.llm.chat(ask, params, stream=self.stream)

    async def retrieve(self, query: str, *, source: str = "default", k: int = 5) -> list[Evidence]:
        """The `k` passages of `source` that fit `query` best; they are kept in the trace.

        Raises:
            InvalidRequest: the server has no such source.
            RetrievalFailed: the source failed, or did not answer in time.
        """
        if source not in self.retrievers:
            raise no_source(source, self.retrievers)
        trace = self.trace
        search = Retrieval(source, query, trace.seconds, part=self.part)
        trace.retrievals.append(search)
        token = searching.set(search)
        try:
            found = await self.retrievers[source](query, k)
        except VeridicalError as error:
            search.error = error.code
            trace.note(f"{error.code}: {error.message}")
            raise
        except asyncio.CancelledError:
            search.error = "cancelled"
            raise
        finally:
            searching.reset(token)
            search.seconds = trace.seconds - search.at
            for part, code in search.failed.items():
                trace.note(f"retrieval_failed: The source {part!r} failed and was left out ({code}).")
        search.found = tuple([each.id for each in found])
        trace.evidence |= {each.id: each for each in found}
        return found

    def tool(self, name: str) -> Tool:
        """A tool by its name: the server's, or else one of its defaults.

        Raises:
            InvalidRequest: there is none of that name.
        """
        return self.tools[name] if name in self.tools else make_tool(name, self.tools)

    async def using(self, name: str, work: Awaitable[T]) -> T:
        """What a tool's `work` gives. Anybody's tool may stand here, and it may raise anything.

        Raises:
            ToolFailed: it failed; says which tool, not why in full.
        """
        try:
            return await work
        except VeridicalError:
            raise
        except Exception as error:
            raise ToolFailed(f"The tool {shown(name)} failed ({type(error).__name__}).") from error


@dataclass(frozen=True)
class Strategy(ABC):
    """A method of the literature. Its options are the fields of a frozen dataclass.

    `roles` are the models that it asks beside the answering one, `sources` where it searches,
    `tools` what it checks with.
    `calls` and `depth` are formulas in the notation of its page in docs/strategies.md: backend
    calls, and calls on the longest dependency chain.
    """

    name: ClassVar[str]
    paper: ClassVar[str]
    calls: ClassVar[str]
    depth: ClassVar[str]
    roles: ClassVar[frozenset[str]] = frozenset()

    @property
    def sources(self) -> frozenset[str]:
        """Retrieval sources that it cannot do without."""
        return frozenset()

    @property
    def tools(self) -> frozenset[str]:
        """Tools that it cannot do without."""
        return frozenset()

    def parts(self) -> tuple[Strategy, ...]:
        """The strategies that it is made of: itself, or a pipe's stages."""
        return (self,)

    @abstractmethod
    async def __call__(self, conversation: Conversation, ctx: Context) -> Reply:
        """Answer the conversation. The reply may still be arriving."""

    def __or__(self, outer: Strategy) -> Strategy:
        return Pipe(self, outer)

    @cached_property
    def _expression(self) -> str:
        """The canonical expression: the name, and the options that differ from their defaults."""
        given = [f for f in fields(self) if getattr(self, f.name) != f.default]
        options = ",".join(f"{f.name}={_spelled(getattr(self, f.name))}" for f in given)
        return f"{self.name}({options})" if options else self.name

    def __str__(self) -> str:
        return self._expression


def _spelled(value: object) -> str:
    if isinstance(value, bool) or value is None:
        return str(value).lower()
    if isinstance(value, str) and not value.isidentifier():
        escaped = value.replace("\\", "\\\\").replace('"', '\\"')
        return f'"{escaped}"'
    return str(value)


@dataclass(frozen=True)
class Pipe(Strategy):
    """`inner | outer`, as in a shell: outer works on what inner makes."""

    inner: Strategy
    outer: Strategy

    name: ClassVar[str] = "pipe"
    paper: ClassVar[str] = ""
    calls: ClassVar[str] = "the sum of its parts"
    depth: ClassVar[str] = "the sum of its parts"

    @property
    def sources(self) -> frozenset[str]:
        """Those of both."""
        return self.inner.sources | self.outer.sources

    @property
    def tools(self) -> frozenset[str]:
        """Those of both."""
        return self.inner.tools | self.outer.tools

    def parts(self) -> tuple[Strategy, ...]:
        """The stages, inner first."""
        return (*self.inner.parts(), *self.outer.parts())

    async def __call__(self, conversation: Conversation, ctx: Context) -> Reply:
        """Run outer with inner as what it drafts with."""
        own = ctx.at(ctx.part + len(self.inner.parts()))
        return await self.outer(conversation, replace(own, inner=Within(self.inner, ctx)))

    @cached_property
    def _expression(self) -> str:
        """Those of both, as in a shell."""
        return f"{self.inner}|{self.outer}"


@dataclass(frozen=True)
class Within:
    """The strategy to the left in a pipe, and the context in which it runs."""

    strategy: Strategy
    ctx: Context

    async def __call__(self, conversation: Conversation) -> Reply:
        """Its answer."""
        return await self.strategy(conversation, self.ctx)


def no_source(source: str, known: Iterable[str]) -> InvalidRequest:
    """The error of a strategy that searches where there is nothing."""
    has = ", ".join(sorted(known)) or "none"
    words = f"This server has no retrieval source {shown(source)}; it has: {has}."
    return InvalidRequest(words, param="strategy")


def unchanged(reply: Reply, ctx: Context) -> Reply:
    """A draft that stands. What an inner strategy has rewritten or withheld stays marked as such."""
    if ctx.inner is not None and reply.status in (Status.VERIFIED, Status.ABSTAINED):
        return reply
    return reply.marked(Status.UNCHANGED)


def unchecked(reply: Reply, ctx: Context, why: str) -> Reply:
    """A draft that holds nothing to check, returned as it is."""
    ctx.trace.note(why)
    return reply.marked(Status.UNCHANGED)
