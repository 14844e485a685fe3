"""Local indexes: build one from a corpus, search it, describe it.

A build goes through stages: `read` (corpus to passages and postings on disk), `bm25` (postings to
matrix), `encode` and `faiss` (the dense part, if asked for), `publish`. It works in `DIR/.build` and
leaves the index in DIR alone until the new one is whole. Cut off, it goes on where it was when started
again with the same input and settings; memory holds a shard of passages and the vocabulary.
"""

from __future__ import annotations

import fcntl
import hashlib
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

import numpy as np
import orjson
from langchain_core.documents import Document

from veridical.retrievers.base import Retriever
from veridical.retrievers.bm25 import FOLDER as BM25_FOLDER
from veridical.retrievers.bm25 import BM25Index, BM25Retriever, BM25Settings, build_bm25
from veridical.retrievers.chunking import Chunker
from veridical.retrievers.corpus import Corpus, Record
from veridical.retrievers.errors import CorpusInvalid, IndexBusy, RetrieverMisconfigured
from veridical.retrievers.passages import Passage, PassageStore, PassageWriter
from veridical.retrievers.postings import PostingsWriter, Shards
from veridical.retrievers.storage import (
    BM25Info,
    ChunkingInfo,
    DenseInfo,
    FileSum,
    Manifest,
    StoredIndex,
    publish,
    replace_file,
)
from veridical.retrievers.terms import Analyzer

if TYPE_CHECKING:
    from veridical.retrievers.hybrid import PartFailed

