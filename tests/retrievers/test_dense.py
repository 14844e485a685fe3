import asyncio
import os
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from veridical.retrievers import dense, index
from veridical.retrievers.batching import Batcher
from veridical.retrievers.dense import DenseIndex, DenseRetriever, SentenceEncoder, choose_kind, factory
from veridical.retrievers.errors import IndexCorrupt, IndexMismatch, RetrieverMisconfigured
from veridical.retrievers.testing import QUESTIONS, BagOfWords, write_jsonl

faiss = pytest.importorskip("faiss", reason="needs the extra 'dense' (faiss)")
WIDTH = BagOfWords.dimension


@pytest.fixture
def encoder(monkeypatch: pytest.MonkeyPatch) -> BagOfWords:
    encoder = BagOfWords()
    monkeypatch.setattr(SentenceEncoder, "load", classmethod(lambda *_: encoder))
    return encoder


def built(corpus: Path, out: Path, **settings: Any) -> Path:
    index.build(corpus, out, bm25=False, dense_model="fake", **settings)
    return out


@pytest.mark.usefixtures("encoder")
@pytest.mark.parametrize("kind", ["auto", "flat", "hnsw", "IVF2,Flat"])
def test_the_nearest_passage_comes_first(corpus: Path, tmp_path: Path, kind: str) -> None:
    retriever = DenseRetriever.open(built(corpus, tmp_path / "index", dense_kind=kind), k=3)
    hits = sum(retriever.invoke(question)[0].metadata["source"] == page for question, page in QUESTIONS)
    assert hits >= 7
    docs = retriever.invoke("capital city of Australia")
    assert [doc.metadata["score"] for doc in docs] == sorted(
        (d.metadata["score"] for d in docs), reverse=True
    )
    assert docs[0].metadata["retriever"] == "dense"
    assert asyncio.run(retriever.ainvoke("capital city of Australia")) == docs
    assert retriever.invoke("  ") == []


@pytest.mark.usefixtures("encoder")
def test_info_and_search_of_an_index_with_both_parts(corpus: Path, tmp_path: Path) -> None:
    info = index.build(corpus, tmp_path / "index", dense_model="fake")
    assert info.dense
    assert (info.dense.kind, info.dense.dimension, info.dense.model) == ("flat", WIDTH, "fake")
    both = index.open_retriever(tmp_path / "index", k=4)
    docs = both.invoke("Which planet is nearest to the Sun?")
    assert (both.get_name(), docs[0].metadata["source"]) == ("hybrid", "mercury-planet")
    for kind in ("auto", "bm25", "dense", "hybrid"):
        assert index.search(tmp_path / "index", "nearest planet", kind=kind)[0].id == "mercury-planet"
    assert index.search(built(corpus, tmp_path / "dense"), "planet")[0].id == "mercury-planet"


@pytest.mark.parametrize(
    ("count", "gpu", "kind"),
    [
        (100_000, False, "flat"),
        (100_001, False, "hnsw"),
        (100_001, True, "ivfpq"),
        (2_000_000, False, "hnsw"),
        (21_000_000, False, "ivfpq"),
    ],
)
def test_the_kind_follows_the_size(count: int, gpu: bool, kind: str) -> None:
    assert choose_kind(count, gpu=gpu) == kind
    assert choose_kind(count, "flat", gpu=gpu) == "flat"


def test_quantisers_fit_the_dimension_and_have_enough_to_train_on() -> None:
    assert factory("ivfpq", 1_000_000, 384) == "IVF4000,PQ96"
    assert factory("ivfpq", 3_900, 300) == "IVF100,PQ75"
    for count in (300, 2000):
        faiss.index_factory(WIDTH, factory("ivfpq", count, WIDTH))


@pytest.mark.usefixtures("encoder")
def test_ivfpq_finds_most_of_what_flat_finds(tmp_path: Path) -> None:
    rows = [{"id": str(i), "text": f"word{i % 50} term{i % 37} topic{i % 11} item{i}"} for i in range(3000)]
    corpus = write_jsonl(tmp_path / "c.jsonl", rows)
    flat = DenseIndex.open(built(corpus, tmp_path / "flat"))
    rough = DenseIndex.open(built(corpus, tmp_path / "ivfpq", dense_kind="ivfpq"))
    shared = 0
    for query in ("word3 term4 item70", "topic7 word9", "term36 item2999"):
        exact = flat.search(query, 30)[-1].score
        shared += sum(
            flat_score(flat, hit.passage.id, query) >= exact - 0.05 for hit in rough.search(query, 10)
        )
    assert shared >= 20


def flat_score(flat: DenseIndex, passage: str, query: str) -> float:
    return float(flat.encoder.queries([query])[0] @ flat.index.reconstruct(int(passage)))


@pytest.mark.usefixtures("encoder")
def test_a_kind_that_faiss_does_not_know_is_refused(corpus: Path, tmp_path: Path) -> None:
    with pytest.raises(RetrieverMisconfigured, match="'quantum' is no kind"):
        built(corpus, tmp_path / "index", dense_kind="quantum")


