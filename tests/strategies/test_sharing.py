"""Equal calls run once, independent ones never do, and only what ran is counted."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pydantic
import pytest

from veridical.strategies.backend import ChatRequest
from veridical.strategies.budget import Budget, Limits
from veridical.strategies.concurrency import concurrently
from veridical.strategies.errors import BackendFailed, BackendRefused
from veridical.strategies.llm import LLM
from veridical.strategies.prompting import Ask
from veridical.strategies.registry import strategy_from
from veridical.strategies.sampling import parsed_samples, samples
from veridical.strategies.sharing import Sharing
from veridical.strategies.testing import ScriptedBackend, ask
from veridical.strategies.trace import Trace

QUESTION = Ask("step", ({"role": "user", "content": "Who?"},))
PLAN = "write one question"


def model(backend: ScriptedBackend, **limits: Any) -> LLM:
    return LLM(Sharing(backend), "m", Budget(Limits(**limits)), Trace())


def test_equal_calls_at_once_run_once_and_fit_a_budget_of_one() -> None:
    async def main() -> None:
        backend = ScriptedBackend(("Who?", "Ada Byron."), delay=0.01)
        llm = model(backend, max_calls=1)
        found = await concurrently(lambda _: llm(QUESTION), range(5))
        assert found == ["Ada Byron."] * 5
        trace = llm.trace
        assert [call.shared for call in trace.calls].count(False) == len(trace.made) == 1
        assert (trace.usage.completion_tokens, trace.depth, llm.budget.calls) == (2, 1, 1)
        assert llm.budget.tokens == trace.usage.total_tokens
        backend.assert_used_up()

    asyncio.run(main())


def test_what_a_later_equal_call_takes_over_adds_no_depth() -> None:
    async def main() -> None:
        llm = model(ScriptedBackend(("Who?", "Ada")))
        await llm(QUESTION)
        await llm(QUESTION)
        assert (llm.trace.depth, len(llm.trace.made), len(llm.trace.calls)) == (1, 1, 2)

    asyncio.run(main())


@pytest.mark.parametrize(
    "change", [{"temperature": 1}, {"max_tokens": 9}, {"seed": 1}, {"response_format": {"type": "text"}}]
)
def test_other_parameters_are_another_call(change: dict[str, Any]) -> None:
    async def main() -> None:
        backend = ScriptedBackend(("Who?", "Ada"), ("Who?", "Bob"))
        llm = model(backend)
        assert await llm(QUESTION) == "Ada"
        assert await llm(QUESTION, **change) == "Bob"

    asyncio.run(main())


def test_independent_samples_are_never_merged_not_even_with_the_plain_answer() -> None:
    async def main() -> None:
        backend = ScriptedBackend(*[("Who?", f"Answer {i}") for i in range(6)])
        llm = model(backend)
        params = {"temperature": 1.0}
        plain = await llm.answer(QUESTION, params)
        drawn = await samples(llm, QUESTION, 2, params)
        nested = [await samples(llm.nth(index), QUESTION, 1, params) for index in range(2)]
        inside = await llm.nth(0).answer(QUESTION, params)
        assert len({plain.text, *(a.text for a in drawn), *(a.text for [a] in nested)}) == 5
        assert inside.text == drawn[0].text  # the same draw, told by its number
        assert len(backend.requests) == 5

    asyncio.run(main())


def test_equal_requests_for_several_share_them_all() -> None:
    async def main() -> None:
        backend = ScriptedBackend(("Who?", "Ada"), ("Who?", "Bob"))
        backend.supports.add("n")
        llm = model(backend)
        first, second = [await samples(llm, QUESTION, 2, {}) for _ in range(2)]
        assert [a.text for a in first] == [a.text for a in second] == ["Ada", "Bob"]
        assert len(backend.requests) == 1

    asyncio.run(main())


def test_a_stream_is_shared_once_it_has_arrived_and_not_before() -> None:
    async def main() -> None:
        backend = ScriptedBackend(("Who?", "Ada Byron."), ("Who?", "Bob."))
        llm = model(backend)
        early = await llm.chat(QUESTION, {"stream_options": {}}, stream=True)
        meanwhile = await llm.chat(QUESTION, {}, stream=True)  # whoever reads it may wait for us
        assert (await early.read()).text == "Ada Byron."
        again = await llm.chat(QUESTION, {}, stream=True)
        assert [delta.text async for delta in again] == ["", "Ada Byr", "on.", ""]
        assert (await llm.answer(QUESTION, {})).text == "Ada Byron."
        assert (await meanwhile.read()).text == "Bob."
        assert len(backend.requests) == len(llm.trace.made) == 2

    asyncio.run(main())


def test_a_stream_that_was_left_is_not_shared() -> None:
    async def main() -> None:
        backend = ScriptedBackend(("Who?", "Ada Byron."), ("Who?", "Bob."))
        llm = model(backend)
        reply = await llm.chat(QUESTION, {}, stream=True)
        await anext(aiter(reply))
        await reply.aclose()
        assert (await llm.answer(QUESTION, {})).text == "Bob."

    asyncio.run(main())


def test_a_failure_reaches_all_who_wait_and_is_forgotten() -> None:
    async def main() -> None:
        backend = ScriptedBackend(("Who?", BackendFailed("broken")), ("Who?", "Ada"), delay=0.01)
        llm = model(backend)

        async def attempt(_: int) -> str:
            try:
                return await llm(QUESTION)
            except BackendFailed as error:
                return error.message

        assert await concurrently(attempt, range(3)) == ["broken"] * 3
        assert await llm(QUESTION) == "Ada"
        assert len(llm.trace.made) == llm.budget.calls == 2

    asyncio.run(main())


def test_who_waits_asks_again_where_the_first_was_cancelled() -> None:
    async def main() -> None:
        backend = ScriptedBackend(("Who?", "Ada"), ("Who?", "Bob"), delay=0.01)
        llm = model(backend)
        first = asyncio.ensure_future(llm(QUESTION))
        await asyncio.sleep(0)
        second = asyncio.ensure_future(llm(QUESTION))
        await asyncio.sleep(0)
        first.cancel()
        assert await second == "Bob"
        assert len(llm.trace.made) == llm.budget.calls == 2

    asyncio.run(main())


def test_a_pipe_drafts_once_and_repeats_no_check() -> None:
    """In `cove|cove` the second takes the first's answer; what it asks again, it is told again."""
    plan = '{"checks": [{"fact": "f", "question": "What of it?"}]}'
    backend = ScriptedBackend(
        ("Who?", "Ada."), (PLAN, plan), ("tests a statement", '{"holds": "f", "label": "consistent"}'),
        ("What of it?", "So."),
    )  # fmt: skip
    outcome = asyncio.run(ask(strategy_from("cove|cove"), "Who?", Sharing(backend)))
    assert outcome.text == "Ada."
    assert [(call.step, call.part, call.shared) for call in outcome.trace.calls] == [
        ("draft", 0, False), ("cove/plan", 0, False), ("cove/check", 0, False),
        ("cove/cross_check", 0, False),
        ("cove/plan", 1, True), ("cove/check", 1, True), ("cove/cross_check", 1, True),
    ]  # fmt: skip
    assert (outcome.trace.depth, len(outcome.trace.made)) == (4, 4)
    backend.assert_used_up()


