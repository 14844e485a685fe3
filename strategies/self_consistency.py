"""Self-consistency: draw several answers and return the one on which most of them agree."""

from __future__ import annotations

import json
import random
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Annotated, ClassVar, Literal

import pydantic
from pydantic import Field

from veridical.strategies.base import Context, Strategy, unchanged
from veridical.strategies.concurrency import concurrently
from veridical.strategies.errors import UnparsableOutput
from veridical.strategies.prompting import Ask, Prompt
from veridical.strategies.reply import Reply
from veridical.strategies.sampling import samples
from veridical.strategies.types import Answer, Conversation, Params, Status
from veridical.strategies.voting import conclusion, normalised, plurality

GROUP, SELECT = Prompt("self_consistency/group"), Prompt("self_consistency/select")

#: What of the client's does not hold for the draws: they have a temperature of their own and are whole.
_NOT_FOR_DRAWS = frozenset({"temperature", "stream_options"})


@dataclass(frozen=True)
class SelfConsistency(Strategy):
    """Sample several answers, return one of the largest group that agree; its share is the confidence.

    Wang et al., 2023 (arXiv 2203.11171): a question has many wrong answers and one right one, so
    that independent reasoning meets at the right one. For free text `universal` (Chen et al., 2023,
    arXiv 2311.17311) has the model say which sample most of them agree with. Behind another
    strategy in a pipe it votes over whole runs of that.
    """

    n: Annotated[int, Field(ge=1, le=64, description="Answers, or runs of the inner strategy.")] = 5
    vote: Annotated[
        Literal["exact", "normalised", "semantic", "universal"],
        Field(description="When answers agree: same characters, words or meaning, or as one call finds."),
    ] = "normalised"
    temperature: Annotated[
        float, Field(ge=0, le=2, description="Of the draws, in place of the request's.")
    ] = 0.7

    name: ClassVar[str] = "self_consistency"
    paper: ClassVar[str] = "Wang et al., 2023, arXiv 2203.11171; Chen et al., 2023, arXiv 2311.17311"
    calls: ClassVar[str] = (
        "N, or 1 where the backend takes n; 1 more for semantic and universal unless all agree; "
        "behind another strategy N times its calls"
    )
    depth: ClassVar[str] = "1 (semantic and universal: 2); behind another strategy its depth + 0 (or 1)"
    roles: ClassVar[frozenset[str]] = frozenset({"judge"})

    async def __call__(self, conversation: Conversation, ctx: Context) -> Reply:
        """Draw, vote, return the winner as it was drawn."""
        ctx.trace.progress(f"Drawing {self.n} answers")
        replies = await (self._draw if ctx.inner is None else self._run)(conversation, ctx)
        ballots = [_ballot(reply.answer, exact=self.vote == "exact") for reply in replies]
        valid = [index for index, ballot in enumerate(ballots) if ballot is not None]
        if not valid:
            return unchanged(replies[0], ctx)
        winner, agreeing = _counted(valid, ballots)
        answers = [replies[index].answer for index in valid]
        judged = self.vote in ("semantic", "universal") and agreeing < len(valid)
        if judged and not any(answer.calls_tools for answer in answers):
            for index in valid:  # the vote by words is the fallback
                if index != winner:
                    ctx.keep(replies[index])
            ctx.keep(replies[winner].confident(agreeing / self.n))
            ctx.trace.progress("Comparing the answers")
            judge = self._by_meaning if self.vote == "semantic" else self._selected
            at, agreeing = await judge(answers, conversation.question, ctx)
            winner = valid[at]
        ctx.trace.progress(f"{agreeing} of {self.n} agree")
        reply = replies[winner].confident(agreeing / self.n)
        return unchanged(reply, ctx) if winner == 0 else reply.marked(Status.VERIFIED)

    async def _draw(self, conversation: Conversation, ctx: Context) -> list[Reply]:
        ask = Ask("sample", conversation.messages)
        return [Reply.of(each) for each in await samples(ctx.llm, ask, self.n, self._params(ctx))]

    async def _run(self, conversation: Conversation, ctx: Context) -> list[Reply]:
        """Whole runs of the inner strategy. One whose model output cannot be read has no vote."""

        async def run(index: int) -> Reply | UnparsableOutput:
            params = dict(self._params(ctx))
            if isinstance(params.get("seed"), int):
                params["seed"] += index
            try:
                reply = await ctx.nth(index, params).generate(conversation)
                await reply.read()
            except UnparsableOutput as unreadable:
                return unreadable
            return reply

        runs = await concurrently(run, range(self.n))
        replies = [found for found in runs if isinstance(found, Reply)]
        failed = [found for found in runs if isinstance(found, UnparsableOutput)]
        if not replies:
            raise failed[0]
        if failed:
            ctx.trace.note(f"{len(failed)} of {self.n} runs failed and have no vote: {failed[0].message}")
        return replies

    def _params(self, ctx: Context) -> Params:
        kept = {key: value for key, value in ctx.params.items() if key not in _NOT_FOR_DRAWS}
        return {**kept, **ctx.llm.backend.adapted({"temperature": self.temperature})}

    async def _by_meaning(self, answers: Sequence[Answer], question: str, ctx: Context) -> tuple[int, int]:
        """The vote over groups of answers that mean the same; equal words are one entry of the list."""
        said = [_ballot(answer, exact=False) for answer in answers]
        distinct = list(dict.fromkeys(said))
        shown = [" ".join(conclusion(answers[said.index(each)].text).split()) for each in distinct]
        ask = GROUP(question=question, answers=shown)
        shape = groups_of(len(distinct))
        found = await ctx.role("judge").parse(ask, shape, max_tokens=8 * len(distinct) + 32)
        groups = grouped(found.same_as)  # type: ignore[attr-defined]  # made by groups_of
        return _counted(range(len(answers)), [groups[distinct.index(each)] for each in said])

    async def _selected(self, answers: Sequence[Answer], question: str, ctx: Context) -> tuple[int, int]:
        """The model's choice, and how many it says agree with it. The order is shuffled, since models
        prefer certain places, and always in the same way for the same answers."""
        texts = [answer.text.strip() for answer in answers]
        order = list(range(len(texts)))
        random.Random("\n".join(texts)).shuffle(order)  # noqa: S311 - no secret
        ask = SELECT(question=question, responses=[texts[index] for index in order])
        shape = selection_of(len(texts))
        found = await ctx.role("judge").parse(ask, shape, max_tokens=8 * len(texts) + 48)
        choice: int = found.choice  # type: ignore[attr-defined]  # made by selection_of
        agree: list[int] = found.agree  # type: ignore[attr-defined]
        return order[choice - 1], len({*agree, choice})


