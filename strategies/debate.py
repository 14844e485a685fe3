"""Debate: agents answer apart, read one another's answers, answer again; a vote or a judge decides."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Annotated, Any, ClassVar, Literal

import pydantic
from pydantic import Field

from veridical.strategies.base import Context, Strategy, unchanged, unchecked
from veridical.strategies.concurrency import concurrently
from veridical.strategies.errors import VeridicalError
from veridical.strategies.prompting import Ask, Prompt
from veridical.strategies.reply import Reply, rewritten
from veridical.strategies.types import Conversation, Status
from veridical.strategies.voting import conclusion, normalised, plurality

UPDATE, UPDATE_SUMMARY = Prompt("debate/update"), Prompt("debate/update_summary")
SUMMARISE, REFLECT, JUDGE = Prompt("debate/summarise"), Prompt("debate/reflect"), Prompt("debate/judge")

MAX_AGENTS = 8


@dataclass(frozen=True)
class Debate(Strategy):
    """Let several agents answer apart, then revise in view of the others' answers; decide at the end.

    Du et al., 2023 (arXiv 2305.14325). Agents of one round answer at once and see the answers of the
    round before it. Agent i is answered by the model of role `agenti`, else by the answering one.
    """

    agents: Annotated[int, Field(ge=1, le=MAX_AGENTS, description="Agents; one reflects on itself.")] = 3
    rounds: Annotated[
        int, Field(ge=1, le=5, description="Rounds of answers, the independent first one included.")
    ] = 2
    summarise: Annotated[
        Literal["shared", "each"] | None,
        Field(description="Show a summary of the answers, shared or each agent's own; none: the answers."),
    ] = None
    decide: Annotated[
        Literal["vote", "judge"], Field(description="Who picks the final answer: a vote, or role judge.")
    ] = "vote"
    temperature: Annotated[
        float | None, Field(ge=0, le=2, description="Of the agents' answers; none: the client's own.")
    ] = 1.0

    name: ClassVar[str] = "debate"
    roles: ClassVar[frozenset[str]] = frozenset({"judge", *(f"agent{i + 1}" for i in range(MAX_AGENTS))})
    paper: ClassVar[str] = "Du et al., 2023, arXiv 2305.14325"
    calls: ClassVar[str] = (
        "NR for N agents and R rounds; R-1 more to summarise (each: N(R-1)); "
        "1 more for a judge where answers differ"
    )
    depth: ClassVar[str] = "R (with summaries 2R-1); 1 more for a judge where answers differ"

    async def __call__(self, conversation: Conversation, ctx: Context) -> Reply:
        """Independent answers, R-1 rounds of revision, the decision."""
        ctx.trace.progress(f"{self.agents} agents answer")
        agents = await self._opened(conversation, ctx)
        if calling := next((agent for agent in agents if agent.reply.answer.calls_tools), None):
            return unchecked(calling.reply, ctx, "An agent calls tools: its reply is returned as it is.")
        debating = [agent for agent in agents if agent.text.strip()]
        if not debating:
            return unchecked(agents[0].reply, ctx, "No agent gave an answer.")
        for number in range(2, self.rounds + 1):
            _keep(leading(debating), ctx)
            ctx.trace.progress(f"Round {number} of {self.rounds}")
            debating = await self._round(conversation, debating, ctx)
        _keep(leading(debating), ctx)
        return _final(await self._chosen(conversation, debating, ctx), ctx)

    async def _opened(self, conversation: Conversation, ctx: Context) -> list[Agent]:
        """The agents with their independent answers.

        One that fails does not stop the others: their answers are what the request can fall back on.

        Raises:
            VeridicalError: an agent failed.
        """

        async def open_one(index: int) -> Agent | VeridicalError:
            own = self._context(index, ctx)
            try:
                reply = await own.generate(conversation)
                answer = await reply.read()
            except VeridicalError as error:
                return error
            if answer.text.strip() or answer.calls_tools:
                ctx.keep(reply, ctx.part if ctx.inner is None else ctx.part - 1)
            return Agent(own, conversation.answered(answer.text), reply, reply)

        found = await concurrently(open_one, range(self.agents))
        agents = [each for each in found if isinstance(each, Agent)]
        for failure in found:
            if isinstance(failure, VeridicalError):
                if answered := [agent for agent in agents if agent.text.strip()]:
                    _keep(leading(answered), ctx)
                raise failure
        return agents

    def _context(self, index: int, ctx: Context) -> Context:
        """What agent `index` answers with: its model, draws of its own, the client's parameters.

        Another model than the client's own gets them as its backend takes them.
        """
        role = f"agent{index + 1}"
        llm = ctx.role(role)
        params = dict(ctx.params if llm is ctx.llm else llm.backend.adapted(ctx.params))
        if self.temperature is not None:
            params |= llm.backend.adapted({"temperature": self.temperature})
        if isinstance(seed := params.get("seed"), int):
            params["seed"] = seed + index
        own = ctx.nth(index, params)
        return replace(own, llm=own.role(role))

    async def _round(self, conversation: Conversation, agents: Sequence[Agent], ctx: Context) -> list[Agent]:
        """Every agent's answer in view of what all said in the round before."""
        shared = ""
        if self.summarise == "shared" and len(agents) > 1:
            shared = await _summary(conversation, [agent.text for agent in agents], ctx)

        async def update(agent: Agent) -> Agent:
            others = [each.text for each in agents if each is not agent]
            if not others:
                return await agent.answering(REFLECT())
            if self.summarise is None:
                return await agent.answering(UPDATE(answers=[_enclosed(text) for text in others]))
            summary = shared or await _summary(conversation, others, agent.ctx)
            return await agent.answering(UPDATE_SUMMARY(summary=_enclosed(summary)))

        return await concurrently(update, agents)

    async def _chosen(self, conversation: Conversation, agents: Sequence[Agent], ctx: Context) -> Agent:
        """The agent whose answer stands: by vote, or by the judge where the answers differ."""
        index, share = plurality([agent.ballot for agent in agents])
        if self.decide == "vote" or share == 1:
            ctx.trace.note(f"{round(share * len(agents))} of {len(agents)} agents gave this answer.")
            agents[index].reply.confident(share)
            return agents[index]
        first = {agent.ballot: agent for agent in reversed(agents)}
        candidates = list(reversed(first.values()))
        ctx.trace.progress("Judging the answers")
        ask = _within(conversation, JUDGE, [agent.text for agent in candidates])
        choice = await ctx.role("judge").parse(ask, choice_of(len(candidates)), max_tokens=200)
        return candidates[choice.best - 1]  # type: ignore[attr-defined]  # made by choice_of


