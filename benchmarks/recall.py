"""Recall of gold titles on HotpotQA: BM25, dense, hybrid, and hybrid with the queries that `cok` writes.

    python benchmarks/recall.py --data DIR --model EMBEDDER [--work DIR] [--queries FILE]
    python benchmarks/recall.py --data DIR --queries FILE --write --base-url URL --generator MODEL -n 100

The first form prints tables: forms of hybrid are compared on `train_distractor_100` over its own paragraphs,
and the best of them by recall@5 there, with all else, on `dev_distractor` over the corpus of 8,091. The
second form fills FILE, which the first then uses: it asks a running proxy for `cok` with every step of the
paper (no prefetch, no gate) and keeps the queries that were written for the statements.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import os
import random
import statistics
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from langchain_core.callbacks import Callbacks
from langchain_core.documents import Document
from pydantic import Field
from retrieval import built, read, table

from veridical.retrievers.base import Retriever
from veridical.retrievers.bm25 import BM25Retriever
from veridical.retrievers.hybrid import HybridRetriever, fuse

Row = dict[str, Any]
#: Passages that are looked at, and that a part is ever asked for.
DEPTH, DEEPEST = 10, 50
STRATEGY = "cok(samples=1, threshold=1.01, prefetch=false)"


@dataclass(frozen=True)
class Asked:
    """A question and the titles of the paragraphs that support its answer."""

    question: str
    titles: frozenset[str]


def main() -> None:
    """Print the tables, or write the queries."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data", type=Path, default=os.environ.get("VERIDICAL_DATA"), required=False)
    parser.add_argument("--model", default=os.environ.get("VERIDICAL_EMBEDDING_MODEL"))
    parser.add_argument("--work", type=Path, help="keeps the indexes here; otherwise they are thrown away")
    parser.add_argument("--queries", type=Path, help="a JSON file: question to the queries of cok")
    parser.add_argument("--write", action="store_true", help="fill that file from a running proxy")
    parser.add_argument("--base-url", default="http://127.0.0.1:8000/v1")
    parser.add_argument("--generator", help="the model that writes the queries")
    parser.add_argument("-n", type=int, default=100, help="questions to write queries for")
    options = parser.parse_args()
    if not options.data:
        parser.error("--data DIR or VERIDICAL_DATA must name the data folder")
    if options.write:
        asyncio.run(write(options))
        return
    if not options.model:
        parser.error("--model or VERIDICAL_EMBEDDING_MODEL must name an embedding model")
    with tempfile.TemporaryDirectory() as scratch:
        options.work = options.work or Path(scratch)
        options.work.mkdir(parents=True, exist_ok=True)
        compare(options)


def compare(options: argparse.Namespace) -> None:
    """Choose the hybrid on the questions for tuning, then measure on the others."""
    folder = options.data / "hotpotqa"
    train, dev = folder / "train_distractor_100.jsonl.gz", folder / "dev_distractor.jsonl.gz"
    parts = opened(options, "hotpot-train", paragraphs(train, options.work))
    forms = [dict(zip(FORM, values, strict=True)) for values in itertools.product(*FORM.values())]
    tried = [{**form, **recall(hybrid(parts, form), list(gold(train)))} for form in forms]
    tried.sort(key=lambda row: -row["recall@5"])
    print(f"\n### train_distractor_100, for tuning: the best 6 of {len(forms)} hybrids, and the parts\n")
    print(table([*({"retriever": "hybrid", **row} for row in tried[:6]), *alone(parts, list(gold(train)))]))
    best = {name: tried[0][name] for name in FORM}
    parts = opened(options, "hotpot", folder / "corpus_dev.jsonl.gz")
    both, plain = hybrid(parts, best), hybrid(parts, PLAIN)
    asked = list(gold(dev))
    print("\n### dev_distractor\n", flush=True)
    rows = [{"retriever": "hybrid, chosen", **best, **recall(both, asked)}]
    rows += [{"retriever": "hybrid, as configured by default", **PLAIN, **recall(plain, asked)}]
    print(table([*rows, *alone(parts, asked)]))
    differences(both, parts, asked)
    if options.queries:
        with_queries(both, asked, json.loads(options.queries.read_text(encoding="utf-8")))


