"""A scripted upstream: a real OpenAI-shaped server on a loopback socket that logs what it is asked.

It answers a chat by the step that the request is, told by the words of its prompt (`draft`, a step of
Chain-of-Verification such as `plan`, or of another method such as `cok/query`), whole or as server-sent
events, well or badly as a test wants.
"""

import asyncio
import json
import re
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aiohttp import web

from veridical import strategies
from veridical.tests.answers import Answer, Exchange, Fail, Out, Say, Script, text_of


def _signatures() -> dict[str, str]:
    """The line by which each step's prompt is known: its longest that is in no other and always there.

    A prompt that is only the question has none.
    """
    files = sorted((Path(strategies.__path__[0]) / "prompts").glob("*/*.md"))
    fixed = {_step(file): _fixed_lines(file.read_text(encoding="utf-8")) for file in files}
    own = {name: lines - _others(fixed, name) for name, lines in fixed.items()}
    return {name: max(lines, key=len) for name, lines in own.items() if lines}


def _step(file: Path) -> str:
    return file.stem if file.parent.name == "cove" else f"{file.parent.name}/{file.stem}"


def _fixed_lines(source: str) -> set[str]:
    lines: set[str] = set()
    depth = 0
    for line in source.splitlines():
        depth += len(re.findall(r"{% (?:if|for) ", line)) - len(re.findall(r"{% end", line))
        if depth == 0 and line.strip() and not re.search(r"{[{%#]", line):
            lines.add(line)
    return lines


def _others(fixed: dict[str, set[str]], name: str) -> set[str]:
    return set().union(*(lines for other, lines in fixed.items() if other != name))


SIGNATURES = _signatures()


Service = Callable[[bytes], tuple[int, Any]]


class Upstream:
    """The server. `models` is what /v1/models lists, None gives that path a 404; `keys` gives each
    Authorization a list of its own; `paths` answers other paths."""

    def __init__(self) -> None:
        self.url = ""
        self.reset()

    def reset(self) -> None:
        """Forget one test's script and log."""
        self.models: list[str] | None = ["m1", "m2"]
        self.keys: dict[str, list[str]] = {}
        self.models_delay = 0.0
        self.log: list[Exchange] = []
        self.script: dict[str, Script] = {}
        self.paths: dict[str, Answer] = {}
        self.questions: set[str] = set()
        self.services: dict[str, Service] = {}

    @property
    def chats(self) -> list[Exchange]:
        """The chat requests, in the order in which they came."""
        return self.at("/v1/chat/completions")

    def at(self, path: str) -> list[Exchange]:
        """The requests for one path."""
        return [exchange for exchange in self.log if exchange.path == path]

    def asked(self, step: str) -> list[Exchange]:
        """The chat requests of one step."""
        return [exchange for exchange in self.chats if exchange.step == step]

    def on(self, **steps: Script) -> None:
        """Say how steps are answered."""
        self.script |= steps

    def cove(self, draft: Answer | str, *facts: "Fact", final: Answer | str = "") -> None:
        """Script a whole Chain-of-Verification: a draft, its facts, and the rewritten answer."""
        self.questions = {fact.question for fact in facts}
        checks = [{"fact": fact.fact, "question": fact.question} for fact in facts]
        joint = [{**check, "answer": fact.answer} for check, fact in zip(checks, facts, strict=True)]
        self.on(
            draft=Say(draft) if isinstance(draft, str) else draft,
            plan=Say(json.dumps({"checks": checks})),
            joint=Say(json.dumps({"checks": joint})),
            check=lambda exchange: _fact(facts, exchange, "question").answered(),
            check_evidence=lambda exchange: _fact(facts, exchange, "question").answered(),
            check_all=Say(json.dumps({"answers": [fact.answer for fact in facts]})),
            cross_check=lambda exchange: _fact(facts, exchange, "fact").compared(),
            revise=Say(final) if isinstance(final, str) else final,
        )

    def serve_at(self, path: str, service: "Service") -> None:
        """Answer requests to a path of its own: a function from the body to (status, JSON)."""
        self.services[path] = service

    async def handle(self, request: web.Request) -> web.StreamResponse:
        raw = await request.read()
        headers = {name.lower(): value for name, value in request.headers.items()}
        exchange = Exchange(request.method, request.path, headers, raw, time.monotonic(), _peer(request))
        exchange.target = request.raw_path
        self.log.append(exchange)
        if request.path == "/v1/models" and request.method == "GET":
            await asyncio.sleep(self.models_delay)
            return self._list(headers.get("authorization", ""))
        if request.path in self.services:
            status, found = self.services[request.path](raw)
            return web.json_response(found, status=status)
        if request.path in self.paths:
            answer = self.paths[request.path]
            exchange.body = json.loads(raw) if raw.startswith(b"{") else {}
        elif (request.method, request.path) == ("POST", "/v1/chat/completions"):
            exchange.body = json.loads(raw)
            exchange.step = self.step_of(exchange)
            answer = self._answer(exchange)
        else:
            return web.json_response({"error": {"message": "no such path"}}, status=404)
        out = Out(request)
        try:
            await answer.give(exchange, out)
            exchange.answered = True
        except (asyncio.CancelledError, ConnectionError):
            exchange.gone.set()
            raise
        assert out.response is not None
        return out.response

    def _list(self, key: str) -> web.StreamResponse:
        listed = self.keys.get(key, []) if self.keys else self.models
        if self.keys and not listed:
            return web.json_response({"error": {"message": "who are you?"}}, status=401)
        if listed is None:
            return web.json_response({"error": {"message": "no models here"}}, status=404)
        models = [{"id": name, "object": "model", "created": 1, "owned_by": "up"} for name in listed]
        return web.json_response({"object": "list", "data": models})

    def step_of(self, exchange: Exchange) -> str:
        """Which step a chat request is: by its prompt, or as a check by a fact's question."""
        last = text_of(exchange.body["messages"][-1])
        found = (step for step, words in SIGNATURES.items() if words in last)
        return next(found, "check" if last in self.questions else "draft")

    def _answer(self, exchange: Exchange) -> Answer:
        script = self.script.get(exchange.step)
        if script is None:
            return Fail(501, f"the script has no answer to {exchange.prompt[-200:]!r}")
        if isinstance(script, list):
            return script.pop(0) if len(script) > 1 else script[0]
        return script if isinstance(script, Answer) else script(exchange)


