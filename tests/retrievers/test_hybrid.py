import asyncio
import time
from typing import Any

import pytest
from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.documents import Document
from langchain_core.retrievers import BaseRetriever
from pydantic import ValidationError

from veridical.retrievers.errors import RetrieverTimeout, RetrieverUnavailable
from veridical.retrievers.hybrid import HybridRetriever, PartFailed, fuse
from veridical.retrievers.testing import FakeRetriever

BROKEN = FakeRetriever(name="broken", error=RetrieverUnavailable("the source is down"))


def fake(*sources: str, name: str = "fake", delay: float = 0.0) -> FakeRetriever:
    return FakeRetriever(name=name, sources=sources, delay=delay)


def sources(docs: list[Document]) -> list[str]:
    return [doc.metadata["source"] for doc in docs]


class Foreign(BaseRetriever):
    """Not one of ours."""

    fails: bool = False

    def _get_relevant_documents(self, query: str, *, run_manager: Any) -> list[Document]:
        if self.fails:
            raise KeyError("third-party trouble")
        return [Document("Foreign text.", metadata={"source": "f"})]


def test_fusion_sums_reciprocal_ranks() -> None:
    a, b, c = fake("a", "b", "c").invoke("q")
    fused = fuse([[a, b], [b, c]], [1.0, 1.0], 60)
    assert [(doc.metadata["source"], score) for doc, score in fused] == [
        ("b", pytest.approx(1 / 62 + 1 / 61)),
        ("a", pytest.approx(1 / 61)),
        ("c", pytest.approx(1 / 62)),
    ]


def test_a_document_that_a_part_repeats_counts_once() -> None:
    a, b = fake("a", "b").invoke("q")
    assert [score for _, score in fuse([[a, a, b]], [1.0], 60)] == [1 / 61, 1 / 62]


def test_what_both_find_comes_first() -> None:
    hybrid = HybridRetriever(retrievers=(fake("a", "b", "c"), fake("d", "b", "e")), k=3)
    assert sources(hybrid.invoke("q")) == ["b", "a", "d"]
    assert sources(asyncio.run(hybrid.ainvoke("q"))) == ["b", "a", "d"]


def test_scores_fall_and_each_document_names_the_part_that_found_it() -> None:
    docs = HybridRetriever(retrievers=(fake("a", name="one"), fake("b", name="two"))).invoke("q")
    assert [doc.metadata["retriever"] for doc in docs] == ["one", "two"]
    assert [doc.metadata["score"] for doc in docs] == [1 / 61, 1 / 61]


def test_weights_tell_parts_apart() -> None:
    parts = (fake("a"), fake("b"))
    assert sources(HybridRetriever(retrievers=parts, weights=(1, 2)).invoke("q")) == ["b", "a"]
    with pytest.raises(ValidationError, match="1 weights for 2 retrievers"):
        HybridRetriever(retrievers=parts, weights=(1,))


def test_parts_are_asked_for_more_than_k() -> None:
    hybrid = HybridRetriever(retrievers=(fake("a", "b", "c"), fake("c")), k=1)
    assert sources(hybrid.invoke("q")) == ["c"]
    assert sources(hybrid.invoke("q", k=2)) == ["c", "a"]


def test_async_asks_the_parts_at_once() -> None:
    hybrid = HybridRetriever(retrievers=tuple(fake(str(i), delay=0.2) for i in range(5)))
    start = time.perf_counter()
    asyncio.run(hybrid.ainvoke("q"))
    assert time.perf_counter() - start < 0.6


def test_sync_asks_the_parts_at_once() -> None:
    hybrid = HybridRetriever(retrievers=tuple(fake(str(i), delay=0.2) for i in range(5)))
    start = time.perf_counter()
    hybrid.invoke("q")
    assert time.perf_counter() - start < 0.6


@pytest.mark.parametrize("asynchronous", [False, True])
def test_a_failing_part_is_reported_and_the_others_go_on(asynchronous: bool) -> None:
    failed: list[PartFailed] = []
    hybrid = HybridRetriever(retrievers=(BROKEN, fake("a")), report=failed.append)
    docs = asyncio.run(hybrid.ainvoke("q")) if asynchronous else hybrid.invoke("q")
    assert sources(docs) == ["a"]
    assert [(part.retriever, part.query, part.error.message) for part in failed] == [
        ("broken", "q", "the source is down")
    ]


def test_a_failing_part_ends_its_own_run_in_an_error_for_tracers() -> None:
    class Tracer(BaseCallbackHandler):
        def __init__(self) -> None:
            self.errors: list[BaseException] = []
            self.ends = 0

        def on_retriever_error(self, error: BaseException, **_: Any) -> None:
            self.errors.append(error)

        def on_retriever_end(self, documents: Any, **_: Any) -> None:
            self.ends += 1

    tracer = Tracer()
    HybridRetriever(retrievers=(BROKEN, fake("a"))).invoke("q", {"callbacks": [tracer]})
    assert tracer.errors == [BROKEN.error]
    assert tracer.ends == 2  # the good part and the whole


def test_a_slow_part_is_left_out_after_the_timeout() -> None:
    failed: list[PartFailed] = []
    hybrid = HybridRetriever(
        retrievers=(fake("slow", name="slow", delay=5), fake("a")), timeout=0.1, report=failed.append
    )
    start = time.perf_counter()
    assert sources(asyncio.run(hybrid.ainvoke("q"))) == ["a"]
    assert time.perf_counter() - start < 2
    assert isinstance(failed[0].error, RetrieverTimeout)


def test_when_all_parts_fail_the_search_fails_with_their_reasons() -> None:
    hybrid = HybridRetriever(retrievers=(BROKEN, Foreign(fails=True)))
    with pytest.raises(RetrieverUnavailable, match=r"broken: the source is down; langchain: .*third-party"):
        hybrid.invoke("q")


def test_foreign_retrievers_take_part_and_their_errors_are_ours() -> None:
    failed: list[PartFailed] = []
    assert sources(HybridRetriever(retrievers=(Foreign(), fake("a"))).invoke("q")) == ["f", "a"]
    hybrid = HybridRetriever(retrievers=(Foreign(fails=True), fake("a")), report=failed.append)
    assert sources(hybrid.invoke("q")) == ["a"]
    assert "KeyError" in failed[0].error.message


def test_a_bug_of_ours_is_not_taken_for_a_failing_source() -> None:
    class Buggy(FakeRetriever):
        def find(self, query: str, k: int, callbacks: Any = None) -> list[Document]:
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        HybridRetriever(retrievers=(Buggy(), fake("a"))).invoke("q")