#: What a hybrid of BM25 and dense retrieval can vary in: the weights, the depth and RRF's constant.
FORM: Mapping[str, Sequence[Any]] = {
    "weights": ((1.0, 1.0), (2.0, 1.0), (3.0, 1.0), (1.0, 2.0)),
    "depth": (10, 20, 50),
    "constant": (5, 20, 60),
}
PLAIN: Row = {"weights": (1.0, 1.0), "depth": 20, "constant": 60}


def hybrid(parts: Mapping[str, Any], form: Row) -> HybridRetriever:
    """BM25 and dense retrieval in this form."""
    return HybridRetriever(retrievers=tuple(parts.values()), **form)


def alone(parts: Mapping[str, Any], asked: Sequence[Asked]) -> list[Row]:
    """Each part by itself, in rows that fit those of the hybrids."""
    return [
        {"retriever": name, **dict.fromkeys(FORM, "–"), **recall(part, asked)} for name, part in parts.items()
    ]


def opened(options: argparse.Namespace, name: str, corpus: Path) -> dict[str, Any]:
    """BM25 and dense retrievers over one index of the corpus."""
    from veridical.retrievers.dense import DenseRetriever

    folder = built(options, f"{name}-dense", corpus, dense_model=options.model)
    parts = {"bm25": BM25Retriever.open(folder), "dense": DenseRetriever.open(folder)}
    return {name: Remembered(name=name, inner=part) for name, part in parts.items()}


class Remembered(Retriever):
    """A retriever that is asked each query once, so that many hybrids can be compared."""

    inner: Retriever
    known: dict[str, list[Document]] = Field(default_factory=dict)

    @property
    def identity(self) -> str:
        """As the one it asks."""
        return self.inner.identity

    def find(self, query: str, k: int, callbacks: Callbacks = None) -> list[Document]:
        """The first `k` of what was found, or is now."""
        if query not in self.known:
            self.known[query] = self.inner.invoke(query, k=DEEPEST)
        return self.known[query][:k]


def paragraphs(questions: Path, work: Path) -> Path:
    """The paragraphs that come with questions, as a corpus."""
    texts = {title: " ".join(sentences) for row in read(questions) for title, sentences in row["context"]}
    out = work / "paragraphs.jsonl"
    rows = (json.dumps({"title": title, "text": text}) + "\n" for title, text in texts.items())
    out.write_text("".join(rows), encoding="utf-8")
    return out


def gold(path: Path) -> Iterator[Asked]:
    """Questions with the titles that support their answers; the data has two spellings of it."""
    for row in read(path):
        facts = row["supporting_facts"]
        titles = facts["title"] if isinstance(facts, dict) else [title for title, _ in facts]
        yield Asked(row["question"], frozenset(titles))


def shares(found: Sequence[Any], titles: frozenset[str]) -> dict[int, float]:
    """The share of the gold titles among the first 2, 5 and 10 documents."""
    ranked = [doc.metadata["title"] for doc in found]
    return {k: len(titles & set(ranked[:k])) / len(titles) for k in (2, 5, 10)}


def recall(retriever: Any, asked: Sequence[Asked]) -> Row:
    """The mean over questions of these shares."""
    return means([shares(retriever.invoke(each.question, k=DEPTH), each.titles) for each in asked])


def means(found: Sequence[Mapping[int, float]]) -> Row:
    """A row of the table."""
    row: Row = {f"recall@{k}": statistics.mean(each[k] for each in found) for k in (2, 5, 10)}
    return {"n": len(found), **row, "all gold in 10": statistics.mean(each[10] == 1 for each in found)}


