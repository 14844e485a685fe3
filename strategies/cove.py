"""Chain-of-Verification: draft, plan checks, answer each apart from the draft, revise."""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum, auto
from functools import lru_cache
from typing import Annotated, Any, ClassVar, Literal

import pydantic
from pydantic import Field

from veridical.strategies.base import Context, Strategy, unchanged, unchecked
from veridical.strategies.concurrency import concurrently
from veridical.strategies.evidence import fenced
from veridical.strategies.passages import passages
from veridical.strategies.prompting import Prompt
from veridical.strategies.reply import Ending, Reply
from veridical.strategies.thinking import without_thinking_live
from veridical.strategies.types import Claim, Conversation, Delta, Evidence, Status, Verdict

PLAN, JOINT = Prompt("cove/plan"), Prompt("cove/joint")
CHECK, CHECK_ALL = Prompt("cove/check"), Prompt("cove/check_all")
CHECK_EVIDENCE = Prompt("cove/check_evidence")
CROSS_CHECK, REVISE = Prompt("cove/cross_check"), Prompt("cove/revise")

Brief = Annotated[str, Field(json_schema_extra={"maxLength": 300})]


class Check(pydantic.BaseModel):
    """A fact of the draft and the question that tests it; the joint variant answers it at once."""

    fact: Brief = Field(min_length=1)
    question: Brief = Field(min_length=1)


class AnsweredCheck(Check):
    """A check whose answer came in the same completion."""

    answer: Brief


class Label(StrEnum):
    """The cross-check's outcome: the paper's three labels, and one for a source that is silent."""

    CONSISTENT = auto()
    INCONSISTENT = auto()
    PARTLY_CONSISTENT = auto()
    UNANSWERED = auto()


class Comparison(pydantic.BaseModel):
    """What the cross-check of one fact says; `holds` is the part that stands."""

    holds: Brief
    label: Label


VERDICTS = {
    Label.CONSISTENT: Verdict.SUPPORTED,
    Label.INCONSISTENT: Verdict.REFUTED,
    Label.PARTLY_CONSISTENT: Verdict.REFUTED,
    Label.UNANSWERED: Verdict.NOT_ENOUGH_INFO,
}


