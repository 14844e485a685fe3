"""LM vs LM: an examiner questions the model about each claim of its answer, then rules on the claim."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum, auto
from functools import lru_cache
from typing import Annotated, Any, ClassVar, Literal, TypeVar

import pydantic
from pydantic import Field

from veridical.strategies.base import Context, Strategy, unchanged, unchecked
from veridical.strategies.concurrency import concurrently
from veridical.strategies.errors import UnparsableOutput
from veridical.strategies.evidence import distinct, fenced
from veridical.strategies.llm import LLM
from veridical.strategies.passages import sentences
from veridical.strategies.prompting import Ask, Prompt
from veridical.strategies.reply import Reply
from veridical.strategies.types import (
    Answer,
    Claim,
    Conversation,
    Evidence,
    Message,
    Params,
    Status,
    Verdict,
)

CLAIMS, SETUP, ANSWER = Prompt("lm_vs_lm/claims"), Prompt("lm_vs_lm/setup"), Prompt("lm_vs_lm/answer")
FOLLOW_UP = Prompt("lm_vs_lm/follow_up")
MORE, QUESTIONS = Prompt("lm_vs_lm/more"), Prompt("lm_vs_lm/questions")
DECIDE, REVISE = Prompt("lm_vs_lm/decide"), Prompt("lm_vs_lm/revise")

T = TypeVar("T", bound=pydantic.BaseModel)
Brief = Annotated[str, Field(min_length=1, json_schema_extra={"maxLength": 300})]


class More(pydantic.BaseModel):
    """Whether the examiner wants to go on asking."""

    more: bool


class Ruling(StrEnum):
    """The examiner's decision: the paper's two words, and one for an inconclusive examination."""

    CORRECT = auto()
    INCORRECT = auto()
    INCONCLUSIVE = auto()


class Decision(pydantic.BaseModel):
    """How one examination ended; the reason stands before the ruling."""

    conclusion: Annotated[str, Field(json_schema_extra={"maxLength": 300})]
    ruling: Ruling


VERDICTS = {
    Ruling.CORRECT: Verdict.SUPPORTED,
    Ruling.INCORRECT: Verdict.REFUTED,
    Ruling.INCONCLUSIVE: Verdict.NOT_ENOUGH_INFO,
}


@dataclass(frozen=True)
class CrossExamination(Strategy):
    """Question the model about each claim of its draft and reject claims that its answers contradict.

    Cohen et al., 2023 (arXiv 2305.13281). A false claim tends to contradict what the same model says
    about related facts. The method detects; what follows a rejection is `on_reject`. A claim is
    rejected if most of its examinations reject it.
    """

    examinations: Annotated[
        int, Field(ge=1, le=9, description="Independent examinations of each claim; the majority rules.")
    ] = 3
    max_follow_ups: Annotated[
        int, Field(ge=0, le=10, description="Rounds of further questions in an examination at most.")
    ] = 2
    max_questions: Annotated[int, Field(ge=1, le=10, description="Questions in a round at most.")] = 5
    max_claims: Annotated[int, Field(ge=1, le=32, description="Claims of the draft at most.")] = 5
    on_reject: Annotated[
        Literal["flag", "abstain", "revise"],
        Field(
            description="After a rejected claim: the draft with the claim marked, a refusal, or a rewrite."
        ),
    ] = "flag"
    merged: Annotated[
        bool, Field(description="Ask for further questions or none in one call; false: the paper's two.")
    ] = True
    temperature: Annotated[
        float, Field(ge=0, le=2, description="Of examiner and examinee; above 0 where examinations are > 1.")
    ] = 1.0
    k: Annotated[
        int, Field(ge=0, le=20, description="Passages for each rejected claim when revising; 0 = none.")
    ] = 3
    source: Annotated[
        str, Field(description="Retrieval source for revising; the default one only where there is one.")
    ] = "default"
    refusal: Annotated[str, Field(min_length=1, max_length=500, description="What an abstention says.")] = (
        "I do not have a reliable answer to this."
    )

    name: ClassVar[str] = "lm_vs_lm"
    roles: ClassVar[frozenset[str]] = frozenset({"examiner"})
    paper: ClassVar[str] = "Cohen et al., 2023, arXiv 2305.13281"
    calls: ClassVar[str] = (
        "2 + one examination of 3+2t+d calls (merged=false: 3+3t+d) E times for each of C claims; "
        "1 more to revise"
    )
    depth: ClassVar[str] = "5+2t+d of the longest examination (merged=false: 5+3t+d); 1 more to revise"

    def __post_init__(self) -> None:
        if self.examinations > 1 and self.temperature == 0:
            raise ValueError("several examinations at temperature=0 would all be the same one")

    @property
    def sources(self) -> frozenset[str]:
        """A source that was named for revising; the default one is used where there is one."""
        named = self.on_reject == "revise" and self.k > 0 and self.source != "default"
        return frozenset({self.source}) if named else frozenset()

    async def __call__(self, conversation: Conversation, ctx: Context) -> Reply:
        """Draft, list its claims, examine all at once, then do with the rejected what `on_reject` says."""
        drafted, draft = await ctx.draft(conversation)
        if draft.calls_tools or not draft.text.strip():
            return unchecked(drafted, ctx, "The draft holds no text to examine; it is returned as it is.")
        stated = await self._claims(conversation, draft.text, ctx)
        if not stated:
            return unchecked(drafted, ctx, "The draft states no fact to examine.")
        claims = await concurrently(lambda text: self._examined(text, conversation, ctx), stated)
        rejected = [claim for claim in claims if claim.verdict is Verdict.REFUTED]
        if not rejected or self.on_reject == "flag":
            return unchanged(drafted, ctx).citing(claims=claims)
        if self.on_reject == "abstain":
            return self._abstained(draft, ctx).citing(claims=[*drafted.claims, *claims])
        return await self._revised(conversation.answered(draft.text), drafted, claims, ctx)

    async def _claims(self, conversation: Conversation, draft: str, ctx: Context) -> list[str]:
        """The draft's claims as statements, by the model that made them, each once."""
        ctx.trace.progress("Listing the claims")
        ask = CLAIMS(max_claims=self.max_claims).after(conversation.answered(draft).messages)
        found = await ctx.llm.parse(ask, list_of("claims", self.max_claims), max_tokens=100 * self.max_claims)
        stated = fresh(found.claims, set())[: self.max_claims]  # type: ignore[attr-defined]  # made by list_of
        if len(stated) == self.max_claims < len(sentences(draft)):
            ctx.trace.note(f"The draft may state more than the {self.max_claims} claims that were examined.")
        return stated

    async def _examined(self, text: str, conversation: Conversation, ctx: Context) -> Claim:
        """A claim with the verdict of the majority of its examinations."""
        ctx.trace.progress(f"Examining: {text}")
        decisions = await concurrently(
            lambda index: self._examination(text, index, conversation, ctx), range(self.examinations)
        )
        claim = ruled(text, decisions)
        ctx.trace.claims.append(claim)
        ctx.trace.progress(f"{str(claim.verdict).replace('_', ' ').capitalize()}: {text}")
        return claim

    async def _examination(
        self, claim: str, index: int, conversation: Conversation, ctx: Context
    ) -> Decision:
        """Set-up, follow-ups, decision. One whose output cannot be read has decided nothing."""
        interview = self._interview(claim, index, conversation, ctx)
        try:
            return await self._conducted(claim, interview)
        except UnparsableOutput as error:
            ctx.trace.note(f"An examination counts as inconclusive: {error.message}")
            return Decision(conclusion="", ruling=Ruling.INCONCLUSIVE)

    async def _conducted(self, claim: str, interview: Interview) -> Decision:
        setup = SETUP(claim=claim, max_questions=self.max_questions)
        answers = await interview.answers(await interview.questions(setup, self.max_questions, least=1))
        for _ in range(self.max_follow_ups):
            further = await self._further(interview, answers)
            answers = await interview.answers(further) if further else ""
            if not further:
                break
        return await interview.examiner_says(DECIDE(claim=claim, answers=answers), Decision)

    async def _further(self, interview: Interview, answers: str) -> list[str]:
        """The examiner's further questions; none ends the examination."""
        if self.merged:
            ask = FOLLOW_UP(answers=answers, max_questions=self.max_questions)
            return await interview.questions(ask, self.max_questions)
        if not (await interview.examiner_says(MORE(answers=answers), More)).more:
            return []
        return await interview.questions(QUESTIONS(max_questions=self.max_questions), self.max_questions)

    def _interview(self, claim: str, index: int, conversation: Conversation, ctx: Context) -> Interview:
        """Both sides ready to begin. Draws are numbered, so that nothing merges two examinations; a
        seed of the client's is moved on with them."""
        own: dict[str, Any] = {"temperature": self.temperature}
        if isinstance(seed := ctx.params.get("seed"), int):
            own["seed"] = seed + index
        examiner, examinee = ctx.role("examiner").nth(index), ctx.llm.nth(index)
        return Interview(examiner, examinee, own, conversation.answered(claim).messages)

    def _abstained(self, draft: Answer, ctx: Context) -> Reply:
        """The refusal; where the client wants structured output, in OpenAI's own field for one."""
        said = {"content": None, "refusal": self.refusal} if ctx.structured else {"content": self.refusal}
        answer = Answer({"role": "assistant", **said}, envelope=draft.envelope)
        return Reply.of(answer).marked(Status.ABSTAINED)

    async def _revised(
        self, talk: Conversation, drafted: Reply, claims: Sequence[Claim], ctx: Context
    ) -> Reply:
        """The draft rewritten without what was rejected, or with what the evidence says instead."""
        ctx.trace.progress("Rewriting what was rejected")
        found = await concurrently(lambda claim: self._evidence(claim, ctx), claims)
        claims = [
            replace(claim, evidence=tuple(each.id for each in passages))
            for claim, passages in zip(claims, found, strict=True)
        ]
        # The draft's own passages come first, so that the numbers by which it cites them stay true.
        evidence = distinct([*drafted.evidence, *(each for passages in found for each in passages)])
        rejected = [claim for claim in claims if claim.verdict is Verdict.REFUTED]
        ask = REVISE(claims=rejected, evidence=fenced(evidence) if evidence else "")
        final = await ctx.reply(ask.after(talk.messages))
        return final.citing(evidence, [*drafted.claims, *claims]).marked(Status.VERIFIED)

    async def _evidence(self, claim: Claim, ctx: Context) -> list[Evidence]:
        if claim.verdict is not Verdict.REFUTED or not self.k or self.source not in ctx.retrievers:
            return []
        return await ctx.retrieve(claim.text, source=self.source, k=self.k)


