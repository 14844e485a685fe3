"""What benchmarks share: processes and what they take, the machine, results on disk."""

from __future__ import annotations

import contextlib
import json
import os
import platform
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
RESULTS = HERE / "results"
PROGRAM = str(Path(sys.executable).parent / "veridical")
#: Whose versions matter for the figures.
LIBRARIES = (
    *("veridical", "aiohttp", "uvicorn", "uvloop", "httptools", "fastapi", "starlette", "pydantic", "orjson"),
    "langchain-core",
)
START_TIMEOUT_S = 180.0


@dataclass(frozen=True)
class Running:
    """A process that answers, and the seconds that it took to do so."""

    pid: int
    start_s: float


@contextmanager
def running(
    command: Sequence[str],
    url: str,
    *,
    body: Mapping[str, Any] | None = None,
    key: str = "sk-benchmark",
    environment: Mapping[str, str] | None = None,
    folder: Path | None = None,
) -> Iterator[Running]:
    """A process until the block ends, once it answers a request to `url` with 200."""
    if answers(url, body, key):
        raise SystemExit(f"Something answers at {url} already: a process that an earlier run left?")
    began = time.perf_counter()
    process = subprocess.Popen(
        command,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        cwd=folder,
        env={**os.environ, **(environment or {})},
        start_new_session=True,
    )
    try:
        while not answers(url, body, key):
            late = time.perf_counter() - began > START_TIMEOUT_S
            if process.poll() is not None or late:
                raise SystemExit(f"{' '.join(command)} did not start")
            time.sleep(0.005)
        yield Running(process.pid, time.perf_counter() - began)
    finally:
        process.terminate()
        try:
            process.wait(15)
        except subprocess.TimeoutExpired:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def answers(url: str, body: Mapping[str, Any] | None, key: str) -> bool:
    """Whether a request is answered with 200."""
    raw = json.dumps(body).encode() if body else None
    headers = {"content-type": "application/json", "authorization": f"Bearer {key}"}
    try:
        with urllib.request.urlopen(urllib.request.Request(url, raw, headers), timeout=10) as response:
            return bool(response.status == 200)
    except (urllib.error.URLError, OSError):
        return False


def tree(pid: int) -> list[int]:
    """A process and its descendants."""
    found = [pid]
    for each in found:
        with contextlib.suppress(OSError):
            for task in Path(f"/proc/{each}/task").iterdir():
                found += map(int, (task / "children").read_text().split())
    return found


def cpu_s(pid: int) -> float:
    """Seconds of processor time that a process and its descendants have used, to the nanosecond."""
    total = 0.0
    for each in tree(pid):
        with contextlib.suppress(OSError):
            for task in Path(f"/proc/{each}/task").iterdir():
                total += int((task / "schedstat").read_text().split()[0]) / 1e9
    return total


def disturbances(pid: int) -> tuple[int, int]:
    """System calls that read or write, and times taken off a core, of a process and its descendants."""
    calls = preempted = 0
    for each in tree(pid):
        with contextlib.suppress(OSError):
            told = dict(line.split(": ") for line in Path(f"/proc/{each}/io").read_text().splitlines())
            calls += int(told["syscr"]) + int(told["syscw"])
            for task in Path(f"/proc/{each}/task").iterdir():
                _, _, rest = (task / "status").read_text().partition("nonvoluntary_ctxt_switches:")
                preempted += int(rest.split()[0])
    return calls, preempted


def memory_mb(pid: int) -> float:
    """Resident memory of a process and its descendants."""
    pages = 0
    for each in tree(pid):
        with contextlib.suppress(OSError):
            pages += int(Path(f"/proc/{each}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def folder_mb(folder: Path) -> float:
    """What a folder takes on disk."""
    return sum(file.lstat().st_size for file in folder.rglob("*") if not file.is_symlink()) / 2**20


def pages(folder: Path) -> Path:
    """A small index, so that strategies which search have something to find."""
    from veridical.retrievers import index  # needs an extra, which other sections do without

    corpus = folder / "pages.jsonl"
    text = "Page {0} is about words {0} and an answer of some words."
    rows = [json.dumps({"id": str(n), "title": f"Page {n}", "text": text.format(n)}) for n in range(200)]
    corpus.write_text("\n".join(rows))
    index.build(corpus, folder / "index")
    return folder / "index"


def machine() -> dict[str, Any]:
    """What the figures hold for."""
    versions = {}
    for name in LIBRARIES:
        with contextlib.suppress(PackageNotFoundError):
            versions[name] = version(name)
    return {
        "cores": os.cpu_count(),
        "processor": _processor(),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "versions": versions,
        "load_before": os.getloadavg()[0],
        "day": time.strftime("%Y-%m-%d"),
    }


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next((line.partition(": ")[2] for line in lines if line.startswith("model name")), "unknown")


def save(section: str, at: Mapping[str, Any], found: Mapping[str, Any]) -> None:
    """Keep a section's figures."""
    RESULTS.mkdir(exist_ok=True)
    written = json.dumps({"machine": at, **found}, indent=1, sort_keys=True)
    (RESULTS / f"{section}.json").write_text(written + "\n")
