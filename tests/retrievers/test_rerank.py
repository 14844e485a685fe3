import asyncio
from collections.abc import Sequence
from pathlib import Path

import pytest

from veridical.retrievers.errors import RetrieverBroken, RetrieverMisconfigured
from veridical.retrievers.rerank import RerankRetriever
from veridical.retrievers.testing import FakeRetriever

INNER = FakeRetriever(sources=("one", "two", "three", "four"))


def by_length(pairs: Sequence[tuple[str, str]]) -> list[float]:
    assert all(query == "q" for query, _ in pairs)
    return [float(len(text)) for _, text in pairs]


def test_documents_are_ordered_by_the_model_and_equals_keep_their_order() -> None:
    retriever = RerankRetriever(retriever=INNER, model="lengths", score=by_length, k=3)
    docs = retriever.invoke("q")
    assert [doc.metadata["source"] for doc in docs] == ["three", "four", "one"]
    assert docs[0].metadata["score"] == len("Three\nText of three.")
    assert docs[0].metadata["retriever"] == "fake"
    assert asyncio.run(retriever.ainvoke("q")) == docs


def test_only_as_deep_as_told_but_at_least_k() -> None:
    retriever = RerankRetriever(retriever=INNER, model="lengths", score=by_length, depth=2)
    assert [doc.metadata["source"] for doc in retriever.invoke("q", k=1)] == ["one"]
    assert len(retriever.invoke("q", k=4)) == 4


def test_nothing_found_needs_no_model() -> None:
    assert RerankRetriever(retriever=FakeRetriever(), model="nowhere").invoke("q") == []


def test_too_few_scores_are_an_error() -> None:
    with pytest.raises(RetrieverBroken, match="1 scores for 4 passages"):
        RerankRetriever(retriever=INNER, model="m", score=lambda _: [1.0]).invoke("q")


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_a_real_cross_encoder_runs(tmp_path: Path) -> None:
    """A tiny one with random weights, made here: the wiring is what is tested."""
    pytest.importorskip("sentence_transformers", reason="needs the extra 'dense' (sentence-transformers)")
    from transformers import BertConfig, BertForSequenceClassification, BertTokenizerFast

    special = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
    words = [*special, "text", "of", "one", "two", "three", "four", ".", "q"]
    (tmp_path / "vocab.txt").write_text("\n".join(words))
    config = BertConfig(
        vocab_size=len(words),
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        num_labels=1,
    )
    BertForSequenceClassification(config).save_pretrained(tmp_path / "model")
    BertTokenizerFast(vocab_file=str(tmp_path / "vocab.txt")).save_pretrained(tmp_path / "model")
    docs = RerankRetriever(retriever=INNER, model=str(tmp_path / "model"), k=4).invoke("q")
    scores = [doc.metadata["score"] for doc in docs]
    assert sorted(doc.metadata["source"] for doc in docs) == ["four", "one", "three", "two"]
    assert scores == sorted(scores, reverse=True)
    with pytest.raises(RetrieverMisconfigured, match="cannot be loaded"):
        RerankRetriever(retriever=INNER, model=str(tmp_path / "nowhere")).invoke("q")
