"""Search by meaning: sentence-transformers embeddings in a FAISS index.

torch, sentence-transformers and faiss are imported at the first use, never with this module.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, Self, runtime_checkable

import numpy as np
from langchain_core.callbacks import Callbacks
from langchain_core.documents import Document
from langchain_core.embeddings import Embeddings
from pydantic import InstanceOf

from veridical.retrievers.base import Retriever
from veridical.retrievers.batching import Batcher
from veridical.retrievers.errors import IndexCorrupt, IndexMismatch, RetrieverMisconfigured
from veridical.retrievers.passages import Distinct, Hit, PassageStore, distinct_hits
from veridical.retrievers.storage import DenseInfo, StoredIndex

FOLDER = "dense"
FILE = "index.faiss"
VECTORS = "vectors.f32"
#: Encoded on building and on opening: another model, or other weights under the same name, shows here.
PROBE = "The quick brown fox jumps over the lazy dog."
#: Up to here every vector is compared; graph and quantiser cost more than they save.
FLAT_UP_TO = 100_000
#: Above this a graph over whole vectors takes more memory than a machine of ours has.
HNSW_UP_TO = 2_000_000
_BATCH = 256
#: Passages that are asked for beyond what is wanted, since several may be of one document.
SPARE = 8

Vectors = np.ndarray[Any, np.dtype[np.float32]]
OnProgress = Callable[[str, int, int], None]


@runtime_checkable
class Encoder(Protocol):
    """Texts to unit vectors."""

    @property
    def dimension(self) -> int:
        """The length of a vector."""

    def queries(self, texts: Sequence[str]) -> Vectors:
        """One row per query."""

    def passages(self, texts: Sequence[str]) -> Vectors:
        """One row per passage."""


@dataclass(frozen=True)
class SentenceEncoder:
    """A sentence-transformers model, with the prompts that its configuration has for queries and passages."""

    model: Any

    @classmethod
    def load(cls, name: str) -> Self:
        """Load a model by name or folder, onto a GPU where there is one."""
        try:
            from sentence_transformers import SentenceTransformer
        except ImportError as missing:
            raise _extra() from missing
        try:
            return cls(SentenceTransformer(name))
        except (OSError, ValueError) as error:
            raise RetrieverMisconfigured(f"The embedding model {name!r} cannot be loaded: {error}") from error

    @property
    def dimension(self) -> int:
        """The length of a vector."""
        named = "get_embedding_dimension"  # its name since sentence-transformers 5.3
        old = "get_sentence_embedding_dimension"
        return int(getattr(self.model, named if hasattr(self.model, named) else old)())

    def queries(self, texts: Sequence[str]) -> Vectors:
        """One row per query."""
        return self._unit(self.model.encode_query, texts)

    def passages(self, texts: Sequence[str]) -> Vectors:
        """One row per passage."""
        return self._unit(self.model.encode_document, texts)

    def _unit(self, encode: Any, texts: Sequence[str]) -> Vectors:
        found = encode(list(texts), batch_size=64, normalize_embeddings=True, show_progress_bar=False)
        return np.ascontiguousarray(found, dtype=np.float32)


def choose_kind(count: int, kind: str = "auto", *, gpu: bool = False) -> str:
    """The kind of index for `count` vectors: "flat", "hnsw" or "ivfpq"; anything but "auto" is kept.

    FAISS has no graph index on a GPU.
    """
    if kind != "auto":
        return kind
    if count <= FLAT_UP_TO:
        return "flat"
    return "hnsw" if count <= HNSW_UP_TO and not gpu else "ivfpq"


def factory(kind: str, count: int, dimension: int) -> str:
    """The FAISS factory string for a kind; another string is taken for one itself.

    The quantiser spends a byte on four dimensions: coarser ones lose too much of small models' vectors.
    """
    if kind == "flat":
        return "Flat"
    if kind == "hnsw":
        return "HNSW32"
    if kind == "ivfpq":
        lists = max(1, min(int(4 * count**0.5), count // 39))  # faiss wants 39 vectors to train a list
        width = next(width for width in (4, 3, 2, 1) if dimension % width == 0)
        return f"IVF{lists},PQ{dimension // width}"
    return kind


def build_dense(
    store: PassageStore,
    model: str,
    kind: str,
    work: Path,
    out: Path,
    progress: OnProgress,
    *,
    encoder: Encoder | None = None,
) -> DenseInfo:
    """Encode all passages into `work` (going on where an earlier run stopped) and index them into `out`."""
    faiss = _faiss()
    encoder = encoder or SentenceEncoder.load(model)
    probe = encoder.queries([PROBE])[0]
    vectors = _encoded(store, encoder, probe, work, progress)
    kind = choose_kind(len(vectors), kind, gpu=_gpus(faiss) > 0)
    index = _filled(faiss, kind, vectors, progress)
    (out / FOLDER).mkdir(exist_ok=True)
    faiss.write_index(index, str(out / FOLDER / FILE))
    return DenseInfo(
        model=model, dimension=encoder.dimension, kind=kind, probe=tuple(round(float(x), 6) for x in probe)
    )


def _encoded(
    store: PassageStore, encoder: Encoder, probe: Vectors, work: Path, progress: OnProgress
) -> Vectors:
    """The vectors of all passages, memory-mapped; the file is the checkpoint, its first row the probe."""
    path, width = work / VECTORS, encoder.dimension
    path.touch()
    found = np.fromfile(path, dtype=np.float32, count=width)
    if len(found) < width or float(found @ probe) < 0.999:
        path.write_bytes(probe.tobytes())
    with path.open("r+b") as file:
        done = file.seek(0, 2) // (4 * width) - 1
        file.seek(4 * width * (done + 1))
        file.truncate()
        while done < len(store):
            texts = [store[number].indexed for number in range(done, min(done + _BATCH, len(store)))]
            file.write(encoder.passages(texts).tobytes())
            file.flush()
            done += len(texts)
            progress("encode", done, len(store))
    return np.memmap(path, dtype=np.float32, mode="r").reshape(-1, width)[1:]


def _filled(faiss: Any, kind: str, vectors: Vectors, progress: OnProgress) -> Any:
    """A FAISS index of the vectors, trained on a sample and filled in pieces."""
    count, width = vectors.shape
    try:
        index = faiss.index_factory(width, factory(kind, count, width), faiss.METRIC_INNER_PRODUCT)
    except RuntimeError as error:
        raise RetrieverMisconfigured(f"{kind!r} is no kind of index and no FAISS factory string") from error
    if kind == "hnsw":
        index.hnsw.efConstruction, index.hnsw.efSearch = 80, 128
    if kind == "ivfpq":  # the factory turns on a minute of training for a kind of search that is not used
        faiss.downcast_index(index).do_polysemous_training = False
    working = to_gpu(faiss, index) if kind != "hnsw" else index
    if not working.is_trained:
        rng = np.random.default_rng(0)
        sample = rng.choice(count, size=min(count, 200_000), replace=False)
        working.train(np.ascontiguousarray(vectors[np.sort(sample)]))
    for start in range(0, count, 50_000):
        working.add(np.ascontiguousarray(vectors[start : start + 50_000]))
        progress("faiss", min(start + 50_000, count), count)
    index = faiss.index_gpu_to_cpu(working) if working is not index else index
    if kind == "ivfpq":
        faiss.extract_index_ivf(index).nprobe = 32
    return index


def to_gpu(faiss: Any, index: Any) -> Any:
    """The index on all GPUs, where FAISS is built for them and there are any; otherwise as it is."""
    return faiss.index_cpu_to_all_gpus(index) if _gpus(faiss) else index


def _gpus(faiss: Any) -> int:
    return int(faiss.get_num_gpus()) if hasattr(faiss, "StandardGpuResources") else 0


@dataclass(frozen=True, slots=True)
class Nearest:
    """What a search found for one vector: at most `count` passages, by number, with their scores."""

    vector: Vectors
    count: int
    ranking: Sequence[tuple[int, float]]


@dataclass(frozen=True)
class DenseIndex:
    """An opened dense index. Safe to search from many threads; queries that come at the same time are
    encoded in one call and looked for in one search."""

    index: Any
    encoder: Encoder
    passages: PassageStore
    identity: str
    exclusive: bool = False
    _lock: Any = field(default_factory=threading.Lock, repr=False, compare=False)
    _batcher: Batcher[tuple[str, int], Nearest] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_batcher", Batcher(self._together))

    @classmethod
    def open(
        cls, index: StoredIndex | Path | str, *, model: str | None = None, encoder: Encoder | None = None
    ) -> Self:
        """Open the dense part of an index folder with the model that it was built with.

        `model` overrides where the model lies; one that gives other vectors is refused.
        """
        stored = index if isinstance(index, StoredIndex) else StoredIndex.open(index)
        info = stored.manifest.dense
        if info is None:
            raise IndexMismatch(f"{stored.folder} has no dense part: build it with a dense model")
        faiss = _faiss()
        path = stored.files / FOLDER / FILE
        try:
            found = faiss.read_index(str(path))
        except RuntimeError as error:
            raise IndexCorrupt(f"{path} cannot be read: {error}") from error
        if found.ntotal != len(stored.passages) or found.d != info.dimension:
            raise IndexCorrupt(f"{path} does not fit its manifest: build the index again")
        encoder = encoder or SentenceEncoder.load(model or info.model)
        _same_model(encoder, info, stored.folder)
        placed = to_gpu(faiss, found) if info.kind != "hnsw" else found
        return cls(placed, encoder, stored.passages, stored.manifest.fingerprint, placed is not found)

    def search(self, query: str, k: int, *, distinct: Distinct = "document") -> list[Hit]:
        """The `k` passages nearest in meaning; `distinct` as for BM25. An empty query finds nothing."""
        if not query.strip():
            return []
        return self._hits(self._batcher.submit((query, k + SPARE)).result(), k, distinct)

    async def asearch(self, query: str, k: int, *, distinct: Distinct = "document") -> list[Hit]:
        """As `search`, without holding the event loop."""
        if not query.strip():
            return []
        found = await self._batcher((query, k + SPARE))
        return await asyncio.to_thread(self._hits, found, k, distinct)

    def nearest(self, vector: Vectors, k: int, *, distinct: Distinct = "document") -> list[Hit]:
        """The passages whose vectors have the largest inner product with this one."""
        [found] = self._search(vector.reshape(1, -1), k + SPARE)
        return self._hits(found, k, distinct)

    def _together(self, asked: Sequence[tuple[str, int]]) -> list[Nearest]:
        """Queries, each with how many passages it wants at least."""
        vectors = self.encoder.queries([query for query, _ in asked])
        return self._search(vectors, max(count for _, count in asked))

    def _hits(self, found: Nearest, k: int, distinct: Distinct) -> list[Hit]:
        return distinct_hits(self._ranked(found), self.passages, k, distinct)

    def _ranked(self, found: Nearest) -> Iterable[tuple[int, float]]:
        """Passages, nearest first: those that were found, and more if asked on."""
        given = 0
        while True:
            yield from found.ranking[given:]
            given = len(found.ranking)
            if given < found.count or given == len(self.passages):  # there is no more
                return
            [found] = self._search(found.vector.reshape(1, -1), found.count * 8)

    def _search(self, vectors: Vectors, count: int) -> list[Nearest]:
        count = min(count, len(self.passages))
        if self.exclusive:  # a GPU index takes one caller at a time
            with self._lock:
                scores, numbers = self.index.search(vectors, count)
        else:
            scores, numbers = self.index.search(vectors, count)
        rows = zip(vectors, numbers.tolist(), scores.tolist(), strict=True)
        return [Nearest(vector, count, _filled_in(found, score)) for vector, found, score in rows]


def _filled_in(numbers: Sequence[int], scores: Sequence[float]) -> list[tuple[int, float]]:
    """A row of FAISS's answer; an approximate index that has no more to offer ends it with -1."""
    return [(number, score) for number, score in zip(numbers, scores, strict=True) if number >= 0]