@dataclass(frozen=True)
class ChainOfVerification(Strategy):
    """Test each fact of a draft with a question that is answered without the draft in view.

    Dhuliawala et al., 2023 (arXiv 2309.11495). A model answers a short isolated question more
    reliably than it produces the same fact inside a long text. A draft in which nothing is
    refuted is returned word for word (`factor_revise`); the other variants, whose checks have
    no verdicts, always rewrite.
    """

    variant: Annotated[
        Literal["joint", "two_step", "factored", "factor_revise"],
        Field(description="How the checks are executed; each stage hides more from the next."),
    ] = "factor_revise"
    max_questions: Annotated[int, Field(ge=1, le=20, description="Checks per passage at most.")] = 5
    max_passages: Annotated[
        int,
        Field(ge=1, le=32, description="An answer of more than 4 sentences is cut into at most this many."),
    ] = 8
    execute_with: Annotated[
        Literal["model", "retrieval"],
        Field(description="What answers the checks: the model's own knowledge, or retrieved passages."),
    ] = "model"
    k: Annotated[int, Field(ge=1, le=20, description="Passages for each check, with retrieval.")] = 3
    source: Annotated[str, Field(description="Retrieval source, by its configured name.")] = "default"

    name: ClassVar[str] = "cove"
    roles: ClassVar[frozenset[str]] = frozenset({"verifier"})
    paper: ClassVar[str] = "Dhuliawala et al., 2023, arXiv 2309.11495"
    calls: ClassVar[str] = (
        "2Q+3, or 2Q+2 if nothing is refuted (factored: Q+3, two_step: 4, joint: 3); "
        "in P passages 1+2P+2Q at most"
    )
    depth: ClassVar[str] = "5 (factored and two_step: 4, joint: 3)"

    @property
    def sources(self) -> frozenset[str]:
        """The source of its checks' evidence, with retrieval."""
        return frozenset({self.source}) if self.execute_with == "retrieval" else frozenset()

    def __post_init__(self) -> None:
        if self.execute_with == "retrieval" and self.variant in ("joint", "two_step"):
            raise ValueError(
                f"variant={self.variant} has no call for each check that could have its evidence"
            )

    async def __call__(self, conversation: Conversation, ctx: Context) -> Reply:
        """Draft, check every passage at once, revise those that did not pass."""
        drafted, draft = await ctx.draft(conversation)
        if draft.calls_tools or not draft.text.strip():
            return unchecked(drafted, ctx, "The draft holds no text to check; it is returned as it is.")
        pieces = [draft.text] if ctx.structured else self._cut(draft.text)
        talks = [conversation.answered(piece.strip() if len(pieces) > 1 else piece) for piece in pieces]
        checked = await concurrently(lambda talk: self._check(talk, ctx), talks)
        claims = [claim for found in checked for claim in found]
        if not any(map(self._needs_revision, checked)):
            if not claims:
                ctx.trace.note("The plan found no fact to check.")
            return unchanged(drafted, ctx).citing(claims=claims)
        ctx.trace.progress("Rewriting what did not pass")
        if len(pieces) == 1:
            final = await ctx.reply(REVISE(checks=claims).after(talks[0].messages))
        else:
            final = await self._splice(pieces, checked, talks, ctx)
        claims = [*drafted.claims, *claims]
        return final.citing(drafted.evidence, claims).marked(Status.VERIFIED)

    def _cut(self, text: str) -> list[str]:
        return passages(text, above=4, at_most=self.max_passages)

    def _needs_revision(self, claims: Sequence[Claim]) -> bool:
        """Whether a passage is rewritten: on a refuted fact, or always where checks have no verdicts."""
        return any(claim.verdict in (Verdict.REFUTED, None) for claim in claims)

    async def _check(self, talk: Conversation, ctx: Context) -> list[Claim]:
        """The checks of the draft, or of the passage of it, on which `talk` ends, by the variant."""
        wording = JOINT if self.variant == "joint" else PLAN
        shape = plan_of(AnsweredCheck if self.variant == "joint" else Check, self.max_questions)
        ask = wording(max_questions=self.max_questions).after(talk.messages)
        ctx.trace.progress("Planning checks")
        plan = await ctx.llm.parse(ask, shape, max_tokens=160 * self.max_questions + 64)
        checks = distinct(plan.checks)[: self.max_questions]  # type: ignore[attr-defined]  # made by plan_of
        for check in checks:
            ctx.trace.progress(f"Checking: {check.question}")
        if not checks:
            return []
        match self.variant:
            case "joint":
                return [_claim(c, c.answer) for c in checks if isinstance(c, AnsweredCheck)]
            case "two_step":
                return await self._check_all(checks, talk, ctx)
            case "factored":
                return await concurrently(lambda check: self._execute(check, talk, ctx), checks)
            case "factor_revise":
                return await concurrently(lambda check: self._cross_check(check, talk, ctx), checks)

    async def _check_all(self, checks: Sequence[Check], talk: Conversation, ctx: Context) -> list[Claim]:
        ask = CHECK_ALL(questions=[check.question for check in checks]).after(talk.instructions)
        found = await ctx.role("verifier").parse(
            ask, answers_of(len(checks)), max_tokens=100 * len(checks) + 64
        )
        answers: list[str] = found.answers  # type: ignore[attr-defined]  # made by answers_of
        return [_claim(check, answer) for check, answer in zip(checks, answers, strict=True)]

    async def _execute(self, check: Check, talk: Conversation, ctx: Context) -> Claim:
        """Answer one question. The draft and the query stay out of sight; the client's system
        messages, which may hold the facts, do not."""
        found: Sequence[Evidence] = ()
        if self.execute_with == "retrieval":
            found = await ctx.retrieve(check.question, source=self.source, k=self.k)
            ask = CHECK_EVIDENCE(evidence=fenced(found), question=check.question)
        else:
            ask = CHECK(question=check.question)
        answer = await ctx.role("verifier")(ask.after(talk.instructions), max_tokens=128)
        return replace(_claim(check, answer), evidence=tuple(each.id for each in found))

    async def _cross_check(self, check: Check, talk: Conversation, ctx: Context) -> Claim:
        """Answer, then compare the fact with the answer, as soon as that one is there."""
        claim = await self._judge(check, await self._execute(check, talk, ctx), ctx)
        ctx.trace.claims.append(claim)
        return claim

    async def _judge(self, check: Check, claim: Claim, ctx: Context) -> Claim:
        if not claim.answer:
            return replace(claim, verdict=Verdict.NOT_ENOUGH_INFO)
        ask = CROSS_CHECK(fact=check.fact, question=check.question, answer=claim.answer)
        found = await ctx.role("verifier").parse(ask, Comparison, max_tokens=200)
        verdict = VERDICTS[found.label]
        ctx.trace.progress(f"{verdict.replace('_', ' ').capitalize()}: {check.fact}")
        correction = found.holds.strip() or claim.answer if verdict is Verdict.REFUTED else None
        return replace(claim, verdict=verdict, correction=correction)

    async def _splice(
        self,
        pieces: Sequence[str],
        checked: Sequence[list[Claim]],
        talks: Sequence[Conversation],
        ctx: Context,
    ) -> Reply:
        """Rewrite the passages that need it, all at once; the others stand word for word."""
        ctx = replace(ctx, params=_without(ctx.params, "logprobs", "top_logprobs"))

        async def rewrite(piece: tuple[list[Claim], Conversation]) -> Reply | None:
            claims, talk = piece
            if not self._needs_revision(claims):
                return None
            reply = await ctx.reply(REVISE(checks=claims).after(talk.messages))
            opened.append(reply)
            return reply

        async def close() -> None:
            for reply in opened:
                await reply.aclose()

        opened: list[Reply] = []
        try:
            rewritten = await concurrently(rewrite, zip(checked, talks, strict=True))
        except BaseException:
            await close()
            raise
        return Reply(_spliced(pieces, rewritten), close)


