"""A configured source as a part of another one. Importing this imports langchain-core."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from langchain_core.callbacks import Callbacks
from langchain_core.documents import Document

from veridical.retrievers.base import Retriever
from veridical.retrievers.errors import RetrieverMisconfigured


class Part(Retriever):
    """The source `name`, asked by its `search`: it is opened then, and keeps its own time limit."""

    search: Callable[[str, int, Callbacks], Awaitable[list[Document]]]

    @property
    def identity(self) -> str:
        """The source's name, which means one source for as long as the server runs."""
        return f"source:{self.name}"

    def find(self, query: str, k: int, callbacks: Callbacks = None) -> list[Document]:
        """Refuse: a source belongs to the server's event loop."""
        raise RetrieverMisconfigured(f"{self.name}: in async code, call ainvoke")

    async def afind(self, query: str, k: int, callbacks: Callbacks = None) -> list[Document]:
        """Ask the source."""
        return await self.search(query, k, callbacks)
