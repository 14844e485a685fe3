"""Where the proxy's processor time goes, by library and by function of ours.

    python benchmarks/profiling.py [passthrough | stream | cove | rag] [--seconds 10]

The proxy runs in this process under cProfile, which counts the thread's processor time: what a busy machine
takes away is not counted. The profiler makes calls of Python functions dearer than they are, so shares of C
libraries are in truth larger. Prints Markdown tables.
"""

from __future__ import annotations

import argparse
import cProfile
import pstats
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from contextlib import ExitStack
from pathlib import Path

import uvicorn
from measuring import HERE, pages, running
from page import table

import veridical
from veridical.middleware.config import load_settings
from veridical.server import create_app

#: Where our modules are, in whatever way they are installed.
OURS = f"{Path(veridical.__path__[0])}/"
PORT, UPSTREAM = 9120, 9121
FAST, SLOW = ("fast_upstream.py",), ("upstream.py", "--delay", "0")
#: What is asked of which upstream: its script, the load generator's options.
KINDS = {
    "passthrough": (FAST, ("--connections", "16")),
    "stream": (FAST, ("--connections", "16", "--stream")),
    "cove": (SLOW, ("--connections", "4", "--model", "m+cove")),
    "rag": (SLOW, ("--connections", "16", "--model", "m+rag")),
}


def profiled(options: argparse.Namespace, folder: Path) -> pstats.Stats:
    """The profile of a proxy under load; `folder` is for the index that it searches."""
    backend = f"http://127.0.0.1:{UPSTREAM}/v1"
    sources = {"pages": {"type": "index", "path": str(pages(folder))}}
    backends = {"up": {"type": "http", "base_url": backend}}
    settings = load_settings(None, overrides={"backends": backends, "retrievers": sources})
    config = uvicorn.Config(create_app(settings), port=PORT, log_level="warning", access_log=False, ws="none")
    server = uvicorn.Server(config)
    profile = cProfile.Profile(time.thread_time)
    (script, *more), load = KINDS[options.kind]
    url = f"http://127.0.0.1:{PORT}/v1/chat/completions"

    def ask() -> None:
        while not server.started:
            time.sleep(0.02)
        for seconds in (options.seconds / 5, options.seconds):
            profile.clear()
            command = [sys.executable, str(HERE / "load.py"), url, "--seconds", str(seconds), *load]
            print(subprocess.run(command, capture_output=True, text=True, check=True).stdout, file=sys.stderr)
        server.should_exit = True

    with ExitStack() as stack:
        command = [sys.executable, str(HERE / script), "--port", str(UPSTREAM), *more]
        stack.enter_context(running(command, f"{backend}/models"))
        asking = threading.Thread(target=ask)
        asking.start()
        profile.enable()
        server.run()
        profile.disable()
        asking.join()
    return pstats.Stats(profile)


def library(file: str) -> str:
    """To what a file belongs."""
    _, found, rest = file.rpartition("site-packages/")
    if found and not rest.startswith("veridical/"):
        return rest.split("/")[0].removesuffix(".py")
    if file.startswith(OURS):
        return "ours"
    return "C functions" if file == "~" else "event loop and standard library"


def main() -> None:
    """Profile, and print who took how much."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("kind", choices=KINDS, nargs="?", default="passthrough")
    parser.add_argument("--seconds", type=float, default=10)
    with tempfile.TemporaryDirectory() as folder:
        stats = profiled(parser.parse_args(), Path(folder))
    libraries: Counter[str] = Counter()
    ours: Counter[str] = Counter()
    for (file, _, name), (_, _, own, _, _) in stats.stats.items():  # type: ignore[attr-defined]
        libraries[library(file)] += own
        if library(file) == "ours":
            ours[f"`{file.removeprefix(OURS)}` {name}"] += own
    total = sum(libraries.values())
    for title, counted in (("library", libraries), ("function of ours", ours)):
        rows = [[name, f"{own / total:.1%}"] for name, own in counted.most_common(12)]
        print(f"\n{table([title, 'share'], rows)}")


if __name__ == "__main__":
    main()
