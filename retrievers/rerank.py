"""A cross-encoder on top: reads query and passage together, and so orders better than either index can.

torch and sentence-transformers are imported at the first use, never with this module.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Sequence
from typing import Any, Self

from langchain_core.callbacks import Callbacks
from langchain_core.documents import Document
from pydantic import Field, PrivateAttr

from veridical.retrievers.base import Retriever
from veridical.retrievers.errors import RetrieverBroken, RetrieverMisconfigured

#: Scores for pairs of query and passage, higher being better.
Score = Callable[[Sequence[tuple[str, str]]], Sequence[float]]


class RerankRetriever(Retriever):
    """Asks `retriever` for `depth` documents and gives the `k` that the cross-encoder `model` scores highest.

    `score` stands in for the model where given.
    """

    name: str | None = "rerank"
    retriever: Retriever
    model: str
    depth: int = Field(default=30, ge=1)
    score: Score | None = Field(default=None, exclude=True, repr=False)
    _loaded: Score | None = PrivateAttr(default=None)
    _lock: threading.Lock = PrivateAttr(default_factory=threading.Lock)

    @property
    def identity(self) -> str:
        """The inner retriever and the model."""
        return f"rerank({self.retriever.identity}):{self.model}:{self.depth}"

    def find(self, query: str, k: int, callbacks: Callbacks = None) -> list[Document]:
        """Search, then order."""
        found = self.retriever.invoke(query, {"callbacks": callbacks}, k=max(k, self.depth))
        return self.order(query, found)[:k]

    async def afind(self, query: str, k: int, callbacks: Callbacks = None) -> list[Document]:
        """Search, then order in a worker thread."""
        found = await self.retriever.ainvoke(query, {"callbacks": callbacks}, k=max(k, self.depth))
        return (await asyncio.to_thread(self.order, query, found))[:k]

    def order(self, query: str, found: Sequence[Document]) -> list[Document]:
        """The documents by falling score of the cross-encoder; equals keep their order."""
        if not found:
            return []
        pairs = [(query, f"{doc.metadata.get('title', '')}\n{doc.page_content}".strip()) for doc in found]
        with self._lock:  # one forward pass at a time: two would only share the cores
            scores = [float(score) for score in self._scorer()(pairs)]
        if len(scores) != len(found):
            raise RetrieverBroken(f"{self.model} gave {len(scores)} scores for {len(found)} passages")
        ranked = sorted(range(len(found)), key=lambda number: -scores[number])
        return [_scored(found[number], scores[number]) for number in ranked]

    def _scorer(self) -> Score:
        if self.score is not None:
            return self.score
        if self._loaded is None:
            self._loaded = CrossEncoderScore.load(self.model)
        return self._loaded


class CrossEncoderScore:
    """A sentence-transformers `CrossEncoder` as a function."""

    def __init__(self, model: Any) -> None:
        self._model = model

    @classmethod
    def load(cls, name: str) -> Self:
        """Load a model by name or folder."""
        try:
            from sentence_transformers import CrossEncoder
        except ImportError as missing:
            raise RetrieverMisconfigured(
                "Reranking needs an extra: pip install 'veridical[dense]'"
            ) from missing
        try:
            return cls(CrossEncoder(name))
        except (OSError, ValueError) as error:
            raise RetrieverMisconfigured(f"The cross-encoder {name!r} cannot be loaded: {error}") from error

    def __call__(self, pairs: Sequence[tuple[str, str]]) -> Sequence[float]:
        """One score per pair."""
        scores: list[float] = self._model.predict(list(pairs), show_progress_bar=False).reshape(-1).tolist()
        return scores


def _scored(doc: Document, score: float) -> Document:
    return doc.model_copy(update={"metadata": {**doc.metadata, "score": score}})
