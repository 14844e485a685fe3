"""BM25 built in bounded memory: postings are collected in shards on disk, then scattered into one matrix.

`bm25s` builds in memory from Python lists, which for a million passages are gigabytes. It says that its
builder may be replaced, so this one does: the same scores (Lucene's BM25; Kamphuis et al., 2020), in
the same files, which `bm25s` then loads and searches.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from veridical.retrievers.terms import Analyzer

VOCABULARY = "vocabulary.txt"
#: Words remembered with their term, so that each is stemmed once; forgotten all together when full.
_MEMORY = 1_000_000

Ints = np.ndarray[Any, np.dtype[np.int32]]


class PostingsWriter:
    """Turns passages into shards of (term, passage, count), sorted by term and passage."""

    def __init__(self, folder: Path, analyzer: Analyzer, *, shards: int = 0, terms: int = 0) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.analyzer, self.shards = folder, analyzer, shards
        self._stop = analyzer.stop_words
        self._terms = self._restore(terms)
        self._fresh: list[str] = []
        self._known: dict[str, int] = {}
        self._flat, self._lengths = array("i"), array("i")

    @property
    def terms(self) -> int:
        """How many terms there are so far."""
        return len(self._terms)

    def _restore(self, terms: int) -> dict[str, int]:
        path = self.folder / VOCABULARY
        if not terms:
            path.write_text("", encoding="utf-8")
            return {}
        known = path.read_text(encoding="utf-8").split("\n")[:terms]
        path.write_text("".join(f"{term}\n" for term in known), encoding="utf-8")
        return {term: number for number, term in enumerate(known)}

    def add(self, text: str) -> None:
        """Take in the next passage."""
        known, before = self._known, len(self._flat)
        for word in self.analyzer.words(text):
            number = known.get(word)
            if number is None:
                number = self._learn(word)
            if number >= 0:
                self._flat.append(number)
        self._lengths.append(len(self._flat) - before)

    def _learn(self, word: str) -> int:
        if len(self._known) >= _MEMORY:
            self._known.clear()
        number = -1
        if word not in self._stop:
            term = self.analyzer.stem([word])[0]
            found = self._terms.get(term)
            if found is None:
                found = self._terms[term] = len(self._terms)
                self._fresh.append(term)
            number = found
        self._known[word] = number
        return number

    def flush(self) -> None:
        """Write the passages since the last flush as a shard, and the terms that are new."""
        lengths = np.frombuffer(self._lengths, dtype=np.intc).astype(np.int32)
        terms = np.frombuffer(self._flat, dtype=np.intc).astype(np.int64)
        passages = np.repeat(np.arange(len(lengths), dtype=np.int64), lengths)
        pairs, counts = np.unique(terms << 32 | passages, return_counts=True)
        np.savez(
            self.folder / f"{self.shards:06}.npz",
            terms=(pairs >> 32).astype(np.int32),
            passages=(pairs & 0xFFFFFFFF).astype(np.int32),
            counts=counts.astype(np.int32),
            lengths=lengths,
        )
        with (self.folder / VOCABULARY).open("a", encoding="utf-8") as file:
            file.writelines(f"{term}\n" for term in self._fresh)
        self._flat, self._lengths, self._fresh = array("i"), array("i"), []
        self.shards += 1


@dataclass(frozen=True)
class Shards:
    """The shards in a folder, all that the writer left."""

    folder: Path
    count: int
    terms: int

    def matrix(
        self, scratch: Path, k1: float, b: float, progress: Callable[[int, int], None]
    ) -> dict[str, Any]:
        """The score of every term in every passage, as `bm25s` keeps it: a sparse matrix by columns.

        Two passes over the shards; `data` and `indices` are files in `scratch`, so that memory holds
        one shard and the vocabulary.
        """
        frequency, total, passages = self._frequencies()
        idf = np.log(1 + (passages - frequency + 0.5) / (frequency + 0.5)).astype(np.float32)
        starts = np.concatenate([[0], np.cumsum(frequency)])
        heads = starts[:-1].copy()
        data = _file(scratch / "data.npy", np.float32, int(starts[-1]))
        indices = _file(scratch / "indices.npy", np.int32, int(starts[-1]))
        base = 0
        for number in range(self.count):
            shard = self._shard(number)
            terms, counts = shard["terms"], shard["counts"].astype(np.float32)
            length = shard["lengths"][shard["passages"]] / (total / passages)
            places = _places(terms, heads)
            data[places] = idf[terms] * (counts / (k1 * ((1 - b) + b * length) + counts))
            indices[places] = shard["passages"] + base
            base += len(shard["lengths"])
            progress(number + 1, self.count)
        return {"data": data, "indices": indices, "indptr": starts, "num_docs": passages}

    def _shard(self, number: int) -> dict[str, Ints]:
        with np.load(self.folder / f"{number:06}.npz") as found:
            return {name: found[name] for name in found.files}

    def _frequencies(self) -> tuple[np.ndarray[Any, np.dtype[np.int64]], int, int]:
        frequency = np.zeros(self.terms, dtype=np.int64)
        total = passages = 0
        for number in range(self.count):
            shard = self._shard(number)
            frequency += np.bincount(shard["terms"], minlength=self.terms)
            total += int(shard["lengths"].sum(dtype=np.int64))
            passages += len(shard["lengths"])
        return frequency, max(total, 1), passages

    def vocabulary(self) -> dict[str, int]:
        """Every term with its column."""
        with (self.folder / VOCABULARY).open(encoding="utf-8") as file:
            return {line.rstrip("\n"): number for number, line in enumerate(file)}


def _places(terms: Ints, heads: np.ndarray[Any, np.dtype[np.int64]]) -> np.ndarray[Any, np.dtype[np.int64]]:
    """Where a shard's postings go, `terms` being sorted; moves each term's head behind them."""
    first = np.flatnonzero(np.diff(terms, prepend=-1))
    run = np.diff(first, append=len(terms))
    places = heads[terms] + np.arange(len(terms)) - np.repeat(first, run)
    heads[terms[first]] += run
    return places


def _file(path: Path, dtype: type[np.generic], length: int) -> np.ndarray[Any, Any]:
    return np.lib.format.open_memmap(path, mode="w+", dtype=dtype, shape=(length,))
