"""What all retrievers here share: langchain-core's interface, `k`, and a name that caches can key on."""

from __future__ import annotations

import asyncio
from abc import abstractmethod
from typing import TYPE_CHECKING, Any

from langchain_core.callbacks import (
    AsyncCallbackManagerForRetrieverRun,
    CallbackManagerForRetrieverRun,
    Callbacks,
)
from langchain_core.documents import Document
from langchain_core.retrievers import BaseRetriever
from pydantic import ConfigDict, Field

from veridical.retrievers.errors import RetrieverMisconfigured

if TYPE_CHECKING:
    from veridical.retrievers.passages import Hit


def document(
    text: str, *, source: str, title: str, url: str, score: float | None, retriever: str, **more: Any
) -> Document:
    """A langchain document whose metadata has `source` (its id), `title`, `url`, `score` and `retriever`."""
    metadata = {"source": source, "title": title, "url": url, "score": score, "retriever": retriever, **more}
    return Document(text, id=source, metadata=metadata)


class Retriever(BaseRetriever):
    """A query in, at most `k` documents out, best first.

    A document's metadata holds `source` (its id), `title`, `url`, `score` (comparable within one
    result only) and `retriever` (the name of the one that found it). `invoke(query, k=10)` asks for
    another number than the field's. Failures are `RetrieverError`s.
    """

    model_config = ConfigDict(arbitrary_types_allowed=True, frozen=True, extra="forbid")

    k: int = Field(default=5, ge=1)

    @property
    @abstractmethod
    def identity(self) -> str:
        """Tells what this retriever searches and how: equal identities give equal results."""

    def hits(self, query: str, k: int) -> list[Hit] | None:
        """The best `k` passages without langchain's documents around them, where they are found so soon that
        neither a thread nor a bound in time is worth its while; None elsewhere."""
        return None

    @abstractmethod
    def find(self, query: str, k: int, callbacks: Callbacks = None) -> list[Document]:
        """The best `k` documents; `callbacks` are for the retrievers that this one asks in turn."""

    async def afind(self, query: str, k: int, callbacks: Callbacks = None) -> list[Document]:
        """As `find`; unless a retriever can do better, in a worker thread."""
        return await asyncio.to_thread(self.find, query, k, callbacks)

    async def aclose(self) -> None:
        """Let go of what it holds in the running event loop; most hold nothing."""

    def _get_relevant_documents(
        self, query: str, *, run_manager: CallbackManagerForRetrieverRun, k: int | None = None
    ) -> list[Document]:
        return self.find(query, self._number(k), run_manager.get_child())

    async def _aget_relevant_documents(
        self, query: str, *, run_manager: AsyncCallbackManagerForRetrieverRun, k: int | None = None
    ) -> list[Document]:
        return await self.afind(query, self._number(k), run_manager.get_child())

    def _number(self, k: int | None) -> int:
        if k is None:
            return self.k
        if k < 1:
            raise RetrieverMisconfigured(f"k must be at least 1, not {k}")
        return k