def differences(both: HybridRetriever, parts: Mapping[str, Any], asked: Sequence[Asked]) -> None:
    """The hybrid against each part, question by question, with a bootstrap interval."""
    print("\n### dev_distractor: hybrid minus part, points [95 %]\n")
    ours = [shares(both.invoke(each.question, k=DEPTH), each.titles) for each in asked]
    rows = []
    for name, part in parts.items():
        theirs = [shares(part.invoke(each.question, k=DEPTH), each.titles) for each in asked]
        rows.append({"part": name, **{f"recall@{k}": interval(ours, theirs, k) for k in (2, 5, 10)}})
    print(table(rows), flush=True)


def interval(ours: Sequence[Mapping[int, float]], theirs: Sequence[Mapping[int, float]], k: int) -> str:
    """The mean paired difference at one depth, with a 95 % percentile interval of 2,000 resamples."""
    found = [100 * (mine[k] - other[k]) for mine, other in zip(ours, theirs, strict=True)]
    rng = random.Random(0)
    drawn = sorted(statistics.mean(rng.choices(found, k=len(found))) for _ in range(2000))
    return f"{statistics.mean(found):+.1f} [{drawn[49]:+.1f}, {drawn[1949]:+.1f}]"


# --- queries of `cok`


def with_queries(both: HybridRetriever, asked: Sequence[Asked], written: Mapping[str, Sequence[str]]) -> None:
    """The same questions searched with the question, with the queries of `cok`, and with both fused."""
    chosen = [each for each in asked if written.get(each.question)]
    found: dict[str, list[Any]] = {"question": [], "queries of cok": [], "question + queries of cok": []}
    for each in chosen:
        rankings = [both.invoke(text, k=20) for text in (each.question, *written[each.question])]
        for name, taken in zip(found, (rankings[:1], rankings[1:], rankings), strict=True):
            fused = [doc for doc, _ in fuse(taken, [1.0] * len(taken), 60)]
            found[name].append(shares(fused[:DEPTH], each.titles))
    print(f"\n### dev_distractor, the first {len(chosen)} questions, hybrid searched with\n")
    print(table([{"searched with": name, **means(rows)} for name, rows in found.items()]))
    gains = ", ".join(f"recall@{k} {_gain(found, k)}" for k in (5, 10))
    print(f"\nquestion + queries of cok minus question: {gains}")


def _gain(found: Mapping[str, list[Any]], k: int) -> str:
    return interval(found["question + queries of cok"], found["question"], k)


async def write(options: argparse.Namespace) -> None:
    """Ask the proxy; each question's queries are kept as soon as they are there."""
    import aiohttp
    from tqdm import tqdm

    known = json.loads(options.queries.read_text(encoding="utf-8")) if options.queries.exists() else {}
    rows = itertools.islice(gold(options.data / "hotpotqa" / "dev_distractor.jsonl.gz"), options.n)
    todo = iter([each.question for each in rows if each.question not in known])
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=None)) as session:
        with tqdm(total=options.n, initial=len(known)) as progress:

            async def worker() -> None:
                for question in todo:
                    known[question] = await queries(session, options, question)
                    options.queries.write_text(json.dumps(known, indent=1), encoding="utf-8")
                    progress.update()

            await asyncio.gather(*(worker() for _ in range(4)))


async def queries(session: Any, options: argparse.Namespace, question: str) -> list[str]:
    """The queries that `cok` writes on the way to an answer, each once."""
    body = {
        "model": options.generator,
        "messages": [{"role": "user", "content": question}],
        "max_tokens": 48,
        "temperature": 0,
        "seed": 0,
        "strategy": STRATEGY,
    }
    async with session.post(f"{options.base_url}/chat/completions", json=body) as response:
        told = await response.json()
    if response.status != 200:
        raise RuntimeError(told)
    return list(dict.fromkeys(each["query"] for each in told["veridical"].get("retrievals", ())))


if __name__ == "__main__":
    main()
