"""One worker against two: processor time of a request, and requests per second.

    python benchmarks/workers.py [--rounds 5] [--seconds 1]

Both serve one key with limits, so that what workers share is used. The load generator and the backend run on
the same cores: how much of them the generator takes is told with the figures. What is not the workers' doing
is told by three more: one worker with half of the connections, as each of two has ("half"); two servers of
one worker each that know nothing of each other and take half of the connections each ("apart"); and how often
a request reads and writes and a process is taken off its core.
"""

from __future__ import annotations

import argparse
import re
import statistics
import tempfile
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

from measuring import disturbances, machine, memory_mb, running, save
from passthrough import CHAT, Target, loaded, upstream, with_key

CELLS = ("whole, 16", "whole, 64", "paced stream, 32", "stream, 16")
#: Servers by name, with the number of their workers; and what is compared, with the share of a cell's
#: connections that each server has.
SERVERS = {"one": 1, "two": 2, "other": 1}
SETS = {"one": (("one",), 1), "half": (("one",), 2), "two": (("two",), 1), "apart": (("one", "other"), 2)}


def together(
    servers: Sequence[tuple[Target, int]], cell: str, seconds: float, shared_by: int
) -> dict[str, float]:
    """One measurement of servers that each have a share of a cell's connections; processor time is by all
    their requests."""
    before = [disturbances(pid) for _, pid in servers]
    with ThreadPoolExecutor(len(servers)) as threads:
        each = list(threads.map(lambda one: loaded(one[0], cell, one[1], seconds, shared_by), servers))
    after = [disturbances(pid) for _, pid in servers]
    requests = sum(one["requests"] for one in each)
    calls, preempted = (
        sum(now[at] - then[at] for then, now in zip(before, after, strict=True)) / requests for at in (0, 1)
    )
    return {
        "cpu_us": sum(one["cpu_us"] * one["requests"] for one in each) / requests,
        "rps": sum(one["rps"] for one in each),
        "generator_share": sum(one["generator_share"] for one in each),
        "calls": calls,
        "preempted": preempted,
    }


def medians(rounds: Sequence[Mapping[str, Mapping[str, float]]]) -> dict[str, dict[str, float]]:
    """What each set of servers took, and by what it takes more than one."""
    told = {}
    for name in SETS:
        told[name] = {each: statistics.median(one[name][each] for one in rounds) for each in rounds[0][name]}
        told[name]["cpu_ratio"] = statistics.median(
            one[name]["cpu_us"] / one["one"]["cpu_us"] for one in rounds
        )
    return told


def main() -> None:
    """Run everything and keep the figures."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=1.0)
    parser.add_argument("--cells", default="", help="a regular expression of their names")
    options = parser.parse_args()
    at = machine()
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        stack.enter_context(upstream())
        servers = {}
        for port, (name, count) in enumerate(SERVERS.items(), 9113):
            home = Path(folder) / name
            home.mkdir()
            target = with_key(port, home, "--workers", str(count))
            process = running(
                target.command, target.url, body=CHAT, key=target.key, environment=target.environment
            )
            servers[name] = (target, stack.enter_context(process).pid)
        sets = {name: ([servers[each] for each in members], share) for name, (members, share) in SETS.items()}
        cells = {}
        for cell in (each for each in CELLS if re.search(options.cells, each)):
            rounds = [
                {name: together(members, cell, options.seconds, by) for name, (members, by) in sets.items()}
                for _ in range(options.rounds + 1)
            ]
            cells[cell] = medians(rounds[1:])
        memory = {name: memory_mb(servers[name][1]) for name in ("one", "two")}
    save("workers", at, {"cells": cells, "memory_mb": memory, "rounds": options.rounds})


if __name__ == "__main__":
    main()