def _ballot(answer: Answer, *, exact: bool) -> Hashable | None:
    """What an answer votes for: its conclusion, or the calls that it makes; None if it says nothing."""
    if answer.calls_tools:
        calls = answer.message.get("tool_calls") or [{"function": answer.message.get("function_call")}]
        return json.dumps([call.get("function") for call in calls], sort_keys=True)
    said = conclusion(answer.text)
    return (said if exact else normalised(said) or said) or None


def _counted(valid: Sequence[int], ballots: Sequence[Hashable]) -> tuple[int, int]:
    """Which of the `valid` wins the vote, and how many vote as it does."""
    cast = [ballots[index] for index in valid]
    at, _ = plurality(cast)
    return valid[at], cast.count(cast[at])


def grouped(same_as: Sequence[int]) -> list[int]:
    """The group of each item, told by an earliest member, from the (1-based) item that each equals."""
    groups = list(range(len(same_as)))
    for index, other in enumerate(same_as):
        one, two = sorted((groups[index], groups[other - 1]))
        groups = [one if group == two else group for group in groups]
    return groups


@lru_cache(maxsize=64)
def groups_of(count: int) -> type[pydantic.BaseModel]:
    """The shape of a grouping: for each answer the number of one that means the same."""
    number = Annotated[int, Field(ge=1, le=count)]
    bounded = Field(min_length=count, max_length=count)
    return pydantic.create_model("Groups", same_as=(list[number], bounded))


@lru_cache(maxsize=64)
def selection_of(count: int) -> type[pydantic.BaseModel]:
    """The shape of a selection among `count` responses."""
    number = Annotated[int, Field(ge=1, le=count)]
    bounded = Field(json_schema_extra={"maxItems": count})
    return pydantic.create_model("Selection", agree=(list[number], bounded), choice=(number, ...))
