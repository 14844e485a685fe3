"""Real servers for tests, PostgreSQL, Redis and HAProxy: on a free port, in a folder of their own,
never as root.

Where a server is not installed the tests that need it are skipped, and say so.
"""

import os
import pwd
import re
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

INSTALL = "SKIPPED FOR WANT OF A SERVER: apt-get install -y redis-server postgresql haproxy, then run again"


@dataclass
class Server:
    """A running server at `url`, which can be stopped and started again with what it has kept."""

    url: str
    port: int
    command: Sequence[str]
    folder: Path
    ready: Sequence[str] = ()
    process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                self.command, cwd=self.folder, stdout=log, stderr=log, **unprivileged()
            )
        self._wait()

    def _wait(self) -> None:
        until = time.monotonic() + 30
        while not self._is_ready():
            assert self.process is not None
            assert self.process.poll() is None, (self.folder / "log").read_text()
            assert time.monotonic() < until, "the server did not start"
            time.sleep(0.02)

    def _is_ready(self) -> bool:
        if self.ready:
            return subprocess.run(self.ready, capture_output=True, check=False).returncode == 0
        return listens(self.port)

    def stop(self) -> None:
        """End it at once, as a crash would."""
        if self.process:
            self.process.kill()
            self.process.wait(10)
            self.process = None


def unprivileged() -> dict[str, str]:
    """How a child gives up root: PostgreSQL refuses to run with it."""
    return {"user": "nobody"} if os.getuid() == 0 else {}


def listens(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), 1).close()
    except OSError:
        return False
    return True


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]


@contextmanager
def _folder() -> Iterator[Path]:
    """A folder that the server's user owns and can reach, which pytest's own are not."""
    with tempfile.TemporaryDirectory(prefix="veridical-", ignore_cleanup_errors=True) as name:
        if os.getuid() == 0:
            os.chown(name, pwd.getpwnam("nobody").pw_uid, -1)
        yield Path(name)


def _program(name: str) -> str:
    places = [
        *sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True),
        *os.get_exec_path(),
        "/usr/sbin",
    ]
    found = shutil.which(name, path=os.pathsep.join(map(str, places)))
    if found is None:
        pytest.skip(f"{INSTALL} ({name})")
    return found


@contextmanager
def running_redis() -> Iterator[Server]:
    """A Redis that keeps nothing on disk."""
    program = _program("redis-server")
    with _folder() as folder:
        port = free_port()
        options = ["--port", str(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]
        server = Server(f"redis://127.0.0.1:{port}/0", port, [program, *options], folder)
        server.start()
        try:
            yield server
        finally:
            server.stop()


@contextmanager
def running_postgres() -> Iterator[Server]:
    """A PostgreSQL with one user, who needs a password."""
    program, initdb = _program("postgres"), _program("initdb")
    with _folder() as folder:
        secret = folder / "password"
        secret.write_text("pg-secret")
        secret.chmod(0o644)
        made = subprocess.run(
            [
                *(initdb, "-D", folder / "data", "-U", "tester", "-A", "scram-sha-256"),
                *("-E", "UTF8", "--locale=C", "--no-sync", f"--pwfile={secret}"),
            ],
            cwd=folder,
            capture_output=True,
            text=True,
            check=False,
            **unprivileged(),
        )
        assert made.returncode == 0, made.stderr
        port = free_port()
        options = ["-p", str(port), "-h", "127.0.0.1", "-k", "", "-c", "fsync=off"]
        url = f"postgresql://tester:pg-secret@127.0.0.1:{port}/postgres"
        ready = [_program("pg_isready"), "-h", "127.0.0.1", "-p", str(port)]
        server = Server(url, port, [program, "-D", str(folder / "data"), *options], folder, ready)
        server.start()
        try:
            yield server
        finally:
            server.stop()


HAPROXY_CFG = Path(__file__).parent.parent / "deploy/haproxy.cfg"


@contextmanager
def running_haproxy(replicas: Sequence[int]) -> Iterator[Server]:
    """The balancer as `deploy/haproxy.cfg` has it, before replicas on these ports."""
    program = _program("haproxy")
    with _folder() as folder:
        port = free_port()
        servers = "\n".join(f"    server s{each} 127.0.0.1:{each}" for each in replicas)
        text, found = re.subn(r"^ +server-template .*$", servers, HAPROXY_CFG.read_text(), flags=re.MULTILINE)
        text, bound = re.subn(r"bind :8000", f"bind 127.0.0.1:{port}", text)
        assert (found, bound) == (1, 1)
        (folder / "haproxy.cfg").write_text(text)
        server = Server(f"http://127.0.0.1:{port}", port, [program, "-db", "-f", "haproxy.cfg"], folder)
        server.start()
        try:
            yield server
        finally:
            server.stop()
