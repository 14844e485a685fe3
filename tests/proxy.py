"""The real proxy on a real loopback socket, in a thread, and the ways in which tests talk to it."""

import http.client
import json
import socket
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import openai
import uvicorn

from veridical.middleware.config import Settings
from veridical.server import create_app, listening
from veridical.strategies.registry import BUILT_IN, strategy_from

CHAT = "/v1/chat/completions"
RESPONSES = "/v1/responses"


@dataclass(frozen=True)
class Response:
    """A whole HTTP response, its header names in lower case."""

    status: int
    headers: Mapping[str, str]
    raw: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.raw)

    @property
    def error(self) -> dict[str, Any]:
        """The error object, after a look at OpenAI's shape."""
        (found,) = self.json.values()
        assert list(self.json) == ["error"]
        assert found.keys() >= {"message", "type", "param", "code"}
        assert "Traceback" not in found["message"]
        return found

    @property
    def events(self) -> list[Any]:
        """The data of the stream's events; [DONE] as a string."""
        lines = [line[6:] for line in self.raw.decode().split("\n") if line.startswith("data: ")]
        return [line if line == "[DONE]" else json.loads(line) for line in lines]


@dataclass
class Proxy:
    """A running proxy at `url` (its API root)."""

    port: int
    app: Any = None
    _clients: list[openai.OpenAI] = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    @property
    def assembly(self) -> Any:
        """What serves inside."""
        app = self.app
        while not hasattr(app, "assembly"):
            app = app.app
        return app.assembly

    @cached_property
    def client(self) -> openai.OpenAI:
        """The official SDK, pointed here."""
        return self.client_with("sk-of-the-client")

    def client_with(self, key: str) -> openai.OpenAI:
        http_client = openai.DefaultHttpxClient(trust_env=False)
        client = openai.OpenAI(
            base_url=self.url, api_key=key, max_retries=0, timeout=20, http_client=http_client
        )
        self._clients.append(client)
        return client

    def ask(self, question: str = "What is the capital of Australia?", model: str = "m1", **body: Any) -> Any:
        """One chat completion by the SDK; fields of ours go in with the others."""
        ours = {name: body.pop(name) for name in ("strategy", "veridical", "extra") if name in body}
        extra = ours.pop("extra", {})
        return self.client.chat.completions.create(
            model=model,
            messages=body.pop("messages", [{"role": "user", "content": question}]),
            extra_body={**ours, **extra},
            **body,
        )

    def request(
        self, method: str, path: str, body: Any = None, headers: Mapping[str, str] | None = None
    ) -> Response:
        """One request without the SDK: bytes go out as they are, other bodies as JSON."""
        raw = body if isinstance(body, bytes | None) else json.dumps(body).encode()
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        try:
            connection.request(method, path, raw, {"Content-Type": "application/json", **(headers or {})})
            response = connection.getresponse()
            found = {name.lower(): value for name, value in response.getheaders()}
            return Response(response.status, found, response.read())
        finally:
            connection.close()

    def chat(self, body: Any = None, headers: Mapping[str, str] | None = None, **fields: Any) -> Response:
        """POST a chat: `fields` over a small default body."""
        default = {"model": "m1", "messages": [{"role": "user", "content": "hello"}], **fields}
        return self.request("POST", CHAT, default if body is None else body, headers)

    @contextmanager
    def open(self, headers: Mapping[str, str] | None = None, **fields: Any) -> Iterator[socket.socket]:
        """A chat request sent on a bare socket; leaving the block is a client that goes away."""
        body = json.dumps({"model": "m1", "messages": [{"role": "user", "content": "hello"}], **fields})
        lines = "".join(f"{name}: {value}\r\n" for name, value in (headers or {}).items())
        head = f"POST {CHAT} HTTP/1.1\r\nHost: proxy\r\n{lines}Content-Length: {len(body)}\r\n\r\n"
        with socket.create_connection(("127.0.0.1", self.port), timeout=10) as connection:
            connection.sendall((head + body).encode())
            yield connection

    def close(self) -> None:
        """Close the SDK's connections."""
        for client in self._clients:
            client.close()


@contextmanager
def running_proxy(settings: Settings) -> Iterator[Proxy]:
    """The app for these settings behind uvicorn on a free loopback port."""
    app = create_app(settings)
    listener = socket.create_server(("127.0.0.1", 0))
    config = listening(app, settings.server, log_config=None)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    while not server.started:
        assert thread.is_alive(), "the proxy did not start"
        time.sleep(0.005)
    proxy = Proxy(listener.getsockname()[1], app)
    try:
        yield proxy
    finally:
        proxy.close()
        server.should_exit = True
        thread.join(10)
        listener.close()


def listed(*models: str) -> list[str]:
    """What /v1/models lists by default: each model, and each with every strategy that is built in and
    has what it needs: without retrievers none that searches."""
    served = [name for name in BUILT_IN if name != "direct" and not strategy_from(name).sources]
    suffixes = ["", *(f"+{name}" for name in served)]
    return [model + suffix for model in models for suffix in suffixes]


def wait_until(true: Any, seconds: float = 3.0) -> None:
    """Wait for a condition that another thread brings about."""
    until = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < until, "it did not happen in time"
        time.sleep(0.01)
