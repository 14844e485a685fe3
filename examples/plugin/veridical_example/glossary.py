"""A retriever: the entries of a glossary whose terms stand in the query."""

from __future__ import annotations

import tomllib
from functools import cached_property
from pathlib import Path

from langchain_core.callbacks import Callbacks
from langchain_core.documents import Document

from veridical.retrievers.base import Retriever, document
from veridical.retrievers.errors import RetrieverMisconfigured


class GlossaryRetriever(Retriever):
    """Looks terms up in a TOML file of `term = "definition"`, the longest term first."""

    name: str | None = "glossary"
    path: str

    @property
    def identity(self) -> str:
        """The file: it alone decides what is found."""
        return f"glossary:{self.path}"

    @cached_property
    def entries(self) -> dict[str, str]:
        """The definitions by term."""
        try:
            return tomllib.loads(Path(self.path).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise RetrieverMisconfigured(f"The glossary {self.path} cannot be read.") from error

    def find(self, query: str, k: int, callbacks: Callbacks = None) -> list[Document]:
        """The entries that the query names."""
        named = [term for term in self.entries if term.casefold() in query.casefold()]
        return [
            document(
                self.entries[term],
                source=term,
                title=term,
                url="",
                score=float(len(term)),
                retriever="glossary",
            )
            for term in sorted(named, key=len, reverse=True)[:k]
        ]
