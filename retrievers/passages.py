"""Passages on disk: JSON Lines and a table of offsets, read through a memory map."""

from __future__ import annotations

import mmap
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import Literal, NamedTuple, Self

import numpy as np
import orjson
from langchain_core.documents import Document

from veridical.retrievers.base import document
from veridical.retrievers.errors import IndexCorrupt

TEXTS = "passages.jsonl"
OFFSETS = "offsets.int64"
#: What a result holds once: each document by its best passage, or each passage.
Distinct = Literal["document", "passage"]


class Passage(NamedTuple):
    """A piece of a document: `id` is its own, `document` that of the whole."""

    id: str
    document: str
    title: str
    text: str
    url: str

    def to_line(self) -> bytes:
        """One line of JSON."""
        fields = {"id": self.id, "title": self.title, "text": self.text}
        if self.document != self.id:
            fields["document"] = self.document
        if self.url:
            fields["url"] = self.url
        return orjson.dumps(fields, option=orjson.OPT_APPEND_NEWLINE)

    @classmethod
    def from_line(cls, line: bytes) -> Self:
        """Read one line back."""
        found = orjson.loads(line)
        own = found["id"]
        return cls(own, found.get("document", own), found["title"], found["text"], found.get("url", ""))

    @property
    def indexed(self) -> str:
        """What is searched: the title with the text."""
        return f"{self.title}\n{self.text}" if self.title else self.text


class Hit(NamedTuple):
    """A passage found. `score` is comparable within one result only; higher is better."""

    passage: Passage
    score: float

    def to_document(self, retriever: str) -> Document:
        """As langchain's document, with the metadata that every retriever here gives."""
        passage = self.passage
        return document(
            passage.text,
            source=passage.id,
            title=passage.title,
            url=passage.url,
            score=self.score,
            retriever=retriever,
        )


class PassageStore:
    """Read-only access to the passages of an index by number; texts stay on disk."""

    def __init__(self, folder: Path) -> None:
        texts = folder / TEXTS
        try:
            # A view, not an array: two numbers of it are read in half the time of a slice.
            self._offsets = memoryview(_mapped(folder / OFFSETS)).cast("q")
            self._map = _mapped(texts)
        except (OSError, ValueError, TypeError) as error:
            raise IndexCorrupt(f"{folder}: the passages cannot be read ({error})") from error
        if len(self._offsets) == 0 or self._offsets[-1] != len(self._map):
            raise IndexCorrupt(f"{texts}: its length does not fit {OFFSETS}")

    def __len__(self) -> int:
        return len(self._offsets) - 1

    def __getitem__(self, number: int) -> Passage:
        offsets = self._offsets
        try:
            return Passage.from_line(self._map[offsets[number] : offsets[number + 1]])
        except (orjson.JSONDecodeError, KeyError, TypeError) as error:
            raise IndexCorrupt(f"Passage {number} cannot be read: {error}") from error


def _mapped(path: Path) -> mmap.mmap:
    with path.open("rb") as file:
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)


def distinct_hits(
    ranked: Iterable[tuple[int, float]], passages: PassageStore, k: int, distinct: Distinct
) -> list[Hit]:
    """The first `k` of a ranking, without repeats of a text or, as `distinct` says, of a document."""
    hits: list[Hit] = []
    names: set[str] = set()
    texts: set[str] = set()
    by_document = distinct == "document"
    for number, score in ranked:
        passage = passages[number]
        name, text = passage.document if by_document else passage.id, passage.indexed
        if name not in names and text not in texts:
            names.add(name)
            texts.add(text)
            hits.append(Hit(passage, score))
            if len(hits) == k:
                break
    return hits


class PassageWriter:
    """Appends passages, starting behind the first `passages` of what is there already."""

    def __init__(self, folder: Path, passages: int = 0) -> None:
        offsets, texts = folder / OFFSETS, folder / TEXTS
        for path in (offsets, texts):
            path.touch()
        known = np.fromfile(offsets, dtype="<i8", count=passages + 1) if passages else np.zeros(1, "<i8")
        if len(known) != passages + 1 or int(known[-1]) > texts.stat().st_size:
            raise IndexCorrupt(f"{folder}: fewer passages than its checkpoint says")
        self.passages = passages
        self._end = int(known[-1])
        self._offsets = offsets.open("r+b")
        self._texts = texts.open("r+b")
        known.tofile(self._offsets)
        for file, length in ((self._offsets, known.nbytes), (self._texts, self._end)):
            file.truncate(length)
            file.seek(length)

    def append(self, passage: Passage) -> None:
        """Write one passage."""
        line = passage.to_line()
        self._texts.write(line)
        self._end += len(line)
        self._offsets.write(self._end.to_bytes(8, "little"))
        self.passages += 1

    def flush(self) -> None:
        """Bring what was written to the files."""
        self._texts.flush()
        self._offsets.flush()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._texts.close()
        self._offsets.close()
