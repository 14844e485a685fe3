"""Self-consistency: one request for all draws where it can be, votes, and votes over whole runs."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from veridical.strategies.backend import ChatRequest
from veridical.strategies.errors import BackendRefused, UnparsableOutput
from veridical.strategies.registry import strategy_from
from veridical.strategies.self_consistency import grouped
from veridical.strategies.testing import Outcome, ScriptedBackend, ask
from veridical.strategies.types import Status

GROUP, SELECT, PLAN = "mean the same", "several responses", "write one question"


def run(strategy: str, backend: ScriptedBackend, question: Any = "Who?", **options: Any) -> Outcome:
    return asyncio.run(ask(strategy_from(strategy), question, backend, **options))


def saying(*answers: str, several: bool = False) -> ScriptedBackend:
    backend = ScriptedBackend(*[("Who?", answer) for answer in answers])
    backend.supports |= {"n"} if several else set()
    return backend


def cost(outcome: Outcome) -> tuple[int, int]:
    return len(outcome.trace.made), outcome.trace.depth


def test_one_request_draws_all_where_the_backend_takes_n() -> None:
    backend = saying("Ada.", "Bob", "the ada", several=True)
    outcome = run("self_consistency(n=3)", backend)
    assert (outcome.text, outcome.reply.confidence) == ("Ada.", pytest.approx(2 / 3))
    assert cost(outcome) == (1, 1)
    (request,) = backend.requests
    assert (request.n, request.params["temperature"], request.stream) == (3, 0.7, False)
    assert outcome.trace.usage.completion_tokens == 4  # the words of all three, once
    backend.assert_used_up()


def test_a_backend_without_n_is_asked_n_times_at_once() -> None:
    backend = saying("Bob", "Ada", "ada")
    outcome = run("self_consistency(n=3)", backend)
    assert outcome.text in ("Ada", "ada")
    assert outcome.reply.status is Status.VERIFIED  # not the first that was drawn
    assert cost(outcome) == (3, 1)
    assert backend.most_running == 3
    assert len({request.sample for request in backend.requests}) == 3
    assert all(request.n == 1 for request in backend.requests)


def test_a_backend_that_gives_fewer_choices_is_asked_for_the_rest_and_not_for_several_again() -> None:
    def answer(request: ChatRequest) -> str:
        return "Ada"

    backend = ScriptedBackend(("Who?", answer))
    backend.supports.add("n")
    backend._further = lambda request: []  # type: ignore[method-assign]
    backend.rules += [("Who?", answer)] * 5
    assert cost(run("self_consistency(n=3)", backend)) == (3, 1 + 1)
    assert "n" not in backend.supports
    assert cost(run("self_consistency(n=3)", backend)) == (3, 1)
    backend.assert_used_up()


def test_a_backend_that_refuses_n_is_remembered() -> None:
    def answer(request: ChatRequest) -> str:
        if request.n > 1:
            raise BackendRefused("no such parameter", status=400)
        return "Ada"

    backend = ScriptedBackend(("Who?", answer), repeat=True)
    backend.supports.add("n")
    assert run("self_consistency(n=3)", backend).text == "Ada"
    run("self_consistency(n=3)", backend)
    assert [request.n for request in backend.requests] == [3, 1, 1, 1, 1, 1, 1]


def test_a_request_that_is_refused_for_another_reason_leaves_n_alone() -> None:
    backend = ScriptedBackend(("Who?", BackendRefused("bad stop", status=400)), repeat=True)
    backend.supports.add("n")
    with pytest.raises(BackendRefused, match="bad stop"):
        run("self_consistency(n=3)", backend)
    assert "n" in backend.supports


def test_a_fixed_seed_gives_each_draw_its_own() -> None:
    backend = saying("Ada", "Ada", "Ada", several=True)
    run("self_consistency(n=3)", backend, params={"seed": 7, "temperature": 0, "stop": ["END"]})
    assert sorted(request.params["seed"] for request in backend.requests) == [7, 8, 9]
    assert all(request.params["temperature"] == 0.7 for request in backend.requests)
    assert all(request.params["stop"] == ["END"] for request in backend.requests)


def test_the_vote_is_on_conclusions_and_a_winner_comes_back_word_for_word() -> None:
    reasons = "It began with A.\nAnswer: **Ada**"
    outcome = run("self_consistency(n=3)", saying(reasons, "By elimination, the answer is Ada.", "Bob"))
    assert (outcome.text, outcome.reply.status) == (reasons, Status.UNCHANGED)


def test_an_exact_vote_counts_characters() -> None:
    outcome = run("self_consistency(n=4,vote=exact)", saying("Ada.", "ada", "Bob", "Bob"))
    assert (outcome.text, outcome.reply.confidence) == ("Bob", 0.5)


def test_what_says_nothing_has_no_vote_but_lowers_the_share() -> None:
    outcome = run("self_consistency(n=4)", saying("", " ", "<think>Hm.</think>", "Ada"))
    assert (outcome.text, outcome.reply.confidence) == ("Ada", 0.25)


def test_answers_that_all_say_nothing_come_back_without_confidence() -> None:
    outcome = run("self_consistency(n=2)", saying("", ""))
    assert (outcome.text, outcome.reply.confidence) == ("", None)


def test_meaning_groups_distinct_answers_in_one_further_call() -> None:
    backend = saying("Bob.", "Ada Byron", "bob", "Countess Lovelace", "Lady Lovelace", several=True)
    backend.rules.append((GROUP, json.dumps({"same_as": [1, 2, 2, 2]})))
    outcome = run("self_consistency(vote=semantic)", backend)
    assert (outcome.text, outcome.reply.confidence) == ("Ada Byron", 0.6)
    assert cost(outcome) == (2, 2)
    assert backend.prompts[-1].count("bob") + backend.prompts[-1].count("Bob") == 1
    backend.assert_used_up()


@pytest.mark.parametrize("vote", ["semantic", "universal"])
def test_where_all_agree_nobody_is_asked(vote: str) -> None:
    outcome = run(f"self_consistency(n=2,vote={vote})", saying("Ada.", "ada", several=True))
    assert (outcome.reply.confidence, *cost(outcome)) == (1.0, 1, 1)


def test_links_between_answers_make_one_group_in_any_order() -> None:
    assert grouped([1, 1, 3, 3]) == [0, 0, 2, 2]
    assert grouped([2, 3, 4, 4]) == [0, 0, 0, 0]
    assert grouped([1, 2, 3]) == [0, 1, 2]


def test_universal_shows_every_answer_and_returns_the_chosen_one_as_it_was() -> None:
    texts = ["A long text on Ada.", "Another text on Ada.", "A text on Bob."]

    def choose(request: ChatRequest) -> str:
        shown = request.messages[-1]["content"]
        order = sorted(texts, key=shown.index)
        picked = [order.index(text) + 1 for text in texts]
        return json.dumps({"agree": [picked[0], picked[1]], "choice": picked[1]})

    backend = saying(*texts, several=True)
    backend.rules.append((SELECT, choose))
    outcome = run("self_consistency(n=3,vote=universal)", backend)
    assert outcome.text == texts[1]
    assert outcome.reply.confidence == pytest.approx(2 / 3)
    assert cost(outcome) == (2, 2)


def test_an_unreadable_selection_leaves_the_vote_by_words_as_the_fallback() -> None:
    async def main() -> None:
        backend = saying("A.", "B.", "b", several=True)
        backend.rules += [(SELECT, "Well."), ("could not be read", '{"agree": [], "choice": 9}')]
        from veridical.strategies.base import Context
        from veridical.strategies.budget import Budget
        from veridical.strategies.llm import LLM
        from veridical.strategies.trace import Trace
        from veridical.strategies.types import Conversation

        trace = Trace()
        ctx = Context(LLM(backend, "m", Budget(), trace))
        with pytest.raises(UnparsableOutput):
            await strategy_from("self_consistency(n=3,vote=universal)")(
                Conversation(({"role": "user", "content": "Who?"},)), ctx
            )
        assert trace.drafts[-1].answer.text == "B."
        assert trace.drafts[-1].confidence == pytest.approx(2 / 3)

    asyncio.run(main())


def test_tool_calls_vote_too() -> None:
    def call(name: str) -> dict[str, Any]:
        function = {"name": name, "arguments": "{}"}
        return {
            "role": "assistant",
            "content": None,
            "tool_calls": [{"id": name, "type": "function", "function": function}],
        }

    backend = ScriptedBackend(("Who?", call("f")), ("Who?", call("g")), ("Who?", call("g")))
    outcome = run("self_consistency(n=3,vote=universal)", backend)
    assert outcome.answer.message["tool_calls"][0]["function"]["name"] == "g"
    assert len(backend.requests) == 3


def fact(request: ChatRequest) -> bool:
    return "What of" in request.messages[-1]["content"]


def test_behind_another_strategy_it_votes_over_whole_runs_that_share_nothing() -> None:
    plan = '{"checks": [{"fact": "f", "question": "What of it?"}]}'
    backend = ScriptedBackend(
        *[("Who?", answer) for answer in ("Bob.", "Ada.", "Ada")],
        *[(PLAN, plan)] * 3,
        *[("tests a statement", '{"holds": "f", "label": "consistent"}')] * 3,
        *[("What of it?", "So.")] * 3,
    )
    outcome = run("cove|self_consistency(n=3)", backend)
    assert outcome.text.startswith("Ada")
    assert outcome.reply.confidence == pytest.approx(2 / 3)
    assert cost(outcome) == (3 * 4, 4)  # nothing refuted: 2Q+2 for each run, all runs at once
    samples = {request.sample for request in backend.requests}
    assert len(samples) == 3
    drafts = [request for request in backend.requests if request.messages[-1]["content"] == "Who?"]
    assert all(request.params["temperature"] == 0.7 for request in drafts)
    assert len(outcome.reply.claims) == 1
    backend.assert_used_up()


def test_a_run_whose_output_cannot_be_read_has_no_vote() -> None:
    good, bad = '{"checks": []}', "no"
    backend = ScriptedBackend(
        *[("Who?", "Ada")] * 2, (PLAN, good), (PLAN, bad), ("could not be read", bad), delay=0.001
    )
    outcome = run("cove|self_consistency(n=2)", backend)
    assert (outcome.text, outcome.reply.confidence) == ("Ada", 0.5)
    assert "1 of 2 runs failed" in "".join(outcome.trace.notes)


def test_a_winner_can_be_checked_further() -> None:
    backend = saying("Bob", "Ada", "Ada", several=True)
    backend.rules.append((PLAN, '{"checks": []}'))
    outcome = run("self_consistency(n=3)|cove", backend)
    assert (outcome.text, outcome.reply.confidence) == ("Ada", pytest.approx(2 / 3))
    assert cost(outcome) == (2, 2)
    assert [call.part for call in outcome.trace.calls] == [0, 1]
    assert [draft.part for draft in outcome.trace.drafts] == [0]


def test_draws_of_draws_never_meet() -> None:
    backend = ScriptedBackend(("Who?", "Ada"), repeat=True)
    run("self_consistency(n=3)|self_consistency(n=4)", backend)
    assert len({request.sample for request in backend.requests}) == 12
