"""CRITIC's form for free answers: what to search for, what was found, what that says of the answer."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum, auto
from functools import lru_cache
from typing import Annotated

import pydantic
from pydantic import Field

from veridical.strategies.base import Context
from veridical.strategies.concurrency import concurrently
from veridical.strategies.evidence import cleaned, distinct, fenced
from veridical.strategies.prompting import Prompt
from veridical.strategies.tools.base import Searcher
from veridical.strategies.types import Claim, Conversation, Evidence, Verdict

QUERIES, NEXT_QUERY, MORE = Prompt("critic/queries"), Prompt("critic/next_query"), Prompt("critic/more")
CRITIQUE = Prompt("critic/critique")

#: Characters of a passage that a critique sees. The paper shows 400, cut around the search engine's snippet.
PASSAGE_CHARS = 800
#: Queries of a sequential round: with critique and revision at most 7 calls, as in the paper.
MOST_QUERIES = 5

Brief = Annotated[str, Field(json_schema_extra={"maxLength": 300})]


class Judgement(StrEnum):
    """What a critique concludes."""

    RIGHT = auto()
    WRONG = auto()
    UNCLEAR = auto()


VERDICTS = {
    Judgement.RIGHT: Verdict.SUPPORTED,
    Judgement.WRONG: Verdict.REFUTED,
    Judgement.UNCLEAR: Verdict.NOT_ENOUGH_INFO,
}


class NextQuery(pydantic.BaseModel):
    """One query; none if nothing more needs to be searched."""

    query: Brief


class Critique(pydantic.BaseModel):
    """The paper's two looks at an answer, then the conclusion."""

    plausible: Brief
    truthful: Brief
    verdict: Judgement


@dataclass
class Hunt:
    """The searches of one run. A passage counts once: where a query comes again, the next-ranked
    passages take the place of those that were seen."""

    name: str
    tool: Searcher
    source: str
    k: int
    queries_ahead: int
    ctx: Context
    asked: list[str] = field(default_factory=list)
    seen: set[str] = field(default_factory=set)

    async def round(self, talk: Conversation) -> tuple[list[str], list[Evidence]]:
        """What is searched for to check the answer on which `talk` ends, and the new passages."""
        if self.queries_ahead == 0:
            return await self._one_by_one(talk)
        most = self.queries_ahead
        ask = QUERIES(most=most, asked=self.asked).after(talk.messages)
        found = await self.ctx.role("critic").parse(ask, queries_of(most), max_tokens=100 * most + 64)
        queries = _distinct(found.queries)[:most]  # type: ignore[attr-defined]  # made by queries_of
        results = await concurrently(self._find, queries)
        return queries, [each for result in results for each in self._new(result)]

    async def _one_by_one(self, talk: Conversation) -> tuple[list[str], list[Evidence]]:
        """The paper's form: each query is written with all that the round has found in view."""
        ask = NEXT_QUERY(asked=self.asked).after(talk.messages)
        queries: list[str] = []
        found: list[Evidence] = []
        while len(queries) < MOST_QUERIES:
            query = (await self.ctx.role("critic").parse(ask, NextQuery, max_tokens=128)).query.strip()
            if not query:
                break
            queries.append(query)
            new = self._new(await self._find(query))
            found += new
            said = {"role": "assistant", "content": NextQuery(query=query).model_dump_json()}
            ask = MORE(evidence=shown(new)).after((*ask.messages, said))
        return queries, found

    async def _find(self, query: str) -> list[Evidence]:
        self.ctx.trace.progress(f"Searching: {query}")
        self.asked.append(query)
        k = self.k + len(self.seen)
        found = self.tool.find(query, k, source=self.source, ctx=self.ctx)
        return await self.ctx.using(self.name, found)

    def _new(self, found: Iterable[Evidence]) -> list[Evidence]:
        new = [each for each in distinct(found) if each.id not in self.seen][: self.k]
        self.seen |= {each.id for each in new}
        self.ctx.trace.evidence |= {each.id: each for each in new}
        return new


@lru_cache(maxsize=16)
def queries_of(most: int) -> type[pydantic.BaseModel]:
    """The shape of a round's queries. The schema bounds the list; a longer one is cut, not refused."""
    bounded = Field(json_schema_extra={"maxItems": most})
    return pydantic.create_model("Queries", queries=(list[Brief], bounded))


def _distinct(queries: Iterable[str]) -> list[str]:
    return list(
        {" ".join(query.casefold().split()): query.strip() for query in queries if query.strip()}.values()
    )


def shown(found: Sequence[Evidence]) -> str:
    """The passages as a model sees them: each cut, all of them fenced."""
    return fenced([replace(each, text=cleaned(each.text, PASSAGE_CHARS)) for each in found])


async def criticised(talk: Conversation, found: Sequence[Evidence], ctx: Context) -> Critique:
    """The critique of the answer on which `talk` ends, by what was found."""
    ctx.trace.progress("Judging the answer by what was found")
    ask = CRITIQUE(evidence=shown(found)).after(talk.messages)
    return await ctx.role("critic").parse(ask, Critique, max_tokens=300)


def judged(text: str, critique: Critique, queries: Sequence[str], found: Sequence[Evidence]) -> Claim:
    """The answer as a claim, with its critique\'s verdict and the passages that it rests on."""
    return Claim(
        text,
        VERDICTS[critique.verdict],
        question="; ".join(queries),
        answer=critique.truthful,
        evidence=tuple(each.id for each in found),
    )
