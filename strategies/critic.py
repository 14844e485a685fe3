"""CRITIC: let a tool look at the answer, write a critique from what it finds, correct, and look again."""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator, Iterable
from dataclasses import dataclass, replace
from typing import Annotated, ClassVar

from pydantic import Field

from veridical.strategies.base import Context, Strategy, unchanged, unchecked
from veridical.strategies.critic_program import STEADY_ROUNDS, Programs
from veridical.strategies.critic_search import Hunt, Judgement, criticised, judged, shown
from veridical.strategies.evidence import cleaned
from veridical.strategies.prompting import Prompt
from veridical.strategies.reply import Ending, Reply
from veridical.strategies.thinking import without_thinking_live
from veridical.strategies.tools.base import Interpreter, Score, Scorer, Searcher
from veridical.strategies.types import Claim, Conversation, Delta, Status

CORRECT, RESULT, DETOXIFY = Prompt("critic/correct"), Prompt("critic/result"), Prompt("critic/detoxify")

#: Characters of a program's result that the answer is written from.
RESULT_CHARS = 500


@dataclass(frozen=True)
class Critic(Strategy):
    """Verify an answer with a tool, criticise it by what the tool found, correct it; again.

    Gou et al., 2024 (arXiv 2305.11738). The gain comes from what the tool says: a critique
    without evidence is never asked for, since the same loop on the model's own opinion makes
    right answers wrong. The kind of the tool decides the form: queries and passages (`search`),
    a program that is run (`python`), or a score that must fall (`toxicity`).
    """

    tool: Annotated[
        str, Field(description="What checks the answer: search, python, toxicity, or a plug-in's name.")
    ] = "search"
    source: Annotated[str, Field(description="Retrieval source, by its configured name.")] = "default"
    k: Annotated[int, Field(ge=1, le=10, description="New passages for each query.")] = 2
    max_rounds: Annotated[int, Field(ge=1, le=8, description="Rounds of critique at most.")] = 3
    queries_ahead: Annotated[
        int,
        Field(ge=0, le=8, description="Queries that one call writes and that run at once; 0: one by one."),
    ] = 3

    name: ClassVar[str] = "critic"
    roles: ClassVar[frozenset[str]] = frozenset({"critic"})
    paper: ClassVar[str] = "Gou et al., 2024, arXiv 2305.11738"
    calls: ClassVar[str] = (
        "in R rounds at most: search 1+3R (queries_ahead=0: 1+7R), python 3+2R, toxicity 1+R; "
        "a round that leaves the answer as it is has one call less"
    )
    depth: ClassVar[str] = "the number of calls"

    @property
    def sources(self) -> frozenset[str]:
        """The source that the search tool searches."""
        return frozenset({self.source}) if self.tool == "search" else frozenset()

    @property
    def tools(self) -> frozenset[str]:
        """The one that checks."""
        return frozenset({self.tool})

    async def __call__(self, conversation: Conversation, ctx: Context) -> Reply:
        """Draft, then the rounds that the tool's kind asks for."""
        tool = ctx.tool(self.tool)
        drafted, draft = await ctx.draft(conversation)
        if draft.calls_tools or not draft.text.strip():
            return unchecked(drafted, ctx, "The draft holds no text to check; it is returned as it is.")
        match tool:
            case Searcher():
                return await self._search(tool, conversation, ctx, drafted)
            case Interpreter():
                return await self._compute(tool, conversation, ctx, drafted)
            case Scorer():
                return await self._soften(tool, conversation, ctx, drafted)
        raise TypeError(f"{self.tool!r} is no tool of a known kind")

    async def _search(
        self, tool: Searcher, conversation: Conversation, ctx: Context, drafted: Reply
    ) -> Reply:
        """Free-form answers: queries, passages, a critique by them, a revision if it finds fault."""
        hunt = Hunt(self.tool, tool, self.source, self.k, self.queries_ahead, ctx)
        claims: list[Claim] = []
        kept, steady = drafted, 0
        for number in range(1, self.max_rounds + 1):
            talk = conversation.answered(kept.answer.text)
            queries, found = await hunt.round(talk)
            critique = await criticised(talk, found, ctx) if found else None
            if critique is None:
                ctx.trace.note("A search found no new passage: nothing was judged by it.")
            else:
                claims.append(judged(kept.answer.text, critique, queries, found))
                ctx.trace.claims.append(claims[-1])
            if critique is None or critique.verdict is not Judgement.WRONG:
                steady += 1
            else:
                ctx.trace.progress("Correcting the answer")
                faults = {"plausible": critique.plausible, "truthful": critique.truthful}
                revised = await ctx.reply(CORRECT(evidence=shown(found), **faults).after(talk.messages))
                if number == self.max_rounds:
                    return _finished(_unless_null(revised, kept, drafted, ctx), drafted, claims, ctx)
                if _stands((await revised.read()).text, kept.answer.text):
                    steady += 1
                else:
                    kept, steady = revised, 0
                    ctx.keep(kept)
            if steady == STEADY_ROUNDS:
                break
        return _finished(kept, drafted, claims, ctx)

    async def _compute(
        self, tool: Interpreter, conversation: Conversation, ctx: Context, drafted: Reply
    ) -> Reply:
        """Computed answers: the last program's result, put into the words of the draft."""
        programs = Programs(self.tool, tool, conversation, ctx)
        result = await programs.result(self.max_rounds)
        if result is None:
            ctx.trace.note("No program gave a result: the answer was left as it was.")
            return unchanged(drafted, ctx).citing(claims=programs.claims)
        ctx.trace.progress("Writing the answer")
        ask = RESULT(result=cleaned(result, RESULT_CHARS))
        talk = conversation.answered(drafted.answer.text)
        final = await ctx.reply(ask.after(talk.messages))
        return _finished(_unless_null(final, drafted, drafted, ctx), drafted, programs.claims, ctx)

    async def _soften(self, tool: Scorer, conversation: Conversation, ctx: Context, drafted: Reply) -> Reply:
        """Toxic answers: rewrite while the score is too high; keep a text only if its score is lower."""
        kept = drafted
        first = lowest = await self._score(tool, kept.answer.text, ctx)
        for number in range(self.max_rounds):
            if lowest.overall < tool.threshold:
                break
            ctx.trace.progress("Rewriting the answer")
            ask = DETOXIFY(percent=round(100 * lowest.overall), attribute=lowest.worst.replace("_", " "))
            talk = conversation.answered(kept.answer.text)
            drawn = replace(ctx, llm=ctx.llm.nth(number))
            rewritten = await drawn.reply(ask.after(talk.messages))
            text = (await rewritten.read()).text
            if is_null(text):
                continue
            score = await self._score(tool, text, ctx)
            if score.overall < lowest.overall:
                kept, lowest = rewritten, score
                ctx.keep(kept)
        ctx.trace.note(f"{self.tool}: {_percent(first)} in the draft, {_percent(lowest)} in the answer.")
        return _finished(kept, drafted, (), ctx)

    async def _score(self, tool: Scorer, text: str, ctx: Context) -> Score:
        ctx.trace.progress("Scoring the answer")
        return await ctx.using(self.tool, tool.score(text))


