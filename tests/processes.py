"""The program as it is deployed: a process of its own, stopped and killed by signals."""

import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from veridical.tests.proxy import Proxy, wait_until
from veridical.tests.servers import free_port, listens


@dataclass
class Replica:
    """A running `veridical serve`; what it says is in the file `log`."""

    proxy: Proxy
    process: subprocess.Popen[bytes]
    log: Path


@contextmanager
def started(
    folder: Path, *arguments: str, port: int | None = None, environment: Mapping[str, str] | None = None
) -> Iterator[Replica]:
    """`veridical serve` with these arguments, in a folder; it may not listen yet."""
    proxy = Proxy(port or free_port())
    command = [sys.executable, "-m", "veridical", "serve", *arguments, "--port", str(proxy.port)]
    log = folder / f"{proxy.port}.log"
    with (
        log.open("ab") as out,
        subprocess.Popen(
            command, cwd=folder, env={**os.environ, **(environment or {})}, stdout=out, stderr=out
        ) as process,
    ):
        try:
            yield Replica(proxy, process, log)
        finally:
            proxy.close()
            process.kill()


@contextmanager
def serving(
    folder: Path, *arguments: str, port: int | None = None, environment: Mapping[str, str] | None = None
) -> Iterator[Replica]:
    """The same, once it listens."""
    with started(folder, *arguments, port=port, environment=environment) as replica:
        wait_until(lambda: listens(replica.proxy.port), 120)
        yield replica
