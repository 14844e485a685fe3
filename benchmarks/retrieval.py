"""Speed and memory of the local retrievers, as Markdown tables (`recall.py` has their quality).

    python benchmarks/retrieval.py --data DIR [--rows bm25,dense,growth,dense-growth]

DIR holds `wikipedia_passages/pooled.jsonl.gz` and `hotpotqa/` (for its questions). What is compared is
measured in one run, in turns, so that a busy machine slows both sides alike. Rows with "dense" need --model
(or the environment variable VERIDICAL_EMBEDDING_MODEL), a sentence-transformers model.
"""

from __future__ import annotations

import argparse
import asyncio
import gzip
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from veridical.retrievers import index
from veridical.retrievers.bm25 import BM25Index, BM25Retriever

Row = dict[str, Any]
K = 5


def main() -> None:
    """Run the rows that are asked for."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data", type=Path, default=os.environ.get("VERIDICAL_DATA"))
    parser.add_argument("--model", default=os.environ.get("VERIDICAL_EMBEDDING_MODEL"))
    parser.add_argument("--rows", default="bm25")
    parser.add_argument("--sizes", default="10000,50000", help="passages, for the rows of growth")
    parser.add_argument("--queries", type=int, default=200)
    parser.add_argument("--work", type=Path, help="keeps the indexes here; otherwise they are thrown away")
    options = parser.parse_args()
    if not options.data:
        parser.error("--data DIR or VERIDICAL_DATA must name the data folder")
    with tempfile.TemporaryDirectory() as scratch:
        options.work = options.work or Path(scratch)
        options.work.mkdir(parents=True, exist_ok=True)
        for name in options.rows.split(","):
            print(f"\n### {name}\n", flush=True)
            print(table(ROWS[name](options)), flush=True)


def table(rows: Sequence[Row]) -> str:
    """Rows with equal keys as a Markdown table."""
    head = list(rows[0])
    lines = [head, ["---"] * len(head), *([cell(row[key]) for key in head] for row in rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def cell(value: Any) -> str:
    """A number with three digits that matter."""
    if not isinstance(value, float):
        return str(value)
    return f"{value:.3g}" if abs(value) < 100 else f"{value:,.0f}"


# --- what is measured with


def read(path: Path) -> Iterator[dict[str, Any]]:
    """The rows of a gzipped JSON Lines file."""
    with gzip.open(path, "rt", encoding="utf-8") as file:
        for line in file:
            yield json.loads(line)


def questions(options: argparse.Namespace) -> list[str]:
    """Questions of HotpotQA."""
    rows = read(options.data / "hotpotqa" / "dev_distractor.jsonl.gz")
    return [row["question"] for row, _ in zip(rows, range(options.queries), strict=False)]


def in_turns(
    calls: dict[str, Callable[[str], Any]], queries: Sequence[str], rounds: int = 3
) -> dict[str, list[float]]:
    """Milliseconds of each call on each query: the best of `rounds`, the calls taking turns."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for query in queries:
        best = dict.fromkeys(calls, float("inf"))
        for _ in range(rounds):
            for name, call in calls.items():
                start = time.perf_counter()
                call(query)
                best[name] = min(best[name], 1000 * (time.perf_counter() - start))
        for name, value in best.items():
            times[name].append(value)
    return times


def percentiles(times: Sequence[float]) -> Row:
    """Median and 99th percentile."""
    ranked = sorted(times)
    return {"p50 ms": statistics.median(ranked), "p99 ms": ranked[int(0.99 * (len(ranked) - 1))]}


def built(options: argparse.Namespace, name: str, corpus: Path, **settings: Any) -> Path:
    """An index of whole documents; kept ones are used again."""
    out: Path = options.work / name
    if not (out / "index.json").exists():
        index.build(corpus, out, chunker=None, **settings)
    return out


def pooled(options: argparse.Namespace) -> Path:
    """The corpus of 51,612 passages."""
    path: Path = options.data / "wikipedia_passages" / "pooled.jsonl.gz"
    return path


# --- rows


def bm25(options: argparse.Namespace) -> list[Row]:
    """Our search against `bm25s` alone on the same files, and the cost of langchain's interface."""
    import bm25s

    folder = built(options, "pooled", pooled(options))
    ours = BM25Index.open(folder)
    retriever = BM25Retriever(index=ours, k=K)
    import Stemmer

    stemmer = Stemmer.Stemmer("english")

    def direct(query: str) -> None:
        ours.model.retrieve([ours.analyzer(query)], k=K, show_progress=False)

    def tokenised(query: str) -> None:
        terms = bm25s.tokenize(
            [query], stopwords="en", stemmer=stemmer, return_ids=False, show_progress=False
        )
        ours.model.retrieve(terms, k=K, show_progress=False)

    calls: dict[str, Callable[[str], Any]] = {
        "bm25s.retrieve, terms of our analyser": direct,
        "bm25s.tokenize + bm25s.retrieve": tokenised,
        "BM25Index.search (with texts)": lambda query: ours.search(query, K),
        "BM25Retriever.invoke": lambda query: retriever.invoke(query),
    }
    times = in_turns(calls, questions(options))
    base = statistics.median(times["bm25s.retrieve, terms of our analyser"])
    pairs = zip(times["BM25Retriever.invoke"], times["BM25Index.search (with texts)"], strict=True)
    return [
        {"call": name, **percentiles(found), "ratio to bm25s.retrieve": statistics.median(found) / base}
        for name, found in times.items()
    ] + [
        {
            "call": "overhead of BaseRetriever",
            "p50 ms": statistics.median(whole - part for whole, part in pairs),
            "p99 ms": "",
            "ratio to bm25s.retrieve": "",
        }
    ]


