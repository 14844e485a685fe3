"""Chain-of-Knowledge: where samples disagree, correct their reasoning step by step from sources."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Annotated, ClassVar, Literal

import pydantic
from pydantic import Field

from veridical.strategies.base import Context, Domain, Strategy, unchanged, unchecked
from veridical.strategies.concurrency import concurrently
from veridical.strategies.errors import RetrievalFailed, UnparsableOutput
from veridical.strategies.evidence import cleaned, distinct, fenced
from veridical.strategies.prompting import Prompt
from veridical.strategies.reply import Reply
from veridical.strategies.sampling import parsed_samples
from veridical.strategies.types import Answer, Claim, Conversation, Evidence, Params, Status, Verdict
from veridical.strategies.voting import majority, normalised

DOMAINS, REASON, RECOUNT = Prompt("cok/domains"), Prompt("cok/reason"), Prompt("cok/recount")
QUERY, SPARQL = Prompt("cok/query"), Prompt("cok/sparql")
CORRECT, NEXT, ANSWER = Prompt("cok/correct"), Prompt("cok/next"), Prompt("cok/answer")

#: What a server that names no domains has: one, with its default source.
UNDIVIDED = {"general": Domain("knowledge of any kind", {"default": "text"})}

Brief = Annotated[str, Field(json_schema_extra={"maxLength": 300})]
Found = Mapping[str, list[Evidence] | RetrievalFailed]


class Reasoning(pydantic.BaseModel):
    """A sampled chain of reasoning: its rationales in order, and the answer."""

    steps: list[Brief]
    answer: Brief


class Selection(pydantic.BaseModel):
    """The domains that a question needs."""

    domains: list[str]


class Correction(pydantic.BaseModel):
    """A rationale as a passage has it. `passage` is that passage's number, 0 where none speaks of it."""

    passage: int
    statement: Brief


@dataclass(frozen=True)
class Preparation:
    """Stage I: the rationales to correct, the answer that they led to, and how many samples gave it.

    `drafted` is the answer as it stands if nothing has to be corrected.
    """

    steps: Sequence[str]
    drafted: Reply
    share: float | None = None


@dataclass(frozen=True)
class Correct:
    """A rationale after its correction: its claim, and the passage that it now rests on."""

    claim: Claim
    passage: Evidence | None = None

    @property
    def text(self) -> str:
        """The rationale as it stands now."""
        return self.claim.correction or self.claim.text


@dataclass(frozen=True)
class ChainOfKnowledge(Strategy):
    """Sample short chains of reasoning; where their answers disagree, correct one chain from sources.

    Li et al., 2023 (arXiv 2305.13269, ICLR 2024). The rationales are corrected one after the other, each
    regenerated from those before it, so that an early error does not carry through to the answer.
    Which sources are searched depends on the domains of the question (`[domains]` of the configuration).

    `prefetch` searches every source with the question itself while the samples are drawn, which replaces
    the query of rationale 1; without it the call graph is the paper's.
    """

    samples: Annotated[int, Field(ge=1, le=20, description="Chains of reasoning to draw.")] = 5
    threshold: Annotated[
        float, Field(ge=0, le=1.01, description="Share of samples with one answer that is agreement enough.")
    ] = 0.5
    rationales: Annotated[int, Field(ge=1, le=5, description="Statements in a chain of reasoning.")] = 2
    k: Annotated[int, Field(ge=1, le=20, description="Passages from each source for each statement.")] = 3
    temperature: Annotated[float, Field(gt=0, le=2, description="Temperature of the samples.")] = 0.7
    prefetch: Annotated[
        bool, Field(description="Search with the question itself while the samples are drawn.")
    ] = True

    name: ClassVar[str] = "cok"
    paper: ClassVar[str] = "Li et al., 2023, arXiv 2305.13269"
    calls: ClassVar[str] = (
        "N+1 if the samples agree, else N+1+2R+(R−1)·S (prefetch=false: N+1+2R+R·S); "
        "one less where the server has one domain only"
    )
    depth: ClassVar[str] = "1 if the samples agree, else 3R (prefetch=false: 3R+1)"

    @property
    def sources(self) -> frozenset[str]:
        """The default source: without any there is nothing to correct from."""
        return frozenset({"default"})

    async def __call__(self, conversation: Conversation, ctx: Context) -> Reply:
        """Prepare, and where the samples disagree adapt and consolidate."""
        run = Run(self, conversation, ctx, ctx.domains or UNDIVIDED)
        prepared = await run.prepare()
        if prepared.drafted.answer.calls_tools or not prepared.steps:
            return unchecked(
                prepared.drafted, ctx, "The draft holds no text to check; it is returned as it is."
            )
        if prepared.share is not None and prepared.share >= self.threshold:
            ctx.trace.note(f"{prepared.share:.0%} of the samples agree: nothing was looked up.")
            return await run.agreed(prepared)
        corrected = await run.adapt(prepared.steps)
        return await run.consolidate(prepared, corrected)


