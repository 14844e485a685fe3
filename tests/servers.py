"""Real servers for tests, PostgreSQL, Redis and nginx: on a free port, in a folder of their own,
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

INSTALL = (
    "SKIPPED FOR WANT OF A SERVER: apt-get install -y redis-server postgresql nginx-light, then run again"
)


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


#: Without it, the workers outlive a master that is killed.
ONE_PROCESS = "daemon off; master_process off;"
NGINX_CONF = Path(__file__).parent.parent / "deploy/nginx.conf"


@contextmanager
def running_balancer(replicas: Sequence[int]) -> Iterator[Server]:
    """nginx as `deploy/nginx.conf` has it, before replicas on these ports of this machine."""
    program = _program("nginx")
    with _folder() as folder:
        port = free_port()
        (folder / "nginx.conf").write_text(balancing(replicas, port, folder))
        command = [program, "-e", "stderr", "-p", str(folder), "-c", "nginx.conf", "-g", ONE_PROCESS]
        server = Server(f"http://127.0.0.1:{port}", port, command, folder)
        server.start()
        try:
            yield server
        finally:
            server.stop()


def balancing(replicas: Sequence[int], port: int, folder: Path) -> str:
    """The balancer's configuration with addresses of this machine in the place of a name to look up."""
    text = NGINX_CONF.read_text()
    (line,) = re.findall(r"^ +server veridical:8000 resolve .*$", text, flags=re.MULTILINE)
    servers = (line.replace("veridical:8000 resolve", f"127.0.0.1:{each}") for each in replicas)
    text = text.replace(line, "\n".join(servers)).replace("/tmp/", f"{folder}/")
    assert text.count("listen 8000;") == 1
    return text.replace("listen 8000;", f"listen 127.0.0.1:{port};")