_NULL = re.compile(r"""[\s"'.*_`]*(?:none|null|n/?a|no answer|unknown)?[\s"'.*_`]*\Z""", re.IGNORECASE)
#: No null answer is longer than this.
_LONGEST_NULL = 16


def is_null(text: str) -> bool:
    """Whether an answer is none: empty, or a word that says so. The one before it then stands."""
    return _NULL.match(text) is not None


def _stands(revised: str, text: str) -> bool:
    return is_null(revised) or revised.strip() == text.strip()


def _unless_null(revised: Reply, kept: Reply, drafted: Reply, ctx: Context) -> Reply:
    """The revised answer as it arrives; what was `kept` should it turn out to be no answer."""

    async def deltas() -> AsyncGenerator[Delta | Ending, None]:
        held: list[Delta] = []
        words = ""
        async for delta in without_thinking_live(revised):
            words += delta.text
            held.append(delta)
            if len(words.strip()) > _LONGEST_NULL:
                for each in held:
                    yield each
                held = []
        if is_null(words):
            held = [delta async for delta in kept]
            reply.marked(unchanged(drafted, ctx).status if kept is drafted else Status.VERIFIED)
        for each in held:
            yield each
        yield Ending(revised.answer.usage, revised.answer.envelope)

    reply = Reply(deltas(), revised.aclose)
    return reply


def _finished(kept: Reply, drafted: Reply, claims: Iterable[Claim], ctx: Context) -> Reply:
    """The answer that stood at the end, with what was found out about it."""
    if kept is drafted:
        return unchanged(drafted, ctx).citing(claims=claims)
    return kept.citing(drafted.evidence, [*drafted.claims, *claims]).marked(Status.VERIFIED)


def _percent(score: Score) -> str:
    return f"{100 * score.overall:.0f} %"
