"""Several retrievers as one: reciprocal-rank fusion (Cormack, Clarke and Büttcher, 2009).

Ranks are fused, not scores, so that sources whose scores mean different things can be mixed.
"""

from __future__ import annotations

import asyncio
import contextvars
import logging
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Self

from langchain_core.callbacks import Callbacks
from langchain_core.documents import Document
from langchain_core.retrievers import BaseRetriever
from pydantic import Field, field_validator, model_validator

from veridical.retrievers.base import Retriever
from veridical.retrievers.errors import RetrieverError, RetrieverTimeout, RetrieverUnavailable
from veridical.retrievers.langchain import LangChainRetriever

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class PartFailed:
    """A part that gave nothing to a search because it failed."""

    retriever: str
    query: str
    error: RetrieverError


def fuse(
    rankings: Sequence[Sequence[Document]], weights: Sequence[float], constant: float
) -> list[tuple[Document, float]]:
    """Every document of the rankings with the sum of `weight / (constant + rank)`, best first.

    Two documents are one if they have the same source and text; the first ranking's copy is kept.
    """
    found: dict[tuple[Any, str], Document] = {}
    scores: dict[tuple[Any, str], float] = {}
    for ranking, weight in zip(rankings, weights, strict=True):
        keys = dict.fromkeys((doc.metadata.get("source"), doc.page_content) for doc in ranking)
        for doc in ranking:
            found.setdefault((doc.metadata.get("source"), doc.page_content), doc)
        for rank, key in enumerate(keys, 1):
            scores[key] = scores.get(key, 0.0) + weight / (constant + rank)
    return [(found[key], scores[key]) for key in sorted(scores, key=lambda key: -scores[key])]


class HybridRetriever(Retriever):
    """Asks all its parts at once and fuses their rankings.

    A part that fails, or takes longer than `timeout` seconds in an async call, is left out: it is
    handed to `report`, logged, and its own run ends in an error for langchain's callbacks. Only when
    all parts fail does the search fail. `depth` is how many documents each part is asked for (at
    least `k`), `constant` the paper's 60, `weights` one number per part.
    """

    name: str | None = "hybrid"
    retrievers: tuple[BaseRetriever, ...] = Field(min_length=1)
    weights: tuple[float, ...] = ()
    constant: float = Field(default=60.0, gt=0)
    depth: int = Field(default=20, ge=1)
    timeout: float | None = Field(default=None, gt=0)
    report: Callable[[PartFailed], None] | None = Field(default=None, exclude=True)

    @field_validator("retrievers")
    @classmethod
    def _ours(cls, parts: tuple[BaseRetriever, ...]) -> tuple[BaseRetriever, ...]:
        """Foreign retrievers are wrapped, so that every failure is a `RetrieverError`."""
        return tuple(p if isinstance(p, Retriever) else LangChainRetriever(retriever=p) for p in parts)

    @model_validator(mode="after")
    def _one_weight_each(self) -> Self:
        if self.weights and len(self.weights) != len(self.retrievers):
            raise ValueError(f"{len(self.weights)} weights for {len(self.retrievers)} retrievers")
        return self

    @property
    def identity(self) -> str:
        """The parts' identities and how they are fused."""
        parts = ",".join(part.identity for part in self._parts)
        return f"hybrid({parts}):{self.weights}:{self.constant}:{self.depth}"

    @property
    def _parts(self) -> tuple[Retriever, ...]:
        return tuple(part for part in self.retrievers if isinstance(part, Retriever))

    def find(self, query: str, k: int, callbacks: Callbacks = None) -> list[Document]:
        """Ask the parts in threads and fuse."""

        def ask(part: Retriever) -> list[Document] | RetrieverError:
            try:
                return part.invoke(query, {"callbacks": callbacks}, k=max(k, self.depth))
            except RetrieverError as error:
                return error

        with ThreadPoolExecutor(len(self._parts)) as pool:
            runs = [pool.submit(contextvars.copy_context().run, ask, part) for part in self._parts]
            return self._fused(query, k, [run.result() for run in runs])

    async def afind(self, query: str, k: int, callbacks: Callbacks = None) -> list[Document]:
        """Ask the parts at once and fuse."""

        async def ask(part: Retriever) -> list[Document] | RetrieverError:
            try:
                async with asyncio.timeout(self.timeout):
                    return await part.ainvoke(query, {"callbacks": callbacks}, k=max(k, self.depth))
            except RetrieverError as error:
                return error
            except TimeoutError:
                return RetrieverTimeout(f"{part.get_name()}: no answer within {self.timeout} s")

        try:
            async with asyncio.TaskGroup() as group:
                runs = [group.create_task(ask(part)) for part in self._parts]
        except BaseExceptionGroup as bugs:  # no failure of a source: those are caught in `ask`
            raise bugs.exceptions[0] from None
        return self._fused(query, k, [run.result() for run in runs])

    def _fused(
        self, query: str, k: int, outcomes: Sequence[list[Document] | RetrieverError]
    ) -> list[Document]:
        failed = [
            PartFailed(part.get_name(), query, outcome)
            for part, outcome in zip(self._parts, outcomes, strict=True)
            if isinstance(outcome, RetrieverError)
        ]
        self._tell(failed)
        rankings = [[] if isinstance(outcome, RetrieverError) else outcome for outcome in outcomes]
        best = fuse(rankings, self.weights or [1.0] * len(rankings), self.constant)[:k]
        return [doc.model_copy(update={"metadata": {**doc.metadata, "score": score}}) for doc, score in best]

    def _tell(self, failed: list[PartFailed]) -> None:
        for part in failed:
            log.warning("%s failed and is left out: %s", part.retriever, part.error.message)
            if self.report:
                self.report(part)
        if len(failed) == len(self.retrievers):
            reasons = "; ".join(f"{part.retriever}: {part.error.message}" for part in failed)
            raise RetrieverUnavailable(f"All retrievers failed: {reasons}") from failed[0].error