@dataclass(frozen=True)
class Agent:
    """One agent: what it answers with, its own history, its first reply and its latest."""

    ctx: Context
    talk: Conversation
    first: Reply
    reply: Reply

    @property
    def text(self) -> str:
        """Its latest answer."""
        return self.reply.answer.text

    @property
    def ballot(self) -> str:
        """What it votes for: what its answer comes down to, in any spelling."""
        return normalised(conclusion(self.text))

    async def answering(self, ask: Ask) -> Agent:
        """This agent after one more answer; a silent one keeps its last."""
        ask = ask.after(self.talk.messages)
        reply = await self.ctx.reply(ask)
        answer = await reply.read()
        if _MARK.search(answer.text) and not _MARK.search(self.first.answer.text):
            answer = rewritten(answer, _enclosed(answer.text))  # our marks, copied by a small model
            reply = Reply.of(answer)
        if not answer.text.strip():
            return self
        return replace(self, talk=Conversation(ask.messages).answered(answer.text), reply=reply)


def leading(agents: Sequence[Agent]) -> Agent:
    """The agent whose answer most give, the first of them."""
    return agents[plurality([agent.ballot for agent in agents])[0]]


def _keep(agent: Agent, ctx: Context) -> None:
    """Make an agent's latest answer what the request falls back on."""
    if not ctx.trace.drafts or ctx.trace.drafts[-1] is not agent.reply:
        ctx.keep(agent.reply)


def _final(agent: Agent, ctx: Context) -> Reply:
    if agent.reply is agent.first or agent.text == agent.first.answer.text:
        reply = unchanged(agent.first, ctx)
    else:
        reply = agent.reply.citing(agent.first.evidence, agent.first.claims).marked(Status.VERIFIED)
    reply.confidence = agent.reply.confidence
    return reply


async def _summary(conversation: Conversation, answers: Sequence[str], ctx: Context) -> str:
    return await ctx.llm(_within(conversation, SUMMARISE, answers))


def _within(conversation: Conversation, prompt: Prompt, answers: Sequence[str]) -> Ask:
    """A prompt over some answers in the place of the question: what went before it stays."""
    ask = prompt(question=conversation.question, answers=[_enclosed(text) for text in answers])
    return replace(ask, messages=conversation.asking(str(ask.messages[0]["content"])).messages)


_MARK = re.compile(r"<\s*/?\s*(?:answer|summary)\b[^<>\n]{0,40}>?", re.IGNORECASE)


def _enclosed(text: str) -> str:
    """An answer that cannot close the marks around it."""
    while _MARK.search(text):  # what removing one mark joins may be another
        text = _MARK.sub("", text)
    return text.strip()


@lru_cache(maxsize=8)
def choice_of(count: int) -> type[pydantic.BaseModel]:
    """The judge's choice among `count` answers; the reason stands before it."""
    reason = Annotated[str, Field(json_schema_extra={"maxLength": 300})]
    numbers: Any = Literal[tuple(range(1, count + 1))]
    return pydantic.create_model("Choice", reason=(reason, ...), best=(numbers, ...))
