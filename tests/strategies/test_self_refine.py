"""Self-Refine: the loop, its ends, and what each call sees."""

from __future__ import annotations

import asyncio
import json
from itertools import pairwise
from typing import Any

import pytest

from veridical.strategies.registry import strategy_from
from veridical.strategies.testing import Outcome, ScriptedBackend, ask
from veridical.strategies.types import Status

REVIEW, REFINE = "Review your last answer", "Your last answer has been reviewed"


def review(feedback: str, *, done: bool = False) -> str:
    return json.dumps({"feedback": feedback, "done": done})


def run(strategy: str, backend: ScriptedBackend, **options: Any) -> Outcome:
    return asyncio.run(ask(strategy_from(strategy), "Who?", backend, **options))


@pytest.mark.parametrize("rounds", [1, 2, 3])
def test_l_rounds_make_1_plus_2l_calls_one_behind_the_other(rounds: int) -> None:
    backend = ScriptedBackend(
        ("Who?", "Draft."),
        *[(REVIEW, review(f"Point {turn}.")) for turn in range(rounds)],
        *[(REFINE, f"Version {turn + 1}.") for turn in range(rounds)],
    )
    outcome = run(f"self_refine(max_rounds={rounds})", backend)
    assert (outcome.text, outcome.reply.status) == (f"Version {rounds}.", Status.VERIFIED)
    assert len(outcome.trace.made) == outcome.trace.depth == 1 + 2 * rounds
    backend.assert_used_up()


def test_a_review_that_asks_for_no_change_ends_it() -> None:
    outcome = run("self_refine", ScriptedBackend(("Who?", "Draft."), (REVIEW, review("", done=True))))
    assert (outcome.text, outcome.reply.status) == ("Draft.", Status.UNCHANGED)
    assert len(outcome.trace.made) == 2


def test_an_answer_that_does_not_change_ends_it() -> None:
    backend = ScriptedBackend(
        ("Who?", "Draft."), (REVIEW, review("Hm.")), (REFINE, "Better."), (REVIEW, review("Hm.")),
        (REFINE, " Better.\n"),
    )  # fmt: skip
    outcome = run("self_refine", backend)
    assert (outcome.text, outcome.reply.status) == ("Better.", Status.VERIFIED)
    backend.assert_used_up()


def test_every_call_continues_the_conversation_and_sees_all_reviews() -> None:
    backend = ScriptedBackend(
        ("Who?", "Draft."), (REVIEW, review("Too short.")), (REFINE, "Longer."),
        (REVIEW, review("", done=True)),
    )  # fmt: skip
    run("self_refine", backend, params={"temperature": 0.9})
    messages = [request.messages for request in backend.requests]
    draft, reviewing, refining, again = messages
    for earlier, later in pairwise((draft, reviewing[:-1], refining, again)):
        assert later[: len(earlier)] == earlier
    assert [m["content"] for m in again if m["role"] == "assistant"] == ["Draft.", "Longer."]
    assert "Too short." in str(again[-3]["content"])
    assert [request.messages for request in backend.requests if "JSON" in str(request.messages)] == [
        reviewing, again
    ]  # fmt: skip
    assert [request.params["temperature"] for request in backend.requests] == [0.9, 0, 0.9, 0]


def test_the_last_round_is_streamed_and_the_others_are_kept_to_fall_back_on() -> None:
    backend = ScriptedBackend(
        ("Who?", "Draft."), (REVIEW, review("A.")), (REFINE, "One."),
        (REVIEW, review("B.")), (REFINE, "Two."),
    )  # fmt: skip
    outcome = run("self_refine(max_rounds=2)", backend, stream=True)
    assert [draft.answer.text for draft in outcome.trace.drafts] == ["Draft.", "One."]
    assert [request.stream for request in backend.requests] == [True, False, True, False, True]


def test_tool_calls_are_returned_as_they_are() -> None:
    call = {"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    message = {"role": "assistant", "content": None, "tool_calls": [call]}
    outcome = run("self_refine", ScriptedBackend(("Who?", message)), params={"tools": [{}]})
    assert outcome.answer.message == message
