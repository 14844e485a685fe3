"""Wall time of every strategy against its critical path, and what the proxy itself costs.

    python benchmarks/strategies.py [--delay 0.2] [--rounds 5]

A scripted upstream answers each call after exactly `delay`; the critical path is depth x delay. Prints a
Markdown table of medians, then start-up time and memory of the proxy without the local model.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import platform
import statistics
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import aiohttp

HERE = Path(__file__).parent
UPSTREAM, PROXY = 9101, 9102
VARIANTS = ("joint", "two_step", "factored", "factor_revise")


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


async def ask(session: aiohttp.ClientSession, model: str, *, stream: bool) -> tuple[float, dict]:
    """One request: its seconds, and the `veridical` object of a whole answer."""
    body = {"model": model, "messages": [{"role": "user", "content": "Who?"}], "stream": stream}
    began = time.perf_counter()
    async with session.post(f"http://127.0.0.1:{PROXY}/v1/chat/completions", json=body) as response:
        assert response.status == 200, await response.text()
        found = await (response.read() if stream else response.json())
    return time.perf_counter() - began, {} if stream else found["veridical"]


async def measure(pid: int, delay: float, rounds: int) -> None:
    """The table."""
    print(
        "| strategy | calls | depth | alone: wall ÷ critical path | streamed | 32 at once | CPU ms a call |"
    )
    print("| --- | --- | --- | --- | --- | --- | --- |")
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector) as session:
        for variant in VARIANTS:
            model = f"m+cove(variant={variant})"
            await ask(session, model, stream=False)
            whole = [await ask(session, model, stream=False) for _ in range(rounds)]
            streamed = [await ask(session, model, stream=True) for _ in range(rounds)]
            trail = whole[0][1]
            path = trail["depth"] * delay
            before = cpu_s(pid)
            crowd = await asyncio.gather(*(ask(session, model, stream=False) for _ in range(32)))
            cpu = (cpu_s(pid) - before) / (32 * trail["calls"])
            ratios = [statistics.median(s for s, _ in runs) / path for runs in (whole, streamed, crowd)]
            cells = [
                variant,
                trail["calls"],
                trail["depth"],
                *(f"{r:.3f}" for r in ratios),
                f"{cpu * 1000:.2f}",
            ]
            print("| " + " | ".join(map(str, cells)) + " |", flush=True)


def main() -> None:
    """Run everything."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--delay", type=float, default=0.2)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    veridical = str(Path(sys.executable).parent / "veridical")
    serve = (veridical, "serve", "--port", str(PROXY), "--base-url", f"http://127.0.0.1:{UPSTREAM}/v1")
    upstream = (
        sys.executable,
        str(HERE / "upstream.py"),
        "--port",
        str(UPSTREAM),
        "--delay",
        str(options.delay),
    )
    health = f"http://127.0.0.1:{PROXY}/health"
    print(
        f"Python {platform.python_version()}, {os.cpu_count()} cores; 4 questions a draft, {options.rounds}"
    )
    print(f"rounds, upstream delay {options.delay * 1000:g} ms; medians.\n")
    with running(*upstream, url=f"http://127.0.0.1:{UPSTREAM}/v1/models"):
        starts = []
        for _ in range(options.rounds):
            with running(*serve, url=health) as (pid, seconds):
                starts.append((seconds, memory_mb(pid)))
        with running(*serve, url=health) as (pid, _):
            asyncio.run(measure(pid, options.delay, options.rounds))
            after = memory_mb(pid)
    seconds, memory = (statistics.median(column) for column in zip(*starts, strict=True))
    print("\n| proxy without the local model | |\n| --- | --- |")
    print(f"| process start to first 200 | {seconds:.2f} s |")
    print(f"| memory after start | {memory:.0f} MB |")
    print(f"| memory after the table above | {after:.0f} MB |")


if __name__ == "__main__":
    main()