@dataclass(frozen=True)
class Fact:
    """A fact of a draft: the question that tests it, that question's answer, and how they compare."""

    fact: str
    question: str
    answer: str = "UNKNOWN"
    label: str = "consistent"
    holds: str = ""
    delay: float = 0.0

    def answered(self) -> Say:
        return Say(self.answer, delay=self.delay)

    def compared(self) -> Say:
        return Say(json.dumps({"label": self.label, "holds": self.holds}))


def _fact(facts: Sequence[Fact], exchange: Exchange, name: str) -> Fact:
    return next(fact for fact in facts if getattr(fact, name) in exchange.prompt)


SYDNEY = Fact(
    "The capital of Australia is Sydney.",
    "Which city is the capital of Australia?",
    "Canberra is the capital of Australia.",
    "inconsistent",
    "The capital of Australia is Canberra.",
)
CANBERRA = Fact(
    "The capital of Australia is Canberra.",
    "Which city is the seat of Australia's parliament?",
    "Canberra.",
    "consistent",
    "The capital of Australia is Canberra.",
)


@contextmanager
def running_upstream() -> Iterator[Upstream]:
    """An upstream that listens on a free loopback port, in a thread of its own."""
    upstream, loop = Upstream(), asyncio.new_event_loop()
    app = web.Application(client_max_size=1 << 30)
    app.router.add_route("*", "/{path:.*}", upstream.handle)
    runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.1)

    async def start() -> None:
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        upstream.url = f"http://127.0.0.1:{runner.addresses[0][1]}/v1"

    loop.run_until_complete(start())
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    try:
        yield upstream
    finally:
        asyncio.run_coroutine_threadsafe(runner.cleanup(), loop).result(10)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(10)
        loop.close()


def _peer(request: web.Request) -> Any:
    return request.transport.get_extra_info("peername") if request.transport else None
