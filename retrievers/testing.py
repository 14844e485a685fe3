"""Fakes for tests: ten pages with known answers, an embedding model, a retriever that follows a script."""

from __future__ import annotations

import asyncio
import json
import time
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from langchain_core.callbacks import Callbacks
from langchain_core.documents import Document
from langchain_core.embeddings import Embeddings
from pydantic import Field

from veridical.retrievers.base import Retriever, document
from veridical.retrievers.errors import RetrieverError
from veridical.retrievers.terms import Analyzer

#: Written for these tests.
PAGES: list[dict[str, Any]] = [
    {
        "id": "canberra",
        "title": "Canberra",
        "url": "https://pages.example/canberra",
        "text": "Canberra is the capital city of Australia. It was founded in 1913 as a compromise "
        "between Sydney and Melbourne. Parliament House stands on Capital Hill.",
    },
    {
        "id": "sydney",
        "title": "Sydney",
        "url": "https://pages.example/sydney",
        "text": "Sydney is the largest city of Australia. Its Opera House was designed by Jørn Utzon and "
        "opened in 1973 on the harbour.",
    },
    {
        "id": "utzon",
        "title": "Jørn Utzon",
        "url": "https://pages.example/utzon",
        "text": "Jørn Utzon was a Danish architect, born in Copenhagen in 1918. He received the Pritzker "
        "Prize in 2003.",
    },
    {
        "id": "curie",
        "title": "Marie Curie",
        "url": "https://pages.example/curie",
        "text": "Marie Curie was a physicist and chemist born in Warsaw. She discovered polonium and "
        "radium and won two Nobel Prizes.",
    },
    {
        "id": "polonium",
        "title": "Polonium",
        "text": "Polonium is a chemical element with the symbol Po and atomic number 84. It is named "
        "after Poland.",
    },
    {
        "id": "beyonce",
        "title": "Beyoncé",
        "text": "Beyoncé Knowles is an American singer who rose to fame with the group Destiny's Child.",
    },
    {
        "id": "mercury-planet",
        "title": "Mercury (planet)",
        "text": "Mercury is the planet nearest to the Sun. A year on it lasts 88 days.",
    },
    {
        "id": "mercury-element",
        "title": "Mercury (element)",
        "text": "Mercury is a metal that is liquid at room temperature. Its symbol is Hg.",
    },
    {
        "id": "nile",
        "title": "Nile",
        "text": "The Nile flows north through Egypt into the Mediterranean Sea. It is about 6650 "
        "kilometres long.",
    },
    {
        "id": "einstein",
        "title": "Albert Einstein",
        "text": "Albert Einstein developed the theory of relativity. He was awarded the Nobel Prize in "
        "Physics in 1921.",
    },
]

#: Question, id of the page that answers it. Some share no more than a stem with their page.
QUESTIONS = [
    ("What is the capital of Australia?", "canberra"),
    ("Who designed the Opera House in Sydney?", "sydney"),
    ("Which Danish architect won the Pritzker Prize?", "utzon"),
    ("Which element has atomic number 84?", "polonium"),
    ("Which planet is nearest to the Sun?", "mercury-planet"),
    ("Which metal is liquid at room temperature?", "mercury-element"),
    ("How long is the Nile?", "nile"),
    ("Beyonce singers of Destinys Child", "beyonce"),
    ("discovering radium", "curie"),
    ("theories of relativity", "einstein"),
]


def write_jsonl(path: Path, rows: Sequence[Mapping[str, Any]] | None = None) -> Path:
    """Write `rows` (the ten pages, if none are given) as JSON Lines, and return the path."""
    rows = PAGES if rows is None else rows
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


class BagOfWords(Embeddings):
    """Unit vectors by hashed stems, near each other where words are shared: an embedding model for tests.

    Both an `Encoder` of ours and langchain's `Embeddings`. `calls` holds the size of every batch.
    """

    dimension = 64

    def __init__(self, salt: str = "") -> None:
        self.salt = salt
        self.calls: list[int] = []

    def queries(self, texts: Sequence[str]) -> Any:
        """One row per text."""
        import numpy as np

        self.calls.append(len(texts))
        vectors = np.zeros((len(texts), self.dimension), dtype=np.float32)
        for row, text in zip(vectors, texts, strict=True):
            for term in [*Analyzer()(text), "#"]:
                row[zlib.crc32((self.salt + term).encode()) % self.dimension] += 1
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        return vectors

    passages = queries

    def embed_query(self, text: str) -> list[float]:
        """As langchain asks."""
        return self.embed_documents([text])[0]

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        """As langchain asks."""
        vectors: list[list[float]] = self.queries(texts).tolist()
        return vectors


class FakeRetriever(Retriever):
    """Gives every query the same documents, or the same error, after `delay` seconds."""

    name: str | None = "fake"
    sources: tuple[str, ...] = ()
    error: RetrieverError | None = None
    delay: float = 0.0
    queries: list[str] = Field(default_factory=list)

    @property
    def identity(self) -> str:
        """The script."""
        return f"fake:{self.name}:{self.sources}"

    def find(self, query: str, k: int, callbacks: Callbacks = None) -> list[Document]:
        """Follow the script."""
        self.queries.append(query)
        time.sleep(self.delay)
        return self._answer(k)

    async def afind(self, query: str, k: int, callbacks: Callbacks = None) -> list[Document]:
        """Follow the script."""
        self.queries.append(query)
        await asyncio.sleep(self.delay)
        return self._answer(k)

    def _answer(self, k: int) -> list[Document]:
        if self.error:
            raise self.error
        return [
            document(
                f"Text of {source}.",
                source=source,
                title=source.title(),
                url="",
                score=1 / rank,
                retriever=self.get_name(),
            )
            for rank, source in enumerate(self.sources[:k], 1)
        ]
