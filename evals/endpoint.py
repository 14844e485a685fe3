"""The endpoint under test: one that is running, or a proxy of our own for the length of a run."""

from __future__ import annotations

import http.client
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from inspect_ai.model import GenerateConfig, Model, get_model

from veridical.middleware.backends import engine_guard
from veridical.strategies.errors import BackendUnreachable, ConfigError

#: A strategy on a slow machine may take minutes; the run's proxy must not cut it short.
DEADLINE_S = 1800.0
START_S = 600.0


@dataclass(frozen=True)
class Endpoint:
    """An OpenAI-compatible API root, and the variable with its key. One that is `cached` is a proxy of
    ours: it is asked to keep draws too, and to tell what it did not have to ask again."""

    base_url: str
    api_key_env: str | None = None
    cached: bool = False

    def model(
        self, name: str, strategy: str = "direct", *, connections: int, seed: int | None = None
    ) -> Model:
        """A model of this endpoint as inspect_ai sees it; `direct` asks for the bare name.

        Raises:
            ConfigError: the variable with the key is not set.
        """
        direct = strategy == "direct"
        full = name if direct else f"{name}+{strategy}"
        config = GenerateConfig(
            max_connections=connections,
            max_retries=2,
            seed=seed,
            # A proxy of ours may have another default; others ignore the header.
            extra_headers={"X-Veridical-Strategy": "direct"} if direct else None,
            extra_body={"veridical": {"trace": "summary", "cache": {"sampled": True}}}
            if self.cached
            else None,
        )
        return get_model(
            f"openai-api/veridical/{full}",
            config=config,
            base_url=self.base_url.rstrip("/"),
            api_key=self.key,
            memoize=False,
            max_retries=0,  # the SDK's own: inspect_ai retries already
            client_timeout=DEADLINE_S + 60,
        )

    @property
    def key(self) -> str:
        """The key to send; endpoints without keys ignore it.

        Raises:
            ConfigError: the variable with the key is not set.
        """
        if self.api_key_env is None:
            return os.environ.get("VERIDICAL_API_KEY", "none")
        key = os.environ.get(self.api_key_env)
        if not key:
            raise ConfigError(f"The environment variable {self.api_key_env} is not set.")
        return key


@contextmanager
def own_proxy(options: Sequence[str], log: Path, settings: Mapping[str, str]) -> Iterator[Endpoint]:
    """`veridical serve` on a free port with these options; its output goes to `log`. `settings` are
    variables for it, which those of our environment override.

    It runs under the guard that the engines have, so that it ends with us however we end.

    Raises:
        BackendUnreachable: it ended, or was not ready in time.
    """
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    serve = [sys.executable, "-m", "veridical", "serve", "--port", str(port), *options]
    guard = [sys.executable, str(engine_guard.__file__), "15", "--", *serve]
    environment = {"VERIDICAL_BUDGET_DEADLINE_S": str(DEADLINE_S), **settings, **os.environ}
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as output:
        child = subprocess.Popen(  # noqa: S603 - our own interpreter and file
            guard,
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=environment,
            start_new_session=True,
        )
    try:
        _wait(child, port, log)
        yield Endpoint(f"http://127.0.0.1:{port}/v1")
    finally:
        assert child.stdin is not None  # noqa: S101 - we asked for the pipe
        child.stdin.close()  # the guard's sign to end the proxy
        child.wait(30)


def _wait(child: subprocess.Popen[bytes], port: int, log: Path) -> None:
    until = time.monotonic() + START_S
    while time.monotonic() < until:
        if child.poll() is not None:
            raise BackendUnreachable(f"The proxy did not start; {log} tells: {_last_words(log)}")
        if _ready(port):
            return
        time.sleep(0.2)
    raise BackendUnreachable(f"The proxy was not ready in {START_S:g} s; see {log}.")


def _ready(port: int) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", "/ready")
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def _last_words(log: Path) -> str:
    lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    return lines[-1] if lines else "nothing"