def dense(options: argparse.Namespace) -> list[Row]:
    """Search without encoding against FAISS alone, and what sixteen queries at once gain."""
    from veridical.retrievers.dense import DenseIndex

    folder = built(options, "pooled-dense", pooled(options), dense_model=options.model)
    found = DenseIndex.open(folder)
    asked = questions(options)
    vectors = {query: found.encoder.queries([query])[0] for query in asked}
    calls: dict[str, Callable[[str], Any]] = {
        "faiss search": lambda query: found.index.search(vectors[query].reshape(1, -1), K),
        "DenseIndex.nearest (with texts)": lambda query: found.nearest(vectors[query], K),
        "DenseIndex.search (with encoding)": lambda query: found.search(query, K),
    }
    times = in_turns(calls, asked)
    base = statistics.median(times["faiss search"])
    rows = [
        {"call": name, **percentiles(values), "ratio to faiss": statistics.median(values) / base}
        for name, values in times.items()
    ]

    return rows + crowds(found, asked[:96])


def crowds(found: Any, asked: Sequence[str]) -> list[Row]:
    """Sixteen queries, encoded and looked for: one by one, as one raw batch, and as concurrent searches."""

    from veridical.retrievers.dense import SPARE

    def raw(queries: Sequence[str]) -> None:
        found.index.search(found.encoder.queries(queries), K + SPARE)

    async def concurrent(queries: Sequence[str]) -> None:
        await asyncio.gather(*(found.asearch(query, K) for query in queries))

    loop = asyncio.new_event_loop()
    single, batch, ours = [], [], []
    for start in range(0, len(asked), 16):
        group = asked[start : start + 16]
        single.append(timed(lambda: [raw([query]) for query in group]))  # noqa: B023
        batch.append(timed(lambda: raw(group)))  # noqa: B023
        ours.append(timed(lambda: loop.run_until_complete(concurrent(group))))  # noqa: B023
    loop.close()
    gain = statistics.median(one / all_ for one, all_ in zip(single, batch, strict=True))
    reached = statistics.median(one / all_ for one, all_ in zip(single, ours, strict=True))
    told = {
        "16 queries one by one, encoder and FAISS alone": single,
        f"one raw batch of 16: {gain:.2f} times as fast": batch,
        f"16 concurrent searches: {reached:.2f} times, {reached / gain:.2f} of the batch's gain": ours,
    }
    return [{"call": name, **percentiles(times), "ratio to faiss": ""} for name, times in told.items()]


def timed(call: Callable[[], Any]) -> float:
    """Milliseconds of one call."""
    start = time.perf_counter()
    call()
    return 1000 * (time.perf_counter() - start)


def growth(options: argparse.Namespace) -> list[Row]:
    """Build and search of BM25 at each size, each in a process of its own."""
    return [grown(options, size) for size in map(int, options.sizes.split(","))]


def grown(options: argparse.Namespace, size: int) -> Row:
    """One size."""
    corpus, out = options.work / f"corpus-{size}.jsonl", options.work / f"growth-{size}"
    perturbed(pooled(options), corpus, size)
    build = child("build", corpus, out)
    search = child("search", out, options.data, options.queries)
    corpus.unlink()
    return {"passages": f"{size:,}", **build, **search}


def perturbed(source: Path, out: Path, size: int) -> None:
    """`size` passages: the source's own, then copies with a tenth of the words taken from elsewhere."""
    rows = list(read(source))
    rng = random.Random(0)
    with out.open("w", encoding="utf-8") as file:
        for number in range(size):
            row = rows[number % len(rows)]
            copy = number // len(rows)
            words = row["text"].split()
            if copy:
                other = rng.choice(rows)["text"].split() or [""]
                words = [rng.choice(other) if rng.random() < 0.1 else word for word in words]
            title = f"{row['title']} {copy}" if copy else row["title"]
            file.write(json.dumps({"id": str(number), "title": title, "text": " ".join(words)}) + "\n")


def child(step: str, *arguments: Any) -> Row:
    """What a step reports that runs in a process of its own, so that its memory is its own."""
    command = [sys.executable, __file__, "--step", step, *map(str, arguments)]
    found: Row = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    return found


