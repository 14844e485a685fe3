"""Wall time of every strategy against its critical path, and what the proxy itself costs.

    python benchmarks/strategies.py [--delay 0.2] [--turns 3]

A scripted upstream answers each call after exactly `delay`. Alone, a request's seconds are divided by its
critical path, depth x delay; of many at once, by what a bare aiohttp loop needs that makes the same calls in
the same order; a turn's first crowd, which opens the connections, is not counted. The first byte of a stream
counts from when its first backend call is answered, or from one second, whichever is first. Figures are
medians.

CPU is the proxy process's alone, by the calls that it made: a call for several choices is one, and a request
of one call has the whole request's cost on it. Requests one by one are told apart: each wakes a process that
has slept, and finds the processor's caches full of others' data, which costs up to twice as much.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import statistics
import sys
import tempfile
import time
from collections.abc import Coroutine, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
from measuring import HERE, PROGRAM, cpu_s, machine, memory_mb, pages, running, save

UPSTREAM, PROXY = 9101, 9102
QUESTION = "What is an answer of some words?"
STRATEGIES = (
    *(f"cove(variant={variant})" for variant in ("joint", "two_step", "factored", "factor_revise")),
    "cove(execute_with=retrieval)",
    "rag",
    "cok",
    "cok(prefetch=false)",
    "critic",
    "critic(queries_ahead=0)",
    "lm_vs_lm(on_reject=revise)",
    "debate",
    "self_consistency(n=8)",
    "self_refine(max_rounds=2)",
    "rag|cove",
)


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
        level = [step for step in trail["steps"] if step["depth"] == depth]
        bodies = [
            {"model": "m", "messages": step["messages"], "n": 1 + len(step.get("others", ()))}
            for step in level
        ]
        await asyncio.gather(*(post(session, UPSTREAM, body) for body in bodies))


async def seconds(runs: Iterable[Coroutine[Any, Any, Any]]) -> float:
    """How long runs at once take together."""
    began = time.perf_counter()
    await asyncio.gather(*runs)
    return time.perf_counter() - began


async def first_bytes(session: aiohttp.ClientSession, model: str) -> float:
    """Seconds from a streamed request to its first byte, less the one call that its status waits for."""
    body = {"model": model, "messages": [{"role": "user", "content": QUESTION}], "stream": True}
    began = time.perf_counter()
    async with session.post(f"http://127.0.0.1:{PROXY}/v1/chat/completions", json=body) as response:
        await response.content.readany()
        first = time.perf_counter() - began
        await response.read()
    return first


@dataclass
class Samples:
    """What was seen of one strategy: ratios of wall time, seconds of first bytes, and milliseconds of the
    proxy's processor time a call, the crowds' by their size."""

    trail: dict[str, Any]
    alone: list[float] = field(default_factory=list)
    streamed: list[float] = field(default_factory=list)
    first: list[float] = field(default_factory=list)
    crowds: dict[int, list[float]] = field(default_factory=dict)
    cpu_ms: dict[int, list[float]] = field(default_factory=dict)

    def figures(self, delay: float) -> dict[str, Any]:
        """The medians."""
        many = [each for size, spent in self.cpu_ms.items() if size > 1 for each in spent]
        one_by_one = self.cpu_ms.get(1)
        return {
            "calls": self.trail["calls"],
            "depth": self.trail["depth"],
            "alone": statistics.median(self.alone),
            "streamed": statistics.median(self.streamed),
            "first_byte_s": statistics.median(self.first) - min(delay, 1.0),
            "crowds": {str(size): statistics.median(ratios) for size, ratios in self.crowds.items()},
            "cpu_ms": statistics.median(many or one_by_one or [math.nan]),
            "cpu_one_by_one_ms": statistics.median(one_by_one) if one_by_one else None,
        }


async def measure(pid: int, options: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """The figures of every strategy. Strategies take turns, so that a bad minute of the machine falls on all
    of them, and so do a crowd through the proxy and the same calls without it."""
    strategies = options.strategies.split(";")
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
        seen = {each: Samples(await traced(session, f"m+{each}")) for each in strategies}
        for turn in range(options.turns):
            for strategy, samples in seen.items():
                await sample(session, pid, strategy, samples, options)
                told = samples.figures(options.delay)
                print(f"turn {turn + 1} of {options.turns}", strategy, told, file=sys.stderr, flush=True)
        return {strategy: samples.figures(options.delay) for strategy, samples in seen.items()}


async def sample(
    session: aiohttp.ClientSession, pid: int, strategy: str, seen: Samples, options: argparse.Namespace
) -> None:
    """One turn of a strategy."""
    model, calls = f"m+{strategy}", seen.trail["calls"]
    path = seen.trail["depth"] * options.delay
    for _ in range(options.rounds):
        seen.alone.append(await ask(session, model) / path)
        seen.streamed.append(await ask(session, model, stream=True) / path)
        seen.first.append(await first_bytes(session, model))
    for size in map(int, options.crowds.split(",")):
        ratios, spent = [], []
        began = time.perf_counter()
        while len(ratios) <= options.crowd_rounds or time.perf_counter() < began + options.crowd_seconds:
            without = await seconds(bare(session, seen.trail) for _ in range(size))
            before = cpu_s(pid)
            through = await seconds(ask(session, model) for _ in range(size))
            spent.append(1e3 * (cpu_s(pid) - before) / (size * calls))
            ratios.append(through / without)
        seen.crowds.setdefault(size, []).extend(ratios[1:])
        seen.cpu_ms.setdefault(size, []).extend(spent[1:])


def main() -> None:
    """Run everything."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--delay", type=float, default=0.2, help="of every call, in seconds")
    parser.add_argument("--turns", type=int, default=3, help="of each strategy")
    parser.add_argument("--rounds", type=int, default=2, help="requests alone in a turn")
    parser.add_argument("--crowds", default="1,32,128", help="requests at once, several after commas")
    parser.add_argument("--crowd-rounds", type=int, default=1, help="of each size, at least, in a turn")
    parser.add_argument("--crowd-seconds", type=float, default=2.5, help="at least so long with each size")
    parser.add_argument("--strategies", default=";".join(STRATEGIES), help="separated by semicolons")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        run(options, pages(Path(folder)))


def run(options: argparse.Namespace, folder: Path) -> None:
    """Start the upstream and the proxy, and keep the figures."""
    at = machine()
    backend, health = f"http://127.0.0.1:{UPSTREAM}/v1", f"http://127.0.0.1:{PROXY}/health"
    upstream = (sys.executable, str(HERE / "upstream.py"), "--port", str(UPSTREAM))
    proxy = (PROGRAM, "serve", "--port", str(PROXY), "--base-url", backend, "--index", str(folder))
    with (
        running((*upstream, "--delay", str(options.delay)), f"{backend}/models"),
        running(proxy, health) as process,
    ):
        found = asyncio.run(measure(process.pid, options))
        memory = memory_mb(process.pid)
    settings = {"delay_s": options.delay, "turns": options.turns, "rounds": options.rounds}
    save("strategies", at, {"strategies": found, "memory_mb": memory, **settings})


if __name__ == "__main__":
    main()
