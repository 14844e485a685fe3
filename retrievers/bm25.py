"""Lexical search: BM25 over an index on disk, through `bm25s` with memory-mapped files."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
from langchain_core.callbacks import Callbacks
from langchain_core.documents import Document
from pydantic import InstanceOf

from veridical.retrievers.base import Retriever
from veridical.retrievers.errors import IndexCorrupt, IndexMismatch, RetrieverMisconfigured
from veridical.retrievers.passages import Distinct, Hit, PassageStore, distinct_hits
from veridical.retrievers.postings import Shards
from veridical.retrievers.storage import BM25Info, StoredIndex
from veridical.retrievers.terms import Analyzer

FOLDER = "bm25"
#: Passages up to which an index is searched where it is asked: that takes less than a millisecond, most
#: of which a thread would hold the interpreter for as well, and opening has read the files.
SMALL = 5_000


@dataclass(frozen=True)
class BM25Settings:
    """How to weigh terms: `k1` bounds what repetition adds, `b` how far length counts against a passage.

    `language` is the Snowball stemmer's, "" for none.
    """

    language: str = "english"
    k1: float = 1.2
    b: float = 0.75


def build_bm25(
    shards: Shards, settings: BM25Settings, scratch: Path, out: Path, progress: Callable[[int, int], None]
) -> BM25Info:
    """Make the BM25 files in `out` from the shards; `scratch` holds the matrix while it is made."""
    model = _bm25s().BM25(k1=settings.k1, b=settings.b, method="lucene")
    scratch.mkdir(parents=True, exist_ok=True)
    model.scores = shards.matrix(scratch, settings.k1, settings.b, progress)
    model.vocab_dict = shards.vocabulary()
    model.nonoccurrence_array = None
    model.save(out, show_progress=False)
    return BM25Info(
        language=settings.language,
        k1=settings.k1,
        b=settings.b,
        terms=shards.terms,
        postings=len(model.scores["data"]),
    )


@dataclass(frozen=True)
class BM25Index:
    """An opened BM25 index. Safe to search from many threads."""

    model: Any
    analyzer: Analyzer
    passages: PassageStore
    identity: str

    @classmethod
    def open(cls, index: StoredIndex | Path | str, *, verify: bool = True) -> Self:
        """Open the BM25 part of an index folder."""
        stored = index if isinstance(index, StoredIndex) else StoredIndex.open(index, verify=verify)
        info = stored.manifest.bm25
        if info is None:
            raise IndexMismatch(f"{stored.folder} has no BM25 part: build it with bm25")
        folder = stored.files / FOLDER
        try:
            model = _bm25s().BM25.load(folder, mmap=True, show_progress=False)
        except (OSError, ValueError, KeyError, TypeError, json.JSONDecodeError) as error:
            raise IndexCorrupt(f"{folder} cannot be read: {error}") from error
        for name in ("data", "indices", "indptr"):  # still mapped, but slicing a memmap is slow
            model.scores[name] = np.asarray(model.scores[name])
        _check(folder, model, info, len(stored.passages))
        return cls(model, Analyzer(info.language), stored.passages, stored.manifest.fingerprint)

    def search(self, query: str, k: int, *, distinct: Distinct = "document") -> list[Hit]:
        """The `k` best passages that share a term with the query.

        `distinct="document"` takes the best passage of each document only, "passage" takes every
        passage; either way a text is given once.
        """
        known = self.model.vocab_dict
        columns = [known[term] for term in self.analyzer(query) if term in known]
        if not columns:
            return []
        return distinct_hits(_best_first(self._scores(columns), k + 8), self.passages, k, distinct)

    def _scores(self, columns: list[int]) -> np.ndarray[Any, Any]:
        """bm25s's scores, summed up in its order, but without copies of the postings."""
        parts = self.model.scores
        data, passages, bounds = parts["data"], parts["indices"], parts["indptr"]
        scores = np.zeros(parts["num_docs"], data.dtype)
        for column in columns:
            start, end = bounds[column : column + 2].tolist()
            np.add.at(scores, passages[start:end], data[start:end])
        return scores


def _best_first(scores: np.ndarray[Any, Any], count: int) -> Iterator[tuple[int, float]]:
    """Positions by falling score while it is above 0, equals in order; `count`, then more if asked on."""
    given = 0
    while given < len(scores):
        count = min(count, len(scores))
        parts = scores.copy()
        parts.partition(len(scores) - count)
        least = parts[len(scores) - count]
        (top,) = (scores >= least if least > 0 else scores > 0).nonzero()
        ranked = top[(-scores[top]).argsort(kind="stable")[given:count]]
        yield from zip(ranked.tolist(), scores[ranked].tolist(), strict=True)
        if least <= 0:
            return
        given, count = count, count * 8


def _check(folder: Path, model: Any, info: BM25Info, passages: int) -> None:
    scores = model.scores
    fits = (
        scores["num_docs"] == passages
        and len(model.vocab_dict) == info.terms == len(scores["indptr"]) - 1
        and len(scores["data"]) == len(scores["indices"]) == info.postings == scores["indptr"][-1]
    )
    if not fits:
        raise IndexCorrupt(f"{folder} does not fit its manifest: build the index again")


def _bm25s() -> Any:
    try:
        import bm25s
    except ImportError as missing:
        raise RetrieverMisconfigured(
            "BM25 needs the extra 'bm25': pip install 'veridical[bm25]'"
        ) from missing
    return bm25s


class BM25Retriever(Retriever):
    """Passages that share words with the query, best first."""

    name: str | None = "bm25"
    index: InstanceOf[BM25Index]
    distinct: Distinct = "document"

    @classmethod
    def open(cls, folder: Path | str, **settings: Any) -> Self:
        """Search the index in `folder`; `settings` are this class's fields."""
        return cls(index=BM25Index.open(folder), **settings)

    @property
    def identity(self) -> str:
        """The index and how its results are told apart."""
        return f"bm25:{self.index.identity}:{self.distinct}"

    def hits(self, query: str, k: int) -> list[Hit] | None:
        """Search the index where it is small."""
        if len(self.index.passages) > SMALL:
            return None
        return self.index.search(query, k, distinct=self.distinct)

    async def afind(self, query: str, k: int, callbacks: Callbacks = None) -> list[Document]:
        """Search the index; a large one in a worker thread."""
        if len(self.index.passages) <= SMALL:
            return self.find(query, k, callbacks)
        return await super().afind(query, k, callbacks)

    def find(self, query: str, k: int, callbacks: Callbacks = None) -> list[Document]:
        """Search the index."""
        return [
            hit.to_document(self.get_name()) for hit in self.index.search(query, k, distinct=self.distinct)
        ]
