"""What a running server has imported: nothing heavy that it does not use."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from veridical.retrievers.index import build
from veridical.tests.servers import free_port
from veridical.tests.upstream import Fact, Say, Upstream

#: They cost most of a second each, or hundreds of megabytes.
HEAVY = ["openai", "httpx", "langchain_core.language_models", "torch", "faiss", "transformers"]
#: What a request needs that is not passed on: imported behind the first answers.
BEHIND = ["fastapi", "starlette", "anyio", "jinja2", "pydantic.v1", "veridical.strategies.cove"]
#: What other commands, or other settings, need.
ELSEWHERE = [
    "rich",
    "opentelemetry",
    "sqlite3",
    "asyncpg",
    "redis",
    "veridical.evals",
    "veridical.middleware.routes",
]
#: What searching an index needs.
SEARCHING = ["langchain_core", "bm25s", "numpy"]

#: `veridical serve`, and a thread of it that asks and says what was imported by then.
SERVED = """
import json, os, signal, socket, sys, threading, time, urllib.request
from veridical.middleware import deferring
from veridical.middleware.config import load_settings
from veridical.server import serve

settings, watched, models = map(json.loads, sys.argv[1:])
address = ("127.0.0.1", settings["server"]["port"])
root = "http://%s:%d" % address
deferring.QUIET_S = 3600  # nothing is made unasked

def ask(path, body=None):
    raw = body and json.dumps(body).encode()
    with urllib.request.urlopen(urllib.request.Request(root + path, raw), timeout=60) as response:
        return response.read()

def imported():
    return [name for name in watched if name in sys.modules]

def watch():
    while True:
        try:
            socket.create_connection(address).close()
            break
        except OSError:
            time.sleep(0.02)
    found = {"start": imported()}
    for model in models:
        question = {"role": "user", "content": "Which river?"}
        ask("/v1/chat/completions", {"model": model, "messages": [question]})
        found[model] = imported()
    print(json.dumps(found), flush=True)
    os.kill(os.getpid(), signal.SIGTERM)

threading.Thread(target=watch, daemon=True).start()
serve(load_settings(None, overrides=settings))
"""


def imported_by(
    upstream: Upstream, watched: list[str], models: list[str], **settings: Any
) -> dict[str, list[str]]:
    """What of `watched` a server of its own has imported at the start and behind a request to each model."""
    backends = {"up": {"type": "http", "base_url": upstream.url}}
    given = {"server": {"port": free_port()}, "backends": backends, **settings}
    ran = subprocess.run(
        [sys.executable, "-c", SERVED, *map(json.dumps, (given, watched, models))],
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert ran.stdout, ran.stderr
    found: dict[str, list[str]] = json.loads(ran.stdout.splitlines()[0])
    return found


@pytest.mark.timeout(300)
def test_a_server_without_retrieval_imports_no_heavy_library(upstream: Upstream) -> None:
    upstream.cove("The Nile.", Fact("It is the Nile.", "Which is it?", "The Nile."), final="The Nile.")
    found = imported_by(upstream, [*HEAVY, *SEARCHING], ["m1", "m1+cove"])
    assert found == {"start": [], "m1": [], "m1+cove": []}


@pytest.mark.timeout(300)
def test_a_server_listens_and_relays_before_it_has_what_strategies_need(upstream: Upstream) -> None:
    upstream.cove("The Nile.", Fact("It is the Nile.", "Which is it?", "The Nile."), final="The Nile.")
    found = imported_by(upstream, [*BEHIND, *ELSEWHERE], ["m1", "m1+cove"])
    assert found["start"] == found["m1"] == []
    assert set(found["m1+cove"]) >= {"fastapi", "jinja2", "veridical.strategies.cove"}


@pytest.mark.timeout(300)
def test_an_index_is_opened_by_its_first_search(upstream: Upstream, tmp_path: Path) -> None:
    pages = tmp_path / "pages.jsonl"
    pages.write_text(json.dumps({"id": "nile", "title": "Nile", "text": "The Nile flows through Cairo."}))
    build(pages, tmp_path / "index")
    upstream.on(draft=Say("The Nile."), **{"rag/answer": Say("The Nile [1].")})
    sources = {"pages": {"type": "index", "path": str(tmp_path / "index")}}
    found = imported_by(upstream, [*HEAVY, *SEARCHING], ["m1", "m1+rag(k=1)"], retrievers=sources)
    assert found["start"] == found["m1"] == []
    assert set(found["m1+rag(k=1)"]) >= {"bm25s", "numpy"}
    assert not {"openai", "torch", "faiss", "transformers"}.intersection(found["m1+rag(k=1)"])
