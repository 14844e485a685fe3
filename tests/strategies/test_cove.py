"""Chain-of-Verification: call graphs and the properties that the paper claims."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from veridical.strategies.cove import ChainOfVerification, refuses
from veridical.strategies.errors import UnparsableOutput
from veridical.strategies.registry import strategy_from
from veridical.strategies.testing import Outcome, ScriptedBackend, ask
from veridical.strategies.types import Status, Verdict

PLAN, JOINT, CROSS, REVISE = "write one question", "right after it answer", "tests a statement", "Now write"
CHECK_ALL = "Answer each question below"
LONG = (
    "Ada was born in 1815. She lived in London. She wrote about engines. She knew Babbage. She died in 1852."
)


def plan(*facts: str) -> str:
    return json.dumps({"checks": [{"fact": fact, "question": f"What of {fact}?"} for fact in facts]})


def compared(label: str, holds: str = "the truth") -> str:
    return json.dumps({"label": label, "holds": holds})


def run(strategy: str, question: Any, backend: ScriptedBackend, **options: Any) -> Outcome:
    return asyncio.run(ask(strategy_from(strategy), question, backend, **options))


def steps(outcome: Outcome) -> list[tuple[str, int]]:
    return [(call.step, call.depth) for call in outcome.trace.calls]


def test_factor_revise_makes_2q_plus_3_calls_at_depth_5() -> None:
    backend = ScriptedBackend(
        ("Who?", "A draft."),
        (PLAN, plan("alpha", "beta", "gamma")),
        *[(f"What of {fact}?", f"On {fact}.") for fact in ("alpha", "beta", "gamma")],
        *[(CROSS, compared(label)) for label in ("inconsistent", "consistent", "partly_consistent")],
        (REVISE, "A better answer."),
    )
    outcome = run("cove", "Who?", backend)
    assert outcome.text == "A better answer."
    assert outcome.reply.status is Status.VERIFIED
    assert len(outcome.trace.calls) == 2 * 3 + 3
    assert outcome.trace.depth == 5
    assert [depth for step, depth in steps(outcome) if step == "cove/cross_check"] == [4, 4, 4]
    backend.assert_used_up()


@pytest.mark.parametrize(
    ("variant", "rules", "calls", "depth"),
    [
        ("factored", [(PLAN, plan("a", "b")), ("What of a?", "A."), ("What of b?", "B.")], 2 + 3, 4),
        ("two_step", [(PLAN, plan("a", "b")), (CHECK_ALL, '{"answers": ["A.", "B."]}')], 4, 4),
        ("joint", [(JOINT, '{"checks": [{"fact": "a", "question": "a?", "answer": "A."}]}')], 3, 3),
    ],
)
def test_other_variants_always_rewrite_and_give_no_verdicts(
    variant: str, rules: list[tuple[str, str]], calls: int, depth: int
) -> None:
    backend = ScriptedBackend(("Who?", "A draft."), *rules, (REVISE, "Final."))
    outcome = run(f"cove(variant={variant})", "Who?", backend)
    assert outcome.text == "Final."
    assert (len(outcome.trace.calls), outcome.trace.depth) == (calls, depth)
    assert outcome.reply.claims
    assert all(claim.verdict is None and claim.answer for claim in outcome.reply.claims)
    backend.assert_used_up()


@pytest.mark.parametrize("variant", ["factor_revise", "factored", "two_step"])
def test_execution_sees_neither_the_draft_nor_the_query(variant: str) -> None:
    backend = ScriptedBackend(
        ("Where is Perth?", "Perth is in Tasmania, surely."),
        (PLAN, plan("Perth")),
        (CROSS, compared("inconsistent")),
        (REVISE, "In Western Australia."),
        (CHECK_ALL, '{"answers": ["Western Australia."]}'),
        ("What of Perth?", "Western Australia."),
        repeat=True,
    )
    run(f"cove(variant={variant})", "Where is Perth?", backend)
    executions = backend.asked("What of Perth?")
    executed = [
        prompt for prompt in executions if "Compare" not in prompt and "tests a statement" not in prompt
    ]
    executed = [prompt for prompt in executed if "Now write" not in prompt]
    assert executed
    for prompt in executed:
        assert "Tasmania" not in prompt
        assert "Where is Perth?" not in prompt


def test_joint_sees_the_draft_when_it_answers() -> None:
    backend = ScriptedBackend(("Who?", "A draft."), (JOINT, '{"checks": []}'))
    run("cove(variant=joint)", "Who?", backend)
    assert "A draft." in backend.prompts[1]


def test_a_draft_that_passes_every_check_comes_back_word_for_word() -> None:
    backend = ScriptedBackend(
        ("Who?", "  Some *draft*,\nas it is. "),
        (PLAN, plan("a")),
        ("What of a?", "A."),
        (CROSS, compared("consistent")),
    )
    outcome = run("cove", "Who?", backend)
    assert outcome.text == "  Some *draft*,\nas it is. "
    assert outcome.reply.status is Status.UNCHANGED
    assert len(outcome.trace.calls) == 2 * 1 + 2
    assert outcome.reply.claims[0].verdict is Verdict.SUPPORTED


@pytest.mark.parametrize(
    ("label", "verdict", "correction"),
    [
        ("consistent", Verdict.SUPPORTED, None),
        ("inconsistent", Verdict.REFUTED, "the truth"),
        ("partly_consistent", Verdict.REFUTED, "the truth"),
        ("unanswered", Verdict.NOT_ENOUGH_INFO, None),
    ],
)
def test_labels_become_verdicts(label: str, verdict: Verdict, correction: str | None) -> None:
    backend = ScriptedBackend(
        ("Who?", "Draft."),
        (PLAN, plan("a")),
        (CROSS, compared(label)),
        (REVISE, "New."),
        ("What of a?", "A."),
        repeat=True,
    )
    claim = run("cove", "Who?", backend).reply.claims[0]
    assert (claim.verdict, claim.correction) == (verdict, correction)
    assert (claim.text, claim.question, claim.answer) == ("a", "What of a?", "A.")


@pytest.mark.parametrize(
    "silence", ["", "UNKNOWN", "Unknown.", "I don't know.", "I’m not sure about that.", "As an AI model, …"]
)
def test_a_refusing_answer_is_not_enough_info_and_never_a_contradiction(silence: str) -> None:
    assert refuses(silence)
    backend = ScriptedBackend(("Who?", "Draft."), (PLAN, plan("a")), ("What of a?", silence))
    outcome = run("cove", "Who?", backend)
    assert outcome.text == "Draft."
    assert outcome.reply.claims[0].verdict is Verdict.NOT_ENOUGH_INFO
    backend.assert_used_up()


@pytest.mark.parametrize("said", ["Unknown Pleasures was released in 1979.", "In 1912.", "Ich glaube, 1912."])
def test_an_answer_is_no_refusal(said: str) -> None:
    assert not refuses(said)


def test_all_executions_run_at_once_and_comparisons_do_not_wait_for_all_of_them() -> None:
    order: list[str] = []

    def answer(request: Any) -> str:
        order.append(request.messages[-1]["content"])
        return "An answer."

    async def main() -> None:
        backend = ScriptedBackend(("Who?", "Draft."), (PLAN, plan("slow", "quick")))
        released = asyncio.Event()
        said = backend.chat

        async def chat(request: Any) -> Any:
            last = request.messages[-1]["content"]
            if last == "What of slow?":
                await released.wait()  # until the other fact has been compared
            reply = await said(request)
            if PLAN not in last and "Statement: quick" in last:
                released.set()
            return reply

        backend.chat = chat  # type: ignore[method-assign]
        backend.rules += [("What of slow?", answer), ("What of quick?", answer)]
        backend.rules += [(CROSS, compared("consistent"))] * 2
        async with asyncio.timeout(5):
            await ask(ChainOfVerification(), "Who?", backend)

    asyncio.run(main())
    assert order == ["What of quick?", "What of slow?"]


def test_executions_are_concurrent() -> None:
    facts = ("a", "b", "c", "d")
    backend = ScriptedBackend(
        ("Who?", "Draft."),
        (PLAN, plan(*facts)),
        (CROSS, compared("consistent")),
        ("What of", "X."),
        repeat=True,
        delay=0.01,
    )
    run("cove", "Who?", backend)
    assert backend.most_running == 4


def test_questions_are_bounded_and_not_asked_twice() -> None:
    backend = ScriptedBackend(
        ("Who?", "Draft."),
        (PLAN, plan("a", "a", "b", "c", "d")),
        (CROSS, compared("consistent")),
        ("What of", "X."),
        repeat=True,
    )
    outcome = run("cove(max_questions=3)", "Who?", backend)
    assert [claim.text for claim in outcome.reply.claims] == ["a", "b", "c"]


def test_an_empty_plan_returns_the_draft_and_says_so() -> None:
    outcome = run("cove", "Hi!", ScriptedBackend(("Hi!", "Hello."), (PLAN, '{"checks": []}')))
    assert (outcome.text, outcome.reply.status) == ("Hello.", Status.UNCHANGED)
    assert outcome.trace.notes == ["The plan found no fact to check."]


def test_an_unparsable_plan_is_asked_for_once_more() -> None:
    backend = ScriptedBackend(
        ("Who?", "Draft."),
        (PLAN, "I would rather chat."),
        ("could not be read", plan("a")),
        ("What of a?", "A."),
        (CROSS, compared("consistent")),
    )
    assert run("cove", "Who?", backend).text == "Draft."
    backend.assert_used_up()


def test_a_plan_that_cannot_be_parsed_twice_is_an_outcome_of_its_own() -> None:
    backend = ScriptedBackend(("Who?", "Draft."), (PLAN, "no"), ("could not be read", "still no"))
    with pytest.raises(UnparsableOutput, match="cove/plan"):
        run("cove", "Who?", backend)
    assert len(backend.requests) == 3


def about(sentence: str, words: str) -> Any:
    """A rule for a request whose assistant turn is one passage and whose instruction holds `words`."""
    return lambda request: (
        words in request.messages[-1]["content"] and request.messages[-2]["content"].startswith(sentence)
        if len(request.messages) > 1
        else False
    )


def test_a_long_answer_is_checked_in_passages_and_only_what_failed_is_rewritten() -> None:
    facts = {
        "Ada was born": "birth",
        "She lived": "home",
        "She wrote": "work",
        "She knew": "friend",
        "She died": "death",
    }
    wrong = ("birth", "death")
    backend = ScriptedBackend(
        ("Ada?", LONG),
        *[(about(sentence, PLAN), plan(fact)) for sentence, fact in facts.items()],
        *[
            (f"Statement: {fact}", compared("inconsistent" if fact in wrong else "consistent"))
            for fact in facts.values()
        ],
        (about("Ada was born", REVISE), " Ada was born in 1816.\n"),
        (about("She died", REVISE), "She died in 1853."),
        *[(f"What of {fact}?", "X.") for fact in facts.values()],
    )
    outcome = run("cove", "Ada?", backend)
    assert outcome.text == LONG.replace("1815", "1816").replace("1852", "1853")
    assert len(outcome.trace.calls) == 1 + 5 + 2 * 5 + 2
    assert outcome.trace.depth == 5
    backend.assert_used_up()


def test_neighbouring_sentences_share_a_passage_where_there_are_too_many() -> None:
    backend = ScriptedBackend(("Ada?", LONG), (PLAN, '{"checks": []}'), repeat=True)
    outcome = run("cove(max_passages=2)", "Ada?", backend)
    assert outcome.text == LONG
    planned = "".join(backend.prompts[1:])
    assert len(backend.requests) == 3
    assert all(f"{sentence}." in planned for sentence in LONG.rstrip(".").split(". "))


def test_four_sentences_are_one_passage() -> None:
    text = "One. Two. Three. Four."
    backend = ScriptedBackend(("Q?", text), (PLAN, '{"checks": []}'), repeat=True)
    run("cove", "Q?", backend)
    assert len(backend.requests) == 2
    assert backend.requests[1].messages[-2]["content"] == text


def test_structured_output_is_not_cut_into_passages_and_keeps_its_format() -> None:
    wanted = {"type": "json_object"}
    backend = ScriptedBackend(
        ("Ada?", json.dumps({"text": LONG})),
        (PLAN, plan("a")),
        ("What of a?", "X."),
        (CROSS, compared("inconsistent")),
        (REVISE, '{"text": "fine"}'),
    )
    outcome = run("cove", "Ada?", backend, params={"response_format": wanted})
    assert outcome.text == '{"text": "fine"}'
    assert (
        backend.requests[0].params["response_format"]
        == backend.requests[-1].params["response_format"]
        == wanted
    )


def test_tool_calls_are_returned_as_they_are() -> None:
    call = {"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    message = {"role": "assistant", "content": None, "tool_calls": [call]}
    outcome = run("cove", "Call f.", ScriptedBackend(("Call f.", message)), params={"tools": [{}]})
    assert outcome.answer.message == message
    assert outcome.reply.status is Status.UNCHANGED


def test_tools_may_not_be_called_in_the_final_words() -> None:
    backend = ScriptedBackend(
        ("Who?", "Draft."),
        (PLAN, plan("a")),
        ("What of a?", "X."),
        (CROSS, compared("inconsistent")),
        (REVISE, "Y."),
    )
    run("cove", "Who?", backend, params={"tools": [{"type": "function"}]})
    assert backend.requests[-1].params["tool_choice"] == "none"
    assert "tool_choice" not in backend.requests[0].params


def test_the_clients_parameters_reach_the_draft_and_the_final_words_only() -> None:
    backend = ScriptedBackend(
        ("Who?", "Draft."),
        (PLAN, plan("a")),
        ("What of a?", "X."),
        (CROSS, compared("inconsistent")),
        (REVISE, "Y."),
    )
    run("cove", "Who?", backend, params={"temperature": 0.7, "seed": 3, "stop": ["END"], "frobnicate": 1})
    ours = [request.params for request in backend.requests]
    assert ours[0] == ours[-1] == {"temperature": 0.7, "seed": 3, "stop": ["END"], "frobnicate": 1}
    assert all("seed" not in params and params["temperature"] == 0 for params in ours[1:-1])


def test_system_prompts_and_earlier_turns_survive_every_step() -> None:
    chat = [
        {"role": "system", "content": "Acme closes at nine."},
        {"role": "user", "content": "Hallo, ich heiße Jörg."},
        {"role": "assistant", "content": "Guten Tag, Jörg."},
        {"role": "user", "content": "Wann schließt Acme?"},
    ]
    backend = ScriptedBackend(
        ("Wann schließt", "Um acht."),
        (PLAN, plan("a")),
        ("What of a?", "Um neun."),
        (CROSS, compared("inconsistent", "Um neun.")),
        (REVISE, "Um neun."),
    )
    run("cove", chat, backend)
    draft, planned, executed, _, final = backend.requests
    assert list(draft.messages) == chat
    assert list(planned.messages[:4]) == list(final.messages[:4]) == chat
    assert planned.messages[4] == final.messages[4] == {"role": "assistant", "content": "Um acht."}
    assert executed.messages[0] == chat[0]
    assert "Jörg" not in backend.prompts[2]


def test_a_stream_replays_an_unchanged_draft_as_it_arrived() -> None:
    async def main() -> None:
        backend = ScriptedBackend(("Who?", "A draft of some length."), (PLAN, '{"checks": []}'))
        outcome = await ask(ChainOfVerification(), "Who?", backend, stream=True)
        pieces = [delta.text async for delta in outcome.reply]
        assert pieces == ["", "A draft", " of som", "e lengt", "h.", ""]

    asyncio.run(main())


def test_a_streamed_rewriting_of_passages_reads_as_one_answer() -> None:
    backend = ScriptedBackend(
        ("Ada?", LONG),
        (PLAN, plan("x")),
        (CROSS, compared("inconsistent")),
        ("Now write", "  A sentence rewritten.  "),
        ("What of x?", "X."),
        repeat=True,
    )
    outcome = run("cove", "Ada?", backend, stream=True)
    assert outcome.text == "A sentence rewritten. " * 4 + "A sentence rewritten."
    assert outcome.answer.logprobs is None


def test_reasoning_before_a_rewritten_passage_is_not_spliced_in() -> None:
    backend = ScriptedBackend(
        ("Ada?", LONG), (PLAN, plan("x")), (CROSS, compared("inconsistent")),
        (REVISE, "<think>Well, well.</think>\n\nBetter."), ("What of x?", "X."), repeat=True,
    )  # fmt: skip
    assert run("cove", "Ada?", backend, stream=True).text == "Better. Better. Better. Better. Better."


def test_a_piped_draft_keeps_its_claims() -> None:
    backend = ScriptedBackend(
        (PLAN, plan("a")),
        (CROSS, compared("consistent")),
        ("What of a?", "A."),
        ("Who?", "Draft."),
        repeat=True,
    )
    assert len(run("cove|cove", "Who?", backend).reply.claims) == 2


def test_the_verifier_role_answers_and_compares() -> None:
    async def main() -> None:
        from veridical.strategies.base import Context
        from veridical.strategies.budget import Budget
        from veridical.strategies.llm import LLM
        from veridical.strategies.trace import Trace
        from veridical.strategies.types import Conversation

        big = ScriptedBackend(("Who?", "Draft."), (PLAN, plan("a")), (REVISE, "Y."))
        small = ScriptedBackend(("What of a?", "X."), (CROSS, compared("inconsistent")))
        budget, trace = Budget(), Trace()
        roles = {"verifier": LLM(small, "small", budget, trace)}
        ctx = Context(LLM(big, "big", budget, trace), roles=roles)
        chat = Conversation(({"role": "user", "content": "Who?"},))
        assert (await (await ChainOfVerification()(chat, ctx)).read()).text == "Y."
        big.assert_used_up()
        small.assert_used_up()

    asyncio.run(main())