def test_how_an_answer_travels_does_not_make_it_another_draw() -> None:
    request = ChatRequest("m", QUESTION.messages, {"temperature": 1})
    sharing = Sharing(ScriptedBackend(("Who?", "Ada")))
    asyncio.run(sharing.chat(request))
    assert sharing.holds(replace(request, stream=True, headers={"x": "y"}))
    assert not sharing.holds(replace(request, sample=1))


class City(pydantic.BaseModel):
    city: str


def test_shaped_draws_are_one_request_too_and_the_unreadable_ones_are_left_out() -> None:
    async def main() -> None:
        backend = ScriptedBackend(
            ("Who?", '{"city": "Oslo"}'), ("Who?", "Well."), ("Who?", '{"city": "Rome"}')
        )
        backend.supports.add("n")
        llm = model(backend)
        found = await parsed_samples(llm, QUESTION, City, 3, {"temperature": 0.7})
        assert [each.city for each in found] == ["Oslo", "Rome"]
        (request,) = backend.requests
        assert (request.n, "response_format" in request.params) == (3, True)
        assert "left out" in llm.trace.notes[0]

    asyncio.run(main())


def test_a_refused_shape_is_not_taken_for_a_refused_n() -> None:
    def answer(request: ChatRequest) -> str:
        if "response_format" in request.params:
            raise BackendRefused("no shapes", status=400)
        return '{"city": "Oslo"}'

    async def main() -> None:
        backend = ScriptedBackend(("Who?", answer), repeat=True)
        backend.supports.add("n")
        llm = model(backend)
        for turn in range(2):
            assert len(await parsed_samples(llm.nth(turn), QUESTION, City, 2, {})) == 2
        assert backend.supports == {"n"}
        assert backend.requests[-1].n == 2

    asyncio.run(main())


def test_a_draw_whose_limit_was_spent_on_reasoning_is_drawn_by_itself() -> None:
    async def main() -> None:
        def answer(request: ChatRequest) -> str:
            return '{"city": "Oslo"}' if "max_tokens" not in request.params else ""

        backend = ScriptedBackend(("Who?", answer), repeat=True, finish="length")
        backend.supports.add("n")
        assert len(await parsed_samples(model(backend), QUESTION, City, 2, {})) == 2

    asyncio.run(main())


def test_agents_that_debate_what_another_strategy_makes_each_have_a_run_of_their_own() -> None:
    backend = ScriptedBackend(*[("Who?", "Ada.")] * 3, (PLAN, '{"checks": []}'), ("", "Ada."), repeat=True)
    asyncio.run(ask(strategy_from("cove|debate(agents=3,rounds=1)"), "Who?", Sharing(backend)))
    drafts = [request for request in backend.requests if request.messages[-1]["content"] == "Who?"]
    assert len({request.sample for request in drafts}) == len(drafts) == 3
