"""Prompts are laid out for prefix caches, counted in words against a cache that forgets nothing.

What real servers save is measured by `benchmarks/prefix_cache.py`, whose plain layout is compared here.
"""

from __future__ import annotations

import asyncio
import importlib.util
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from veridical.strategies.registry import strategy_from
from veridical.strategies.testing import ScriptedBackend, ask
from veridical.strategies.trace import Call

SCRIPT = Path(__file__).parents[2] / "benchmarks/prefix_cache.py"
TOWNS = ("Arden", "Boville", "Corley")


class Words:
    """A prefix cache in words: a prompt's beginning is cached if an earlier text began so."""

    def __init__(self) -> None:
        self.seen: set[tuple[str, ...]] = set()

    def uncached(self, prompts: Sequence[Sequence[dict[str, str]]]) -> int:
        """The uncached words of prompts that are sent at once; from then on they are cached."""
        texts = [self._words(messages) for messages in prompts]
        fresh = sum(len(text) - self._known(text) for text in texts)
        for text in texts:
            self.learn(text)
        return fresh

    def learn(self, text: list[str]) -> None:
        self.seen.update(tuple(text[: end + 1]) for end in range(len(text)))

    def _known(self, text: list[str]) -> int:
        return next((end for end in range(len(text), 0, -1) if tuple(text[:end]) in self.seen), 0)

    @staticmethod
    def _words(messages: Sequence[Any]) -> list[str]:
        return [word for m in messages for word in (f"<{m['role']}>", *m["content"].split())]


def facts(town: str) -> list[dict[str, str]]:
    asked = {"founded in 1204": "When", "on the river Lyme": "Where", "ruled by a mayor": "How"}
    return [
        {"fact": f"{town} is {fact}.", "question": f"{word} about {town}?"} for fact, word in asked.items()
    ]


def run(town: str) -> list[Call]:
    compared = json.dumps({"holds": f"{town} is otherwise.", "label": "inconsistent"})
    backend = ScriptedBackend(
        ("write one question", json.dumps({"checks": facts(town)})),
        ("tests a statement", compared),
        ("Now write", f"{town} is an old town."),
        ("Tell me", f"{town} was founded in 1204 on the river Lyme and is ruled by a mayor."),
        (f"about {town}?", f"That of {town} is not known for certain."),
        repeat=True,
    )
    return asyncio.run(ask(strategy_from("cove"), f"Tell me about {town}.", backend)).trace.calls


def levels(calls: list[Call]) -> list[list[Call]]:
    return [[call for call in calls if call.depth == depth] for depth in sorted({c.depth for c in calls})]


@pytest.fixture(scope="module")
def script() -> Any:
    spec = importlib.util.spec_from_file_location("prefix_cache", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_most_of_a_run_finds_a_warm_cache_and_a_plain_layout_would_find_less(script: Any) -> None:
    runs = [run(town) for town in TOWNS]
    steps = [[{"step": c.step, "messages": [dict(m) for m in c.messages]} for c in calls] for calls in runs]
    fixed = script.heads(steps)
    ours, plain = Words(), Words()
    for number, calls in enumerate(runs):
        fresh = fresh_in_plain = 0
        for level in levels(calls):
            fresh += ours.uncached([call.messages for call in level])
            fresh_in_plain += plain.uncached(
                [
                    call.messages
                    if call.step in script.SAME_IN_BOTH
                    else script.plain(call.messages, fixed[call.step])
                    for call in level
                ]
            )
            for call in level:  # what was generated is in the cache too
                for cache in (ours, plain):
                    cache.learn([*Words._words(call.messages), "<assistant>", *call.output.split()])
        if number:  # the first run warms it
            sent = sum(len(Words._words(call.messages)) for call in calls)
            assert fresh <= 0.4 * sent, (fresh, sent)
            assert fresh < fresh_in_plain, (fresh, fresh_in_plain)
