import asyncio
import random
import threading
from pathlib import Path

import numpy as np
import pytest

from veridical.retrievers import bm25, index
from veridical.retrievers.bm25 import BM25Index, BM25Retriever, BM25Settings
from veridical.retrievers.errors import RetrieverMisconfigured
from veridical.retrievers.testing import PAGES, QUESTIONS, write_jsonl

bm25s = pytest.importorskip("bm25s", reason="needs the extra 'bm25'")


@pytest.fixture
def retriever(corpus: Path, tmp_path: Path) -> BM25Retriever:
    index.build(corpus, tmp_path / "index")
    return BM25Retriever.open(tmp_path / "index", k=3)


@pytest.mark.parametrize(("question", "page"), QUESTIONS)
def test_each_question_finds_its_page_first(retriever: BM25Retriever, question: str, page: str) -> None:
    assert retriever.invoke(question)[0].metadata["source"] == page


def test_a_document_says_where_it_comes_from(retriever: BM25Retriever) -> None:
    first = retriever.invoke("capital of Australia")[0]
    score = first.metadata.pop("score")
    assert score > 0
    assert first.id == "canberra"
    assert first.page_content == PAGES[0]["text"]
    assert first.metadata == {
        "source": "canberra",
        "title": "Canberra",
        "url": "https://pages.example/canberra",
        "retriever": "bm25",
    }


async def in_async(retriever: BM25Retriever, question: str, **kwargs: int) -> list[str]:
    return [doc.metadata["source"] for doc in await retriever.ainvoke(question, **kwargs)]


def test_async_gives_the_same(retriever: BM25Retriever) -> None:
    found = asyncio.run(in_async(retriever, "Nobel Prize"))
    assert found == [doc.metadata["source"] for doc in retriever.invoke("Nobel Prize")]


@pytest.mark.parametrize(("small", "in_a_thread"), [(bm25.SMALL, False), (0, True)])
def test_only_a_large_index_is_searched_in_a_thread(
    retriever: BM25Retriever, monkeypatch: pytest.MonkeyPatch, small: int, in_a_thread: bool
) -> None:
    threads: list[int] = []

    def search(self: BM25Index, query: str, k: int, **_: str) -> list[object]:
        threads.append(threading.get_ident())
        return []

    monkeypatch.setattr(bm25, "SMALL", small)
    monkeypatch.setattr(BM25Index, "search", search)
    asyncio.run(retriever.ainvoke("Nobel Prize"))
    assert (threads != [threading.get_ident()]) is in_a_thread


def test_k_may_be_given_per_call(retriever: BM25Retriever) -> None:
    assert len(retriever.invoke("Australia city element Nobel Mercury")) == 3
    assert len(retriever.invoke("Australia city element Nobel Mercury", k=6)) == 6
    with pytest.raises(RetrieverMisconfigured, match="at least 1"):
        retriever.invoke("Australia", k=0)


@pytest.mark.parametrize("query", ["", "   ", "the of and", "zyxwv qqqq", "?!", "\x00"])
def test_a_query_that_matches_nothing_finds_nothing(retriever: BM25Retriever, query: str) -> None:
    assert retriever.invoke(query) == []


def test_only_pages_that_share_a_term_are_found(retriever: BM25Retriever) -> None:
    assert [doc.metadata["source"] for doc in retriever.invoke("Nile", k=10)] == ["nile"]


def test_the_title_is_searched(tmp_path: Path) -> None:
    write_jsonl(
        tmp_path / "c.jsonl", [{"title": "Quokka", "text": "A small marsupial."}, {"text": "A bird."}]
    )
    index.build(tmp_path / "c.jsonl", tmp_path / "index")
    assert [doc.id for doc in index.search(tmp_path / "index", "quokka")] == ["1"]


def test_a_text_is_given_once_and_a_long_document_by_its_best_passage(tmp_path: Path) -> None:
    long = " ".join(f"Sentence {i} speaks of rivers and of topic{i}." for i in range(60))
    rows = [{"id": "long", "text": long}, *({"id": f"same{i}", "text": "Rivers of gold."} for i in range(30))]
    index.build(write_jsonl(tmp_path / "c.jsonl", rows), tmp_path / "index")
    found = BM25Index.open(tmp_path / "index")
    documents = [hit.passage.document for hit in found.search("rivers topic31", 5)]
    assert documents == ["long", "same0"]
    assert "topic31" in found.search("rivers topic31", 1)[0].passage.text
    passages = [hit.passage.document for hit in found.search("rivers topic31", 4, distinct="passage")]
    assert passages.count("long") == 3


def reference(texts: list[str], settings: BM25Settings, queries: list[str]) -> list[np.ndarray]:
    """What bm25s gives when it builds the index itself, in memory."""
    from veridical.retrievers.terms import Analyzer

    analyzer = Analyzer(settings.language)
    model = bm25s.BM25(k1=settings.k1, b=settings.b, method="lucene")
    model.index([analyzer(text) for text in texts], show_progress=False)
    return [model.get_scores(analyzer(query)) for query in queries]


def test_scores_are_those_of_bm25s(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(index, "SHARD", 37)  # many shards, the last one partly filled
    rng = random.Random(7)
    words = [f"w{i}" for i in range(300)]
    texts = [" ".join(rng.choices(words, k=rng.randint(1, 60))) for _ in range(500)]
    settings = BM25Settings(k1=1.5, b=0.6)
    write_jsonl(tmp_path / "c.jsonl", [{"text": text} for text in texts])
    index.build(tmp_path / "c.jsonl", tmp_path / "index", bm25=settings)
    built = BM25Index.open(tmp_path / "index")
    queries = ["w1 w2 w3", "w299 w5 w5", "w17"]
    for query, expected in zip(queries, reference(texts, settings, queries), strict=True):
        got = built.model.get_scores(built.analyzer(query))
        np.testing.assert_allclose(got, expected, rtol=1e-6)
        best = [(int(hit.passage.id) - 1, hit.score) for hit in built.search(query, 20)]
        assert [score for _, score in best] == pytest.approx(sorted(expected, reverse=True)[:20])
        assert all(expected[number] == pytest.approx(score) for number, score in best)


def test_remote_retrievers_need_no_extra_to_be_imported() -> None:
    import subprocess
    import sys

    code = (
        "import sys\nfor name in ('numpy', 'Stemmer', 'bm25s', 'wikipedia'): sys.modules[name] = None\n"
        "import veridical.retrievers.web, veridical.retrievers.wikidata, veridical.retrievers.wikipedia\n"
        "import veridical.retrievers.cache, veridical.retrievers.hybrid, veridical.retrievers.registry\n"
        "import veridical.retrievers.langchain, veridical.retrievers.testing, veridical.retrievers.rerank"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_importing_loads_nothing_heavy() -> None:
    import subprocess
    import sys

    code = (
        "import sys, veridical.retrievers.index, veridical.retrievers.dense, veridical.retrievers.rerank\n"
        "import veridical.retrievers.hybrid, veridical.retrievers.wikipedia, veridical.retrievers.wikidata\n"
        "heavy = ('torch', 'faiss', 'bm25s', 'sentence_transformers', 'transformers', 'wikipedia', 'bs4')\n"
        "print([name for name in heavy if name in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