#: Passages between two checkpoints: what a killed build does again, and what memory holds.
SHARD = 20_000
IDS = "ids.u64"


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a stage of a build is: `done` of `total`, in bytes of input (`read`) or in steps of its own."""

    stage: str
    done: int
    total: int


OnProgress = Callable[[Progress], None]
Kind = Literal["auto", "bm25", "dense", "hybrid"]


@dataclass(frozen=True, slots=True)
class IndexInfo:
    """What an index folder holds. `size` is in bytes on disk; `fingerprint` names the content."""

    folder: Path
    documents: int
    passages: int
    size: int
    fingerprint: str
    chunking: ChunkingInfo | None
    bm25: BM25Info | None
    dense: DenseInfo | None

    @classmethod
    def of(cls, folder: Path, manifest: Manifest) -> Self:
        """Describe what a manifest names."""
        return cls(
            folder,
            manifest.documents,
            manifest.passages,
            sum(file.size for file in manifest.files.values()),
            manifest.fingerprint,
            manifest.chunking,
            manifest.bm25,
            manifest.dense,
        )


def build(
    input: Path | str,  # noqa: A002 - the CLI's own word
    out: Path | str,
    *,
    bm25: BM25Settings | bool = True,
    dense_model: str | None = None,
    dense_kind: str = "auto",
    chunker: Chunker | None = Chunker(),  # noqa: B008 - frozen
    progress: OnProgress | None = None,
) -> IndexInfo:
    """Index the JSON Lines file `input` (plain or gzip) into the folder `out`.

    `dense_model` names a sentence-transformers model or its folder; `dense_kind` is "auto", "flat",
    "hnsw", "ivfpq" or a FAISS factory string; `chunker=None` keeps documents whole. Raises
    `CorpusInvalid`, `RetrieverMisconfigured` or `IndexBusy`; the index that was in `out` before
    stays until the new one is complete.
    """
    settings = BM25Settings() if bm25 is True else bm25 or None
    if settings is None and dense_model is None:
        raise RetrieverMisconfigured("Nothing to build: neither BM25 nor a dense model")
    plan = Plan(Corpus(Path(input)), settings, dense_model, dense_kind, chunker)
    identity = plan.identity()
    folder = Path(out)
    work = folder / ".build"
    try:
        work.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RetrieverMisconfigured(f"Cannot write to {folder}: {error.strerror}") from error
    with _locked(work):
        manifest = publish(folder, *Build(plan, identity, work, progress or (lambda _: None)).run())
        shutil.rmtree(work, ignore_errors=True)
    return IndexInfo.of(folder, manifest)


def search(folder: Path | str, query: str, k: int = 5, *, kind: Kind = "auto") -> list[Document]:
    """The best `k` documents of the index in `folder`; `kind` as for `open_retriever`."""
    return open_retriever(folder, k, kind=kind).invoke(query)


def info(folder: Path | str) -> IndexInfo:
    """What the index in `folder` holds, by its manifest; files are not read."""
    return IndexInfo.of(Path(folder), Manifest.read(Path(folder)))


def open_retriever(
    folder: Path | str,
    k: int = 5,
    *,
    kind: Kind = "auto",
    verify: bool = True,
    report: Callable[[PartFailed], None] | None = None,
) -> Retriever:
    """A retriever over the index in `folder`: "bm25", "dense", both fused ("hybrid"), or the best it allows.

    `IndexMismatch` where the index lacks the part; `verify` as for `StoredIndex.open`; `report` hears of
    a part of a hybrid that failed.
    """
    stored = StoredIndex.open(folder, verify=verify)
    has = {"bm25": stored.manifest.bm25 is not None, "dense": stored.manifest.dense is not None}
    if kind == "auto":
        kind = "hybrid" if all(has.values()) else "bm25" if has["bm25"] else "dense"
    parts: list[Retriever] = []
    if kind in ("bm25", "hybrid"):
        parts.append(BM25Retriever(index=BM25Index.open(stored), k=k))
    if kind in ("dense", "hybrid"):
        from veridical.retrievers.dense import DenseIndex, DenseRetriever

        parts.append(DenseRetriever(index=DenseIndex.open(stored), k=k))
    if len(parts) == 1:
        return parts[0]
    from veridical.retrievers.hybrid import HybridRetriever

    return HybridRetriever(retrievers=tuple(parts), k=k, report=report)


@dataclass(frozen=True)
class Plan:
    """What to build, from what."""

    corpus: Corpus
    bm25: BM25Settings | None
    dense_model: str | None
    dense_kind: str
    chunker: Chunker | None

    def identity(self) -> dict[str, Any]:
        """What a checkpoint must have been made for. Settings of later stages may change between runs."""
        return {
            "corpus": self.corpus.identity(),
            "bm25": self.bm25 and self.bm25.language,
            "dense": self.dense_model,
            "chunker": self.chunker and asdict(self.chunker),
        }


@dataclass(frozen=True)
class Checkpoint:
    """How far `read` has come: everything before this is safely on disk."""

    line: int = 0
    documents: int = 0
    passages: int = 0
    shards: int = 0
    terms: int = 0
    complete: bool = False


@dataclass(frozen=True)
class Build:
    """One build at work in its folder."""

    plan: Plan
    identity: Mapping[str, Any]
    work: Path
    progress: OnProgress

    @property
    def files(self) -> Path:
        """Where the files of the new generation gather."""
        return self.work / "files"

    def run(self) -> tuple[Path, Manifest]:
        """All stages; returns the folder of the new generation and its manifest."""
        done = self._read(self._resume())
        bm25, dense = self._bm25(done), self._dense(done)
        names = sorted(path for path in self.files.rglob("*") if path.is_file())
        sums = {}
        for number, path in enumerate(names, 1):
            sums[path.relative_to(self.files).as_posix()] = FileSum.of(path)
            self.progress(Progress("publish", number, len(names)))
        chunker = self.plan.chunker
        return self.files, Manifest(
            documents=done.documents,
            passages=done.passages,
            chunking=ChunkingInfo(**asdict(chunker)) if chunker else None,
            bm25=bm25,
            dense=dense,
            files=sums,
        )

    def _resume(self) -> Checkpoint:
        """The checkpoint of an earlier run of the same plan; without one, an empty folder."""
        try:
            found = orjson.loads((self.work / "checkpoint.json").read_bytes())
            if found["plan"] == self.identity:
                return Checkpoint(**found["done"])
        except (FileNotFoundError, orjson.JSONDecodeError, KeyError, TypeError):
            pass  # no checkpoint, or one of another release: begin anew
        for path in self.work.iterdir():
            if path.is_dir():
                shutil.rmtree(path)
            elif path.name != "lock":
                path.unlink()
        return Checkpoint()

    def _save(self, done: Checkpoint) -> None:
        content = {"plan": self.identity, "done": asdict(done)}
        replace_file(self.work / "checkpoint.json", orjson.dumps(content))

    def _read(self, done: Checkpoint) -> Checkpoint:
        if done.complete:
            return done
        self.files.mkdir(exist_ok=True)
        with PassageWriter(self.files, done.passages) as passages, (self.work / IDS).open("ab") as ids:
            ids.truncate(8 * done.documents)
            postings = self._postings(done)
            for record, position in self.plan.corpus.records(done.line):
                for passage in self._cut(record):
                    passages.append(passage)
                    if postings:
                        postings.add(passage.indexed)
                ids.write(_hash(record.id))
                done = replace(done, line=record.line, documents=done.documents + 1)
                if passages.passages >= done.passages + SHARD:
                    done = self._checkpoint(done, passages, postings, ids)
                    self._reading(position)
            done = self._checkpoint(done, passages, postings, ids)
        if not done.documents:
            raise CorpusInvalid(f"{self.plan.corpus.path} holds no document with text")
        if self.plan.identity() != self.identity:
            raise CorpusInvalid(f"{self.plan.corpus.path} was changed while it was read")
        self._refuse_repeated_ids()
        done = replace(done, complete=True)
        self._save(done)
        self._reading(self.plan.corpus.path.stat().st_size)
        return done

    def _reading(self, position: int) -> None:
        self.progress(Progress("read", position, self.plan.corpus.path.stat().st_size))

    def _postings(self, done: Checkpoint) -> PostingsWriter | None:
        if self.plan.bm25 is None:
            return None
        analyzer = Analyzer(self.plan.bm25.language)
        return PostingsWriter(self.work / "postings", analyzer, shards=done.shards, terms=done.terms)

    def _checkpoint(
        self, done: Checkpoint, passages: PassageWriter, postings: PostingsWriter | None, ids: Any
    ) -> Checkpoint:
        if passages.passages == done.passages:
            return done
        passages.flush()
        ids.flush()
        done = replace(done, passages=passages.passages)
        if postings:
            postings.flush()
            done = replace(done, shards=postings.shards, terms=postings.terms)
        self._save(done)
        return done

    def _cut(self, record: Record) -> Iterator[Passage]:
        texts = self.plan.chunker(record.text) if self.plan.chunker else [record.text]
        for number, text in enumerate(texts, 1):
            name = f"{record.id}#{number}" if len(texts) > 1 else record.id
            yield Passage(name, record.id, record.title, text, record.url)

    def _refuse_repeated_ids(self) -> None:
        """An id must name one document, or citations would not: hashes find the suspects, the ids decide."""
        hashes = np.fromfile(self.work / IDS, dtype=np.uint64)
        found, counts = np.unique(hashes, return_counts=True)
        suspects = {value.tobytes() for value in found[counts > 1]}
        if not suspects:
            return
        seen: set[str] = set()
        last = None
        store = PassageStore(self.files)
        for number in range(len(store)):
            name, passage = store[number].document, store[number]
            first = passage.id == name or passage.id == f"{name}#1"
            if first and _hash(name) in suspects:
                if name in seen:
                    last = name
                    break
                seen.add(name)
        if last is not None:
            raise CorpusInvalid(f"{self.plan.corpus.path}: the id {last!r} is given to two documents")

    def _bm25(self, done: Checkpoint) -> BM25Info | None:
        if self.plan.bm25 is None:
            return None
        out = self.files / BM25_FOLDER
        shutil.rmtree(out, ignore_errors=True)
        return build_bm25(
            Shards(self.work / "postings", done.shards, done.terms),
            self.plan.bm25,
            self.work / "scratch",
            out,
            lambda step, steps: self.progress(Progress("bm25", step, steps)),
        )

    def _dense(self, done: Checkpoint) -> DenseInfo | None:
        if self.plan.dense_model is None:
            return None
        from veridical.retrievers.dense import build_dense

        return build_dense(
            PassageStore(self.files),
            self.plan.dense_model,
            self.plan.dense_kind,
            self.work,
            self.files,
            lambda stage, step, steps: self.progress(Progress(stage, step, steps)),
        )


def _hash(name: str) -> bytes:
    return hashlib.blake2b(name.encode("utf-8", "surrogatepass"), digest_size=8).digest()


@contextmanager
def _locked(work: Path) -> Iterator[None]:
    """Hold the build folder; the lock goes with the process, so that a killed build leaves none."""
    with (work / "lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise IndexBusy(f"Another process is building in {work.parent}") from None
        yield
