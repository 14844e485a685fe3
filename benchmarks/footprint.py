"""How fast the proxy starts, and what it takes: memory after load, growth over 20,000 requests, disk.

    python benchmarks/footprint.py [--starts 7] [--requests 20000] [--install]

A start is measured from the process to its first chat answered with 200. `--install` installs the core, with
no extras, into an empty folder, and says what that takes on disk.
"""

from __future__ import annotations

import argparse
import compileall
import json
import statistics
import subprocess
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from measuring import HERE, folder_mb, machine, memory_mb, running, save
from passthrough import CHAT, REFERENCE, Target, probe, serving, upstream

import veridical

CONNECTIONS = 16


def compile_package() -> None:
    """Compile the package, as installing it does: each start would else compile what was edited, where Python
    may not write what it compiles."""
    for folder in map(Path, veridical.__path__):
        compileall.compile_dir(folder, maxlevels=0, quiet=1)
        for part in ("middleware", "strategies", "retrievers"):
            compileall.compile_dir(folder / part, quiet=1)


def starts(targets: dict[str, Target], count: int) -> dict[str, float]:
    """Median seconds to the first answer; the targets take turns."""
    found: dict[str, list[float]] = {name: [] for name in targets}
    for _ in range(count):
        for name, target in targets.items():
            with started(target) as process:
                found[name].append(process.start_s)
    return {name: statistics.median(each) for name, each in found.items()}


def started(target: Target) -> Any:
    """A running target."""
    return running(
        target.command, target.url, body=CHAT, environment=target.environment, folder=target.folder
    )


def asked(target: Target, requests: int, *options: str) -> None:
    """At least so many requests."""
    command = [sys.executable, str(HERE / "load.py"), target.url, "--connections", str(CONNECTIONS)]
    done = 0
    while done < requests:
        ran = subprocess.run([*command, "--seconds", "2", *options], capture_output=True, check=True)
        done += json.loads(ran.stdout)["requests"]


def memory(target: Target, requests: int) -> dict[str, float]:
    """Memory after the start, after a warm-up, and after many more requests of either kind."""
    with started(target) as process:
        found = {"started_mb": memory_mb(process.pid)}
        asked(target, requests // 4)
        asked(target, requests // 20, "--stream")
        found["warm_mb"] = memory_mb(process.pid)
        asked(target, requests)
        found["after_mb"] = memory_mb(process.pid)
    return found


def installed_mb() -> float:
    """What the core and all that it needs take."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--target", folder]
        constraints = ["--constraint", str(HERE.parent / "constraints.txt")]
        subprocess.run([*command, *constraints, str(HERE.parent)], check=True, stderr=subprocess.DEVNULL)
        return folder_mb(Path(folder))


def main() -> None:
    """Run everything and keep the figures."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--starts", type=int, default=7)
    parser.add_argument("--requests", type=int, default=20_000)
    parser.add_argument("--install", action="store_true")
    options = parser.parse_args()
    at = machine()
    compile_package()
    targets = {
        "raw ASGI + aiohttp": probe("raw_asgi", 9111),
        REFERENCE: probe("starlette_app", 9112),
        "veridical": serving(9113),
    }
    with ExitStack() as stack:
        stack.enter_context(upstream())
        found: dict[str, Any] = {"start_s": starts(targets, options.starts), "requests": options.requests}
        found["memory"] = {name: memory(target, options.requests) for name, target in targets.items()}
    if options.install:
        found["install_mb"] = installed_mb()
    save("footprint", at, found)


if __name__ == "__main__":
    main()
