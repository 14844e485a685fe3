"""The real command in a process of its own, and what that holds: tasks, files, memory."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from veridical.tests.faults.faulty import LARGEST
from veridical.tests.proxy import Proxy, wait_until
from veridical.tests.servers import free_port, listens

FOUND = ["Canberra is the capital city of Australia.", "Sydney is the largest city of Australia."]
#: Silence of the upstream that is given up, in seconds.
READ_TIMEOUT_S = 1.5


@dataclass(frozen=True)
class Held:
    """What a process has open."""

    tasks: int
    files: int
    memory_mb: float


@dataclass
class Served:
    """A running server: where it listens, and its process."""

    proxy: Proxy
    process: "subprocess.Popen[str]"

    def held(self) -> Held:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        tasks = int(self.process.stdout.readline())
        status = Path(f"/proc/{self.process.pid}/status").read_text().split("VmRSS:")[1]
        return Held(
            tasks, len(list(Path(f"/proc/{self.process.pid}/fd").iterdir())), int(status.split()[0]) / 1000
        )


def settings(url: str) -> dict[str, Any]:
    """A backend that goes wrong, one where nobody listens, and a source of evidence."""
    up = {"type": "http", "models": ["m1"], "read_timeout_s": READ_TIMEOUT_S, "max_response_bytes": LARGEST}
    gone = {**up, "base_url": f"http://127.0.0.1:{free_port()}/v1", "models": ["nobody"]}
    source = {"type": "langchain", "retriever_class": "veridical.retrievers.testing:FakeRetriever"}
    return {
        "backends": {"up": {**up, "base_url": url}, "gone": gone},
        "retrievers": {"default": {**source, "kwargs": {"sources": FOUND}}},
    }


@contextmanager
def served(folder: Path, found: Mapping[str, Any]) -> Iterator[Served]:
    """`veridical serve` with these settings, its log in the folder."""
    file, port = folder / "veridical.toml", free_port()
    file.write_text(_toml(found))
    command = [sys.executable, str(Path(__file__).parent / "child.py"), "serve"]
    environment = {**os.environ, "VERIDICAL_STATE_PATH": str(folder / "state.sqlite")}
    with (
        (folder / "log").open("w") as log,
        subprocess.Popen(
            [*command, "--config", str(file), "--port", str(port)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            env=environment,
        ) as process,
    ):
        proxy = Proxy(port)
        try:
            wait_until(lambda: listens(port) or process.poll() is not None, 240)
            assert process.poll() is None, (folder / "log").read_text()
            yield Served(proxy, process)
        finally:
            proxy.close()
            process.terminate()
            process.wait(30)


def _toml(found: Mapping[str, Any], name: str = "") -> str:
    values = "".join(f"{key} = {json.dumps(v)}\n" for key, v in found.items() if not isinstance(v, dict))
    tables = "".join(_toml(v, f"{name}.{key}".strip(".")) for key, v in found.items() if isinstance(v, dict))
    return (f"[{name}]\n" if name else "") + values + tables
