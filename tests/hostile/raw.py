"""Bytes to a proxy and back, on bare sockets: what no HTTP client would send."""

import json
import re
import socket
import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

CHAT = b"/v1/chat/completions"
BODY = json.dumps({"model": "m1", "messages": [{"role": "user", "content": "hello"}]}).encode()


@dataclass(frozen=True)
class Said:
    """One response out of the bytes of a connection."""

    status: int
    head: bytes
    body: bytes

    @property
    def code(self) -> str:
        return json.loads(self.body)["error"]["code"]


def post(body: bytes = BODY, *lines: bytes, path: bytes = CHAT, length: bytes | None = None) -> bytes:
    """A POST whose Content-Length may lie; `b""` for none."""
    size = b"%d" % len(body) if length is None else length
    head = [
        b"POST %b HTTP/1.1" % path,
        b"Host: proxy",
        *([b"Content-Length: " + size] if size else []),
        *lines,
    ]
    return b"\r\n".join(head) + b"\r\n\r\n" + body


def get(path: bytes = b"/health", *lines: bytes) -> bytes:
    return b"\r\n".join([b"GET %b HTTP/1.1" % path, b"Host: proxy", *lines]) + b"\r\n\r\n"


def connect(port: int, timeout: float = 20.0) -> socket.socket:
    return socket.create_connection(("127.0.0.1", port), timeout=timeout)


def exchange(port: int, *parts: bytes, timeout: float = 20.0) -> list[Said]:
    """All responses to these bytes, until the proxy closes the connection: it must."""
    with connect(port, timeout) as connection:
        for part in parts:
            connection.sendall(part)
        return responses(until_closed(connection))


def send(connection: socket.socket, parts: Iterable[bytes], pause: float = 0.0) -> None:
    """Send the parts one after the other."""
    for part in parts:
        connection.sendall(part)
        time.sleep(pause)


def until_closed(connection: socket.socket) -> bytes:
    raw = b""
    try:
        while part := connection.recv(65536):
            raw += part
    except ConnectionError:
        pass
    return raw


def responses(raw: bytes) -> list[Said]:
    """The responses in a connection's bytes."""
    found = []
    while raw:
        head, _, raw = raw.partition(b"\r\n\r\n")
        length = re.search(rb"\r\ncontent-length: (\d+)", head, re.IGNORECASE)
        size = int(length[1]) if length else len(raw)
        found.append(Said(int(head[9:12]), head, raw[:size]))
        raw = raw[size:]
    return found


def chat(**fields: Any) -> bytes:
    return json.dumps({"model": "m1", "messages": [{"role": "user", "content": "hello"}], **fields}).encode()