@dataclass
class Interview:
    """The two histories of one examination.

    The examiner's holds its instructions, the claim and the answers, never the client's conversation.
    The examinee's (`told`) holds the client's conversation, the claim as its own words and the
    questions, never the examiner's instructions.
    """

    examiner: LLM
    examinee: LLM
    own: Params
    told: tuple[Message, ...]
    asked: tuple[Message, ...] = ()
    known: set[str] = field(default_factory=set)

    async def examiner_says(self, ask: Ask, into: type[T], **params: Any) -> T:
        """The examiner's next words, which its history keeps."""
        ask = ask.after(self.asked)
        found = await self.examiner.parse(ask, into, **{**params, **self.own})
        self.asked = (*ask.messages, {"role": "assistant", "content": found.model_dump_json()})
        return found

    async def questions(self, ask: Ask, most: int, *, least: int = 0) -> list[str]:
        """The examiner's next questions, without those that were asked before."""
        found = await self.examiner_says(ask, list_of("questions", most, least), max_tokens=100 * most)
        return fresh(found.questions, self.known)[:most]  # type: ignore[attr-defined]  # made by list_of

    async def answers(self, questions: Sequence[str]) -> str:
        """The examinee's answers to a whole round, which its history keeps."""
        ask = ANSWER(questions=questions).after(self.told)
        said = await self.examinee(ask, **{"max_tokens": 100 * len(questions), **self.own}) or "(no answer)"
        self.told = (*ask.messages, {"role": "assistant", "content": said})
        return said