def _same_model(encoder: Encoder, info: DenseInfo, folder: Path) -> None:
    probe = np.asarray(info.probe, dtype=np.float32)
    if encoder.dimension != info.dimension or float(encoder.queries([PROBE])[0] @ probe) < 0.999:
        raise IndexMismatch(
            f"{folder} was built with another model, or other weights, than {info.model!r}: build it again"
        )


def _faiss() -> Any:
    try:
        import faiss
    except ImportError as missing:
        raise _extra() from missing
    return faiss


def _extra() -> RetrieverMisconfigured:
    return RetrieverMisconfigured("Dense search needs an extra: pip install 'veridical[dense]'")


class DenseRetriever(Retriever):
    """Passages whose meaning is near that of the query, best first."""

    name: str | None = "dense"
    index: InstanceOf[DenseIndex]
    distinct: Distinct = "document"

    @classmethod
    def open(cls, folder: Path | str, **settings: Any) -> Self:
        """Search the index in `folder`; `settings` are this class's fields."""
        return cls(index=DenseIndex.open(folder), **settings)

    @property
    def identity(self) -> str:
        """The index and how its results are told apart."""
        return f"dense:{self.index.identity}:{self.distinct}"

    def find(self, query: str, k: int, callbacks: Callbacks = None) -> list[Document]:
        """Search the index."""
        return self._documents(self.index.search(query, k, distinct=self.distinct))

    async def afind(self, query: str, k: int, callbacks: Callbacks = None) -> list[Document]:
        """Search the index; queries that come at once are encoded together."""
        return self._documents(await self.index.asearch(query, k, distinct=self.distinct))

    def _documents(self, hits: Sequence[Hit]) -> list[Document]:
        return [hit.to_document(self.get_name()) for hit in hits]


class SentenceEmbeddings(Embeddings):
    """A sentence-transformers model as langchain's `Embeddings`, for vector stores on their own servers."""

    def __init__(self, model: str) -> None:
        self._encoder = SentenceEncoder.load(model)

    def embed_query(self, text: str) -> list[float]:
        """The vector of a query."""
        vector: list[float] = self._encoder.queries([text])[0].tolist()
        return vector

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        """The vectors of passages."""
        vectors: list[list[float]] = self._encoder.passages(texts).tolist()
        return vectors