def test_another_model_is_refused(
    encoder: BagOfWords, corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = built(corpus, tmp_path / "index")
    with pytest.raises(IndexMismatch, match="another model, or other weights, than 'fake'"):
        DenseIndex.open(folder, encoder=BagOfWords(salt="other weights"))
    monkeypatch.setattr(BagOfWords, "dimension", 32)
    with pytest.raises(IndexMismatch, match="another model"):
        DenseIndex.open(folder)


@pytest.mark.usefixtures("encoder")
def test_a_damaged_dense_file_is_an_error(corpus: Path, tmp_path: Path) -> None:
    folder = built(corpus, tmp_path / "index")
    path = next(folder.rglob("index.faiss"))
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(IndexCorrupt, match=r"index\.faiss is damaged"):
        DenseIndex.open(folder)


def test_a_build_that_was_cut_off_goes_on_with_its_vectors(
    encoder: BagOfWords, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    corpus = write_jsonl(tmp_path / "c.jsonl", [{"text": f"word{i} of passage {i}"} for i in range(100)])
    monkeypatch.setattr(dense, "_BATCH", 10)

    def stop(progress: index.Progress) -> None:
        if progress.stage == "encode" and progress.done == 60:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        built(corpus, tmp_path / "index", progress=stop)
    with (tmp_path / "index" / ".build" / "vectors.f32").open("ab") as file:
        file.write(b"half a row")
    encoder.calls.clear()
    folder = built(corpus, tmp_path / "index")
    assert encoder.calls == [1, 10, 10, 10, 10]  # the probe, then what was missing
    fresh = built(corpus, tmp_path / "fresh")
    assert index.info(folder).fingerprint == index.info(fresh).fingerprint


def test_vectors_of_another_model_are_not_gone_on_with(encoder: BagOfWords, tmp_path: Path) -> None:
    corpus = write_jsonl(tmp_path / "c.jsonl", [{"text": f"word{i} of passage {i}"} for i in range(20)])

    def stop(progress: index.Progress) -> None:
        if progress.stage == "faiss":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        built(corpus, tmp_path / "index", progress=stop)
    encoder.salt = "other weights under the same name"
    found = DenseIndex.open(built(corpus, tmp_path / "index")).search("word7 passage 7", 1)
    assert found[0].score == pytest.approx(1, abs=0.3)
    assert found[0].passage.id == "8"


def test_queries_at_once_are_encoded_together(encoder: BagOfWords, corpus: Path, tmp_path: Path) -> None:
    retriever = DenseRetriever.open(built(corpus, tmp_path / "index"))
    encoder.calls.clear()

    async def crowd() -> list[Any]:
        return await asyncio.gather(*(retriever.ainvoke(question) for question, _ in QUESTIONS))

    results = asyncio.run(crowd())
    assert sum(encoder.calls) == 10
    assert len(encoder.calls) <= 4
    assert results == [retriever.invoke(question) for question, _ in QUESTIONS]


# --- the batcher alone


def test_a_failing_batch_is_told_to_each_caller_and_the_next_one_works() -> None:
    def half(items: Sequence[int]) -> list[float]:
        return [1 / item for item in items]

    batcher = Batcher(half, gap=1.0, window=5.0)
    futures = [batcher.submit(item) for item in (1, 0)]
    assert all(isinstance(future.exception(), ZeroDivisionError) for future in futures)
    assert batcher.submit(4).result() == 0.25


def test_the_thread_ends_when_idle_and_starts_again() -> None:
    batcher = Batcher(list[int], idle=0.05)
    for item in range(3):
        assert batcher.submit(item).result(timeout=5) == item
        time.sleep(0.15)
        assert not batcher._running


def test_what_arrives_during_a_batch_makes_the_next_one() -> None:
    started, go, sizes = threading.Event(), threading.Event(), []

    def slow(items: Sequence[int]) -> Sequence[int]:
        sizes.append(len(items))
        started.set()
        go.wait(5)
        return items

    batcher = Batcher(slow)
    first = batcher.submit(0)
    started.wait(5)
    rest = [batcher.submit(item) for item in range(1, 9)]
    go.set()
    assert [future.result(5) for future in [first, *rest]] == list(range(9))
    assert sizes == [1, 8]


# --- the real model


@pytest.fixture(scope="module")
def model() -> str:
    pytest.importorskip("sentence_transformers", reason="needs the extra 'dense' (sentence-transformers)")
    path = os.environ.get("VERIDICAL_EMBEDDING_MODEL")
    if not path:
        pytest.skip("VERIDICAL_EMBEDDING_MODEL names no sentence-transformers model")
    return path


@pytest.mark.live
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_a_real_model_finds_the_pages_by_meaning(model: str, corpus: Path, tmp_path: Path) -> None:
    index.build(corpus, tmp_path / "index", dense_model=model)
    retriever = DenseRetriever.open(tmp_path / "index", k=1)
    assert all(retriever.invoke(question)[0].metadata["source"] == page for question, page in QUESTIONS[:8])
    assert (
        retriever.invoke("Who composed songs in a girl band in the USA?")[0].metadata["source"] == "beyonce"
    )