def status(name: str) -> float:
    """A size in MiB that Linux tells of this process. (getrusage's peak begins with that of the parent.)"""
    told = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(told[name].split()[0]) / 1024


def memory() -> Row:
    """What this process holds: all pages, and those that are not of a mapped file."""
    return {"RSS MiB": status("VmRSS"), "private MiB": status("RssAnon")}


def step_build(corpus: str, out: str) -> Row:
    """Build an index and tell time, size and memory."""
    start = time.perf_counter()
    info = index.build(corpus, out, chunker=None)
    seconds = time.perf_counter() - start
    peak = status("VmHWM")
    return {"build s": seconds, "build peak RSS MiB": peak, "index MiB": info.size / 2**20}


def step_search(folder: str, data: str, queries: str) -> Row:
    """Open an index, search it and tell times and memory."""
    start = time.perf_counter()
    retriever = BM25Index.open(folder)
    opened = time.perf_counter() - start
    asked = questions(argparse.Namespace(data=Path(data), queries=int(queries)))
    times = in_turns({"search": lambda query: retriever.search(query, K)}, asked, rounds=1)["search"]
    return {"open s": opened, **percentiles(times), **memory()}


def step_dense_build(path: str, width: str, kind: str, out: str) -> Row:
    """Fill a FAISS index from a file of vectors and tell time, size and memory."""
    import faiss
    import numpy as np

    from veridical.retrievers import dense as part

    vectors = np.memmap(path, dtype=np.float32, mode="r").reshape(-1, int(width))
    start = time.perf_counter()
    found = part._filled(faiss, kind, vectors, lambda *_: None)  # noqa: SLF001
    seconds = time.perf_counter() - start
    peak = status("VmHWM")
    faiss.write_index(found, out)
    size = Path(out).stat().st_size
    return {"build s": seconds, "build peak RSS MiB": peak, "index MiB": size / 2**20}


def step_dense_search(path: str, asked: str, got: str) -> Row:
    """Read a FAISS index, search it and tell times and memory."""
    import faiss
    import numpy as np

    queries = np.load(asked)
    start = time.perf_counter()
    found = faiss.read_index(path)
    opened = time.perf_counter() - start
    times = [timed(lambda: found.search(row.reshape(1, -1), 10)) for row in queries]  # noqa: B023
    np.save(got, found.search(queries, 10)[1])
    return {"open s": opened, **percentiles(times), **memory()}


def dense_growth(options: argparse.Namespace) -> list[Row]:
    """FAISS indexes of perturbed vectors: the real ones of the corpus, then copies with noise."""
    import faiss
    import numpy as np

    from veridical.retrievers import dense as part

    folder = built(options, "pooled-dense", pooled(options), dense_model=options.model)
    source = part.DenseIndex.open(folder)
    real = source.index.reconstruct_n(0, source.index.ntotal)
    asked = source.encoder.queries(questions(options))
    rng = np.random.default_rng(0)
    rows = []
    for size in map(int, options.sizes.split(",")):
        path = options.work / f"vectors-{size}.f32"
        vectors = np.memmap(path, dtype=np.float32, mode="w+", shape=(size, real.shape[1]))
        for start in range(0, size, 50_000):
            taken = np.arange(start, min(start + 50_000, size))
            noise = rng.normal(scale=0.02, size=(len(taken), real.shape[1])) * (taken >= len(real))[:, None]
            noisy = real[taken % len(real)] + noise.astype(np.float32)
            vectors[start : start + len(noisy)] = noisy / np.linalg.norm(noisy, axis=1, keepdims=True)
        vectors.flush()
        kind, out = part.choose_kind(size), options.work / f"dense-{size}.faiss"
        built_in = child("dense-build", path, real.shape[1], kind, out)
        np.save(options.work / "asked.npy", asked)
        searched = child("dense-search", out, options.work / "asked.npy", options.work / "got.npy")
        exact = faiss.IndexFlatIP(real.shape[1])
        exact.add(np.ascontiguousarray(vectors))
        _, truth = exact.search(asked, 10)
        got = np.load(options.work / "got.npy")
        shared = statistics.mean(
            len(set(a) & set(b)) / 10 for a, b in zip(truth.tolist(), got.tolist(), strict=True)
        )
        rows.append(
            {"vectors": f"{size:,}", "kind": kind, **built_in, **searched, "recall@10 of exact": shared}
        )
        print(rows[-1], file=sys.stderr, flush=True)
        path.unlink()
        out.unlink()
    return rows


ROWS: dict[str, Callable[[argparse.Namespace], list[Row]]] = {
    "bm25": bm25,
    "dense": dense,
    "growth": growth,
    "dense-growth": dense_growth,
}

STEPS: dict[str, Callable[..., Row]] = {
    "build": step_build,
    "search": step_search,
    "dense-build": step_dense_build,
    "dense-search": step_dense_search,
}

if __name__ == "__main__":
    if sys.argv[1:2] == ["--step"]:
        step = STEPS[sys.argv[2]]
        print(json.dumps(step(*sys.argv[3:])))
    else:
        main()