@dataclass
class Run:
    """One question's way through the three stages: what they share."""

    options: ChainOfKnowledge
    conversation: Conversation
    ctx: Context
    domains: Mapping[str, Domain]
    chosen: Sequence[str] = ()
    ahead: Found = field(default_factory=dict)

    async def prepare(self) -> Preparation:
        """Stage I, all at once: draw the samples, choose the domains, search with the question itself."""
        self.ctx.trace.progress("Thinking the question through")
        drafts = self.ctx.inner is not None or bool(self.ctx.params.get("tools"))
        found: list[Preparation] = []

        async def reasoned() -> None:
            found.append(await (self._recounted() if drafts else self._sampled()))

        async def domains() -> None:
            self.chosen = await self._select()

        async def search() -> None:
            if self.options.prefetch:
                question = self.conversation.question
                self.ahead = await self._search(dict.fromkeys(self._languages(self.domains), question))

        await concurrently(lambda task: task(), (reasoned, domains, search))
        return found[0]

    async def _sampled(self) -> Preparation:
        """Draw the samples; the first of the majority's goes on. Those that do not parse are dropped."""
        options = self.options
        wording = REASON(steps=options.rationales, question=self.conversation.question)
        ask = wording.over(self.conversation)
        found = await parsed_samples(
            self.ctx.llm,
            ask,
            reasoning_of(options.rationales),
            options.samples,
            {"temperature": options.temperature, "max_tokens": 256, **_seed(self.ctx.params)},
        )
        if not found:
            raise UnparsableOutput(f"{ask.step}: none of {options.samples} samples could be read.")
        first, share = majority([sample.answer for sample in found])
        message = {"role": "assistant", "content": found[first].answer}
        drafted = Reply.of(Answer(message))
        self.ctx.keep(drafted)
        return Preparation(found[first].steps, drafted, share)

    async def _recounted(self) -> Preparation:
        """The rationales of an answer that is there already: the inner strategy's, or one with tools."""
        drafted, draft = await self.ctx.draft(self.conversation)
        if draft.calls_tools or not draft.text.strip():
            return Preparation((), drafted)
        ask = RECOUNT(steps=self.options.rationales).after(self.conversation.answered(draft.text).messages)
        found = await self.ctx.llm.parse(ask, reasoning_of(self.options.rationales), max_tokens=256)
        return Preparation(found.steps, drafted)

    async def _select(self) -> Sequence[str]:
        """The domains of the question; without a choice there is no call."""
        if len(self.domains) == 1:
            return tuple(self.domains)
        told = [f"{name}: {each.description}" for name, each in self.domains.items()]
        ask = DOMAINS(domains=told, question=self.conversation.question)
        found = await self.ctx.llm.parse(ask, selection_of(tuple(self.domains)), max_tokens=64)
        return list(dict.fromkeys(found.domains))

    def _languages(self, names: Sequence[str] | Mapping[str, Domain]) -> dict[str, str]:
        """The sources of these domains, each once, and what a query to them is written in."""
        return {source: how for name in names for source, how in self.domains[name].sources.items()}

    async def agreed(self, prepared: Preparation) -> Reply:
        """The majority's answer; put into the client's form by one more call where it asked for one."""
        claims = [Claim(step) for step in prepared.steps]
        if self.ctx.params.keys() & _SHAPED:
            return (await self._answer(prepared.steps)).citing(claims=claims).marked(Status.VERIFIED)
        return unchanged(prepared.drafted, self.ctx).citing(claims=claims)

    async def adapt(self, steps: Sequence[str]) -> list[Correct]:
        """Stage II: correct each rationale from the sources, and regenerate the next from those so far."""
        corrected: list[Correct] = []
        statement = steps[0]
        for number in range(self.options.rationales):
            if number:
                statement = await self._next(corrected)
            ahead = not number and self.options.prefetch
            found = await self._known(statement, ahead=ahead)
            corrected.append(await self._corrected(statement, found))
            self.ctx.trace.claims.append(corrected[-1].claim)
        return corrected

    async def _next(self, corrected: Sequence[Correct]) -> str:
        wording = NEXT(question=self.conversation.question, known=[each.text for each in corrected])
        return cleaned(await self.ctx.llm(wording.over(self.conversation), max_tokens=128))

    async def _known(self, statement: str, *, ahead: bool) -> list[Evidence]:
        """What the chosen domains' sources hold on a statement, source by source.

        Raises:
            RetrievalFailed: not one of them answered. (A failed SPARQL query is empty knowledge, as in
                the paper: a model wrote it.)
        """
        languages = self._languages(self.chosen)
        self.ctx.trace.progress(f"Looking up: {statement}")
        if ahead:
            found: Found = {source: self.ahead[source] for source in languages}
        else:
            written = await concurrently(lambda each: self._query(statement, each), languages.values())
            found = await self._search(dict(zip(languages, written, strict=True)))
        failures = [each for each in found.values() if isinstance(each, RetrievalFailed)]
        if len(failures) == len(found) and (ahead or "sparql" not in languages.values()):
            raise failures[0]
        return distinct(each for known in found.values() if isinstance(known, list) for each in known)

    async def _query(self, statement: str, language: str) -> str:
        wording = SPARQL if language == "sparql" else QUERY
        ask = wording(question=self.conversation.question, statement=statement)
        written = await self.ctx.llm(ask, max_tokens=128)
        return " ".join(_bare(written).split()) or statement

    async def _search(self, queries: Mapping[str, str]) -> Found:
        """Every query at its source, at once; with the failure of a source that failed, which the trace
        tells too."""

        async def one(source: str) -> list[Evidence] | RetrievalFailed:
            try:
                return await self.ctx.retrieve(queries[source], source=source, k=self.options.k)
            except RetrievalFailed as failure:
                return failure

        return dict(zip(queries, await concurrently(one, queries), strict=True))

    async def _corrected(self, statement: str, found: Sequence[Evidence]) -> Correct:
        """Only evidence can change a rationale: without any it stands as it is."""
        if not found:
            return Correct(Claim(statement, Verdict.NOT_ENOUGH_INFO))
        ask = CORRECT(evidence=fenced(found), statement=statement)
        told = await self.ctx.llm.parse(ask, Correction, max_tokens=160)
        text = cleaned(told.statement)
        if not 1 <= told.passage <= len(found) or not text:
            return Correct(Claim(statement, Verdict.NOT_ENOUGH_INFO))
        passage = found[told.passage - 1]
        holds = normalised(text) == normalised(statement)
        claim = Claim(
            statement,
            Verdict.SUPPORTED if holds else Verdict.REFUTED,
            correction=None if holds else text,
            evidence=(passage.id,),
        )
        return Correct(claim, passage)

    async def consolidate(self, prepared: Preparation, corrected: Sequence[Correct]) -> Reply:
        """Stage III: answer from the corrected rationales, in the client's own form."""
        passages = distinct(each.passage for each in corrected if each.passage)
        numbers = {each.id: number for number, each in enumerate(passages, 1)}
        facts = [
            f"{each.text} [{numbers[each.passage.id]}]" if each.passage else each.text for each in corrected
        ]
        self.ctx.trace.progress("Answering from what was found")
        final = await self._answer(facts)
        claims = [*prepared.drafted.claims, *(each.claim for each in corrected)]
        return final.citing(passages, claims).marked(Status.VERIFIED)

    async def _answer(self, facts: Sequence[str]) -> Reply:
        wording = ANSWER(facts=facts, question=self.conversation.question)
        return await self.ctx.reply(wording.over(self.conversation))


#: What an agreed answer, a few bare words, cannot honour.
_SHAPED = frozenset({"response_format", "logprobs", "top_logprobs", "stop"})


def _seed(params: Params) -> Params:
    return {"seed": params["seed"]} if isinstance(params.get("seed"), int) else {}


def _bare(text: str) -> str:
    """A query without the code fence, the label or the quotation marks that models put around it."""
    inner = text.strip().removeprefix("```sparql").removeprefix("```").removesuffix("```").strip()
    return inner.strip('"') if inner.count('"') == 2 else inner


@lru_cache(maxsize=16)
def reasoning_of(steps: int) -> type[Reasoning]:
    """The shape of a chain with exactly so many rationales."""
    exactly = Field(min_length=steps, max_length=steps)
    return pydantic.create_model("Reasoning", __base__=Reasoning, steps=(list[Brief], exactly))


@lru_cache(maxsize=16)
def selection_of(names: tuple[str, ...]) -> type[Selection]:
    """The shape of a choice among these domains: at least one, and no other."""
    chosen = Field(min_length=1, json_schema_extra={"maxItems": len(names)})
    return pydantic.create_model("Selection", __base__=Selection, domains=(list[Literal[names]], chosen))  # type: ignore[valid-type]  # run-time names
