"""One worker against two: processor time of a request, and requests per second.

    python benchmarks/workers.py [--rounds 5] [--seconds 1]

Both serve one key with limits, so that what workers share is used. The load generator and the backend run on
the same cores: how much of them the generator takes is told with the figures.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from contextlib import ExitStack
from pathlib import Path

from measuring import machine, memory_mb, running, save
from passthrough import CHAT, loaded, upstream, with_key

CELLS = ("whole, 16", "whole, 64", "stream, 16")


def main() -> None:
    """Run everything and keep the figures."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=1.0)
    options = parser.parse_args()
    at = machine()
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        stack.enter_context(upstream())
        targets, pids = {}, {}
        for count, port in ((1, 9113), (2, 9114)):
            home = Path(folder) / str(count)
            home.mkdir()
            target = targets[count] = with_key(port, home, "--workers", str(count))
            process = running(
                target.command, target.url, body=CHAT, key=target.key, environment=target.environment
            )
            pids[count] = stack.enter_context(process).pid
        cells = {}
        for cell in CELLS:
            rounds = [
                {count: loaded(targets[count], cell, pids[count], options.seconds) for count in targets}
                for _ in range(options.rounds + 1)
            ][1:]
            told = {
                count: {each: statistics.median(one[count][each] for one in rounds) for each in rounds[0][1]}
                for count in targets
            }
            ratio = statistics.median(one[2]["cpu_us"] / one[1]["cpu_us"] for one in rounds)
            cells[cell] = {"one": told[1], "two": told[2], "cpu_ratio": ratio}
        memory = {"one": memory_mb(pids[1]), "two": memory_mb(pids[2])}
    save("workers", at, {"cells": cells, "memory_mb": memory, "rounds": options.rounds})


if __name__ == "__main__":
    main()