def ruled(text: str, decisions: Sequence[Decision]) -> Claim:
    """A claim as more than half of its examinations see it, with their share; not enough info where
    none has so many votes."""
    verdicts = [VERDICTS[decision.ruling] for decision in decisions]
    verdict, votes = Counter(verdicts).most_common(1)[0]
    if 2 * votes <= len(verdicts):
        verdict = Verdict.NOT_ENOUGH_INFO
    agreeing = [each for each in decisions if VERDICTS[each.ruling] is verdict]
    why = next((each.conclusion.strip() for each in agreeing if each.conclusion.strip()), None)
    return Claim(text, verdict, answer=why, confidence=len(agreeing) / len(decisions))


def fresh(items: Sequence[str], known: set[str]) -> list[str]:
    """`items` without what is `known`, to which they are added; case and spacing do not count."""
    found = []
    for item in items:
        key = " ".join(item.casefold().split())
        if key and key not in known:
            known.add(key)
            found.append(item.strip())
    return found


@lru_cache(maxsize=128)
def list_of(name: str, most: int, least: int = 0) -> type[pydantic.BaseModel]:
    """The shape of {name: [text, …]}. The schema bounds the list; a longer one is cut, not refused."""
    bounded = Field(min_length=least, json_schema_extra={"maxItems": most})
    fields: dict[str, Any] = {name: (list[Brief], bounded)}
    return pydantic.create_model(name.capitalize(), **fields)
