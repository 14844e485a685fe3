"""Wall time of every strategy against its critical path, and what the proxy itself costs.

    python benchmarks/strategies.py [--delay 0.2] [--rounds 5]

A scripted upstream answers each call after exactly `delay`. Alone, a request's seconds are divided by its
critical path, depth x delay; of many at once, by what a bare aiohttp loop needs that makes the same calls in
the same order. Prints a Markdown table of medians, then start-up time and memory of the proxy without the
local model.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Coroutine, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import aiohttp

from veridical.retrievers import index

HERE = Path(__file__).parent
UPSTREAM, PROXY = 9101, 9102
QUESTION = "What is an answer of some words?"
STRATEGIES = (
    *(f"cove(variant={variant})" for variant in ("joint", "two_step", "factored", "factor_revise")),
    "cove(execute_with=retrieval)",
    "rag",
    "cok",
    "cok(prefetch=false)",
    "lm_vs_lm(on_reject=revise)",
    "debate",
    "self_consistency(n=8)",
    "self_refine(max_rounds=2)",
    "rag|cove",
)


@contextmanager
def running(*command: str, url: str) -> Iterator[tuple[int, float]]:
    """A process until the block ends: its id, and the seconds from its start to the first answer."""
    began = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        while True:
            try:
                urllib.request.urlopen(url, timeout=1).close()
                break
            except (urllib.error.URLError, OSError):
                if process.poll() is not None or time.perf_counter() - began > 60:
                    raise SystemExit(f"{command[0]} did not start") from None
                time.sleep(0.005)
        yield process.pid, time.perf_counter() - began
    finally:
        process.terminate()
        process.wait()


def memory_mb(pid: int) -> float:
    """Resident memory of a process."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


def cpu_s(pid: int) -> float:
    """Seconds of processor time that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


async def post(session: aiohttp.ClientSession, port: int, body: dict[str, Any]) -> bytes:
    """One chat completion, read whole."""
    async with session.post(f"http://127.0.0.1:{port}/v1/chat/completions", json=body) as response:
        assert response.status == 200, await response.text()
        return await response.read()


async def ask(session: aiohttp.ClientSession, model: str, *, stream: bool = False) -> float:
    """Seconds of one request through the proxy."""
    body = {"model": model, "messages": [{"role": "user", "content": QUESTION}], "stream": stream}
    began = time.perf_counter()
    await post(session, PROXY, body)
    return time.perf_counter() - began


async def traced(session: aiohttp.ClientSession, model: str) -> dict[str, Any]:
    """The `veridical` object of one request, with every call's messages."""
    body = {"model": model, "messages": [{"role": "user", "content": QUESTION}]}
    answer = json.loads(await post(session, PROXY, {**body, "veridical": {"trace": "full"}}))
    found: dict[str, Any] = answer["veridical"]
    return found


async def bare(session: aiohttp.ClientSession, trail: dict[str, Any]) -> None:
    """The calls of a run and nothing else: those of one depth at once, then the next."""
    for depth in range(1, trail["depth"] + 1):
        level = [step["messages"] for step in trail["steps"] if step["depth"] == depth]
        bodies = [{"model": "m", "messages": messages} for messages in level]
        await asyncio.gather(*(post(session, UPSTREAM, body) for body in bodies))


async def seconds(runs: Iterable[Coroutine[Any, Any, Any]]) -> float:
    """How long runs at once take together."""
    began = time.perf_counter()
    await asyncio.gather(*runs)
    return time.perf_counter() - began


async def measure(pid: int, options: argparse.Namespace) -> None:
    """The table. A crowd through the proxy and the same calls without it take turns."""
    crowds = [int(size) for size in options.crowds.split(",")]
    head = [
        "strategy",
        "calls",
        "depth",
        "alone",
        "streamed",
        *(f"{n} at once" for n in crowds),
        "CPU ms a call",
    ]
    print(f"| {' | '.join(head)} |\n|{' --- |' * len(head)}")
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
        for strategy in options.strategies.split(";"):
            model = f"m+{strategy}"
            trail = await traced(session, model)
            path = trail["depth"] * options.delay
            alone = [await ask(session, model) / path for _ in range(options.rounds)]
            streamed = [await ask(session, model, stream=True) / path for _ in range(options.rounds)]
            ratios, cpu = [], 0.0
            for size in crowds:
                found = []
                for _ in range(options.crowd_rounds):
                    without = await seconds(bare(session, trail) for _ in range(size))
                    before = cpu_s(pid)
                    through = await seconds(ask(session, model) for _ in range(size))
                    cpu = (cpu_s(pid) - before) / (size * trail["calls"])
                    found.append(through / without)
                ratios.append(statistics.median(found))
            medians = [statistics.median(alone), statistics.median(streamed), *ratios]
            cells = [
                strategy,
                trail["calls"],
                trail["depth"],
                *(f"{r:.3f}" for r in medians),
                f"{1000 * cpu:.2f}",
            ]
            print("| " + " | ".join(map(str, cells)) + " |", flush=True)


def pages(folder: Path) -> Path:
    """A small index, so that strategies which search have something to find."""
    corpus = folder / "pages.jsonl"
    text = "Page {0} is about words {0} and an answer of some words."
    rows = [json.dumps({"id": str(n), "title": f"Page {n}", "text": text.format(n)}) for n in range(200)]
    corpus.write_text("\n".join(rows))
    index.build(corpus, folder / "index")
    return folder / "index"


def main() -> None:
    """Run everything."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--delay", type=float, default=0.2, help="of every call, in seconds")
    parser.add_argument("--rounds", type=int, default=5, help="requests alone")
    parser.add_argument("--crowds", default="32", help="requests at once, several after commas")
    parser.add_argument("--crowd-rounds", type=int, default=3)
    parser.add_argument("--strategies", default=";".join(STRATEGIES), help="separated by semicolons")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        run(options, pages(Path(folder)))


def run(options: argparse.Namespace, folder: Path) -> None:
    """Start the upstream and the proxy, print the tables."""
    veridical = str(Path(sys.executable).parent / "veridical")
    plain = (veridical, "serve", "--port", str(PROXY), "--base-url", f"http://127.0.0.1:{UPSTREAM}/v1")
    upstream = (sys.executable, str(HERE / "upstream.py"), "--port", str(UPSTREAM))
    health = f"http://127.0.0.1:{PROXY}/health"
    print(f"Python {platform.python_version()}, {os.cpu_count()} cores; {options.rounds} rounds alone,")
    print(f"{options.crowd_rounds} of a crowd, upstream delay {options.delay * 1000:g} ms; medians.\n")
    delayed = (*upstream, "--delay", str(options.delay))
    with running(*delayed, url=f"http://127.0.0.1:{UPSTREAM}/v1/models"):
        starts = []
        for _ in range(options.rounds):
            with running(*plain, url=health) as (pid, started):
                starts.append((started, memory_mb(pid)))
        with running(*plain, "--index", str(folder), url=health) as (pid, _):
            asyncio.run(measure(pid, options))
            after = memory_mb(pid)
    started, memory = (statistics.median(column) for column in zip(*starts, strict=True))
    print("\n| proxy without the local model | |\n| --- | --- |")
    print(f"| process start to first 200 | {started:.2f} s |")
    print(f"| memory after start | {memory:.0f} MB |")
    print(f"| memory after the table above, with an index open | {after:.0f} MB |")


if __name__ == "__main__":
    main()