def _without(params: Any, *names: str) -> dict[str, Any]:
    return {key: value for key, value in params.items() if key not in names}


async def _spliced(
    pieces: Sequence[str], rewritten: Sequence[Reply | None]
) -> AsyncGenerator[Delta | Ending, None]:
    """The passages in order. Those behind the one that streams are generated meanwhile."""
    finish = "stop"
    yield Delta({"role": "assistant", "content": ""})
    for piece, reply in zip(pieces, rewritten, strict=True):
        if reply is None:
            yield Delta({"content": piece})
            continue
        held, begun = "", False
        async for delta in without_thinking_live(reply):
            finish = delta.finish_reason if delta.finish_reason == "length" else finish
            text = held + (delta.text if begun else delta.text.lstrip())
            kept = text.rstrip()
            held = text[len(kept) :]
            if kept:
                begun = True
                yield Delta({"content": kept})
        yield Delta({"content": piece[len(piece.rstrip()) :]})
    yield Delta({}, finish_reason=finish)
    yield Ending()


def distinct(checks: Sequence[Check]) -> list[Check]:
    """The checks without those that ask what an earlier one asks."""
    found: dict[str, Check] = {}
    for check in checks:
        found.setdefault(" ".join(check.question.casefold().split()), check)
    return list(found.values())


_REFUSAL = re.compile(
    r"\W*(?:unknown\b\W*\Z"
    r"|(?:i'?m sorry,? (?:but )?)?i (?:do not|don't|cannot|can't|am unable|am not able|am not sure)"
    r"|i'?m (?:not sure|unable|sorry\W*\Z)|as an ai\b)",
    re.IGNORECASE,
)


def refuses(text: str) -> bool:
    """Whether a check's answer says nothing: it is empty, UNKNOWN as the prompt asks, or a refusal."""
    return not text.strip() or _REFUSAL.match(text.replace("’", "'")) is not None


def _claim(check: Check, answer: str) -> Claim:
    return Claim(check.fact, question=check.question, answer=None if refuses(answer) else answer.strip())


@lru_cache(maxsize=64)
def plan_of(check: type[Check], max_questions: int) -> type[pydantic.BaseModel]:
    """The plan's shape. The schema bounds the list; a longer one is cut, not refused."""
    bounded = Field(json_schema_extra={"maxItems": max_questions})
    return pydantic.create_model("Plan", checks=(list[check], bounded))  # type: ignore[valid-type]  # a run-time type


@lru_cache(maxsize=32)
def answers_of(count: int) -> type[pydantic.BaseModel]:
    """The shape of a 2-step execution: exactly one answer a question."""
    return pydantic.create_model("Answers", answers=(list[Brief], Field(min_length=count, max_length=count)))
