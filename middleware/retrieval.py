"""What strategies call to search: langchain documents become evidence, failures ours. A retriever is
opened on its first use, so a server that needs none pays for none."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from veridical.retrievers.errors import RetrieverError, RetrieverTimeout
from veridical.strategies.errors import RetrievalFailed
from veridical.strategies.types import Evidence

if TYPE_CHECKING:
    from langchain_core.callbacks import Callbacks
    from langchain_core.documents import Document

    from veridical.retrievers.base import Retriever


@dataclass
class Source:
    """A named source of evidence: `make` opens its retriever, once, in a worker thread.

    `needs` are the sources that are opened before it. `timeout_s` bounds a search, not the opening; None
    where the retriever bounds itself. A source belongs to one event loop.
    """

    name: str
    make: Callable[[], Retriever]
    timeout_s: float | None = 20.0
    needs: tuple[Source, ...] = ()
    _opening: asyncio.Task[Retriever] | None = field(default=None, repr=False)

    async def __call__(self, query: str, k: int) -> list[Evidence]:
        """The `k` passages that fit `query` best.

        Raises:
            RetrievalFailed: the source failed or did not answer in time; says which, not why in full.
        """
        try:
            if (retriever := self._opened()) is None:
                retriever = await self.open()
            try:
                hits = retriever.hits(query, k)
            except Exception as error:
                raise self._told(error) from error
            if hits is not None:
                name = retriever.get_name()
                return [Evidence(p.id, p.text, p.title, p.url, score, name) for p, score in hits]
            return [evidence(document, self.name) for document in await self.search(query, k)]
        except RetrieverError as error:
            raise RetrievalFailed(error.message) from error

    async def search(self, query: str, k: int, callbacks: Callbacks = None) -> list[Document]:
        """The `k` documents that fit `query` best, for a source that is made of this one.

        Raises:
            RetrieverError: as above, with the code of the cause where it has one.
        """
        retriever = await self.open()
        try:
            async with asyncio.timeout(self.timeout_s):
                if callbacks is None:  # nobody hears of langchain's run, which may cost more than the search
                    found = await retriever.afind(query, k)
                else:
                    found = await retriever.ainvoke(query, {"callbacks": callbacks}, k=k)
        except Exception as error:
            raise self._told(error) from error
        return found[:k]

    def _told(self, error: Exception) -> RetrieverError:
        """What is told of a failed search; a third party's retriever may raise anything."""
        if isinstance(error, TimeoutError):
            within = "in time" if self.timeout_s is None else f"in {self.timeout_s:g} s"
            return RetrieverTimeout(f"The source {self.name!r} did not answer {within}.", retriever=self.name)
        if isinstance(error, RetrieverTimeout):
            return self._failure("did not answer in time.", error)
        return self._failure(f"failed ({type(error).__name__}).", error)

    async def open(self) -> Retriever:
        """The retriever, opened now if it was not. Who stops waiting does not stop the opening.

        Raises:
            RetrieverError: it cannot be opened; the next search tries again.
        """
        if (retriever := self._opened()) is not None:
            return retriever
        opening = self._opening
        if opening is None or opening.done():
            opening = self._opening = asyncio.create_task(self._open(), name=f"open {self.name}")
            opening.add_done_callback(_heard)
        return await asyncio.shield(opening)

    def _opened(self) -> Retriever | None:
        """The retriever, where it is open."""
        opening = self._opening
        if opening is None or not opening.done() or opening.cancelled() or opening.exception():
            return None
        return opening.result()

    async def _open(self) -> Retriever:
        for source in self.needs:
            await source.open()
        try:
            return await asyncio.to_thread(self.make)
        except Exception as error:
            words = getattr(error, "message", type(error).__name__)
            raise self._failure(f"cannot be opened: {words}", error) from error

    def _failure(self, words: str, error: Exception) -> RetrieverError:
        failure = RetrieverError(f"The source {self.name!r} {words}", retriever=self.name)
        if isinstance(error, RetrieverError):
            failure.code = error.code
        return failure

    async def close(self) -> None:
        """Close the retriever, if it was opened."""
        if self._opening is None:
            return
        self._opening.cancel()
        await asyncio.wait([self._opening])
        if not self._opening.cancelled() and self._opening.exception() is None:
            await self._opening.result().aclose()


def _heard(opening: asyncio.Task[Retriever]) -> None:
    """An opening may fail when nobody waits for it any more; the next search will tell."""
    if not opening.cancelled():
        opening.exception()


def evidence(document: Any, source: str) -> Evidence:
    """A langchain document as evidence; a third party's may lack any of our metadata."""
    metadata = document.metadata
    score = metadata.get("score")
    return Evidence(
        str(metadata.get("source") or document.id or hash(document.page_content)),
        document.page_content,
        str(metadata.get("title") or ""),
        str(metadata.get("url") or ""),
        float(score) if isinstance(score, int | float) else None,
        str(metadata.get("retriever") or source),
    )
