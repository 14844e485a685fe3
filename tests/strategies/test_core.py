"""The core: expressions, replies, passages, prompts, parsing, budgets, the registry."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncGenerator
from contextlib import suppress
from dataclasses import fields
from importlib.metadata import EntryPoint
from importlib.resources import files
from typing import Any

import pydantic
import pytest
from hypothesis import given
from hypothesis import strategies as st

from veridical.strategies import plugins, registry
from veridical.strategies.backend import ChatRequest
from veridical.strategies.base import Pipe
from veridical.strategies.budget import Budget, Limits
from veridical.strategies.concurrency import concurrently
from veridical.strategies.errors import (
    BackendRefused,
    BudgetExceeded,
    ConfigError,
    DeadlineExceeded,
    InvalidRequest,
    NotFound,
    VeridicalError,
)
from veridical.strategies.expression import Stage, parse_expression, read_strategy
from veridical.strategies.llm import LLM, parsed, response_format
from veridical.strategies.passages import passages, sentences
from veridical.strategies.prompting import Prompt
from veridical.strategies.registry import build_strategy, strategy_class, strategy_from, strategy_names
from veridical.strategies.reply import Ending, Reply
from veridical.strategies.testing import ScriptedBackend, ask
from veridical.strategies.trace import Trace, chain
from veridical.strategies.types import Answer, Conversation, Delta, Usage, visible


class TestExpression:
    def test_options_of_every_kind(self) -> None:
        found = parse_expression(' cok | critic( a = 2, b=-0.5,c=true,d="x, \\"y\\"|",e=none , f=word) ')
        assert found == (
            Stage("cok"),
            Stage("critic", {"a": 2, "b": -0.5, "c": True, "d": 'x, "y"|', "e": None, "f": "word"}),
        )

    @pytest.mark.parametrize(
        "text",
        [
            "",
            "|",
            "cove|",
            "|cove",
            "cove(",
            "cove(a)",
            "cove(a=)",
            "cove(a=1",
            "cove(a=1,a=2)",
            "cove)",
            "a b",
            "cove(a=1)x",
            "c" * 2000,
            "|".join(["a"] * 9),
            "cove(a=(b))",
            "1cove",
            "cove(1=2)",
            "+",
        ],
    )
    def test_what_is_not_of_the_grammar_is_refused_with_a_place(self, text: str) -> None:
        with pytest.raises(InvalidRequest, match="cannot be read") as refused:
            parse_expression(text)
        assert refused.value.param == "strategy"
        assert len(refused.value.message) < 300

    @given(st.text(max_size=60))
    def test_no_text_raises_anything_else(self, text: str) -> None:
        with suppress(VeridicalError):
            build_strategy(parse_expression(text))

    @given(
        st.fixed_dictionaries(
            {},
            optional={
                "variant": st.sampled_from(["joint", "two_step", "factored", "factor_revise"]),
                "max_questions": st.integers(1, 20),
                "max_passages": st.integers(1, 32),
            },
        )
    )
    def test_a_strategy_prints_as_the_expression_that_makes_it(self, options: dict[str, Any]) -> None:
        strategy = build_strategy([Stage("cove", options), Stage("direct")])
        assert strategy_from(str(strategy)) == strategy

    def test_objects_and_lists_mean_the_same_as_text(self) -> None:
        as_json = [{"name": "cove", "options": {"max_questions": 2}}, "direct"]
        assert read_strategy(as_json) == parse_expression("cove(max_questions=2)|direct")

    @pytest.mark.parametrize(
        "value", [3, [], {}, {"name": 1}, {"name": "cove", "max_questions": 1}, [["cove"]], None]
    )
    def test_other_json_is_refused(self, value: Any) -> None:
        with pytest.raises(InvalidRequest):
            read_strategy(value)


class TestRegistry:
    def test_an_unknown_strategy_gets_the_nearest_names(self) -> None:
        with pytest.raises(NotFound, match="Did you mean 'cove'"):
            strategy_from("cov")

    @pytest.mark.parametrize(
        ("expression", "words"),
        [
            ("cove(max_question=3)", "Did you mean 'max_questions'"),
            ("cove(max_questions=0)", "greater than or equal to 1"),
            ("cove(max_questions=99)", "less than or equal to 20"),
            ("cove(variant=foo)", "variant"),
            ("cove(max_questions=many)", "max_questions"),
        ],
    )
    def test_a_wrong_option_is_named(self, expression: str, words: str) -> None:
        with pytest.raises(InvalidRequest, match=words):
            strategy_from(expression)

    def test_every_strategy_says_what_it_costs_and_where_it_is_from(self) -> None:
        for name in strategy_names():
            cls = strategy_class(name)
            assert cls.name == name
            assert all((cls.paper, cls.calls, cls.depth, cls.__doc__))
            assert all("description" in repr(cls.__annotations__[option.name]) for option in fields(cls))

    def test_a_plugin_that_does_not_load_is_named_and_only_hurts_who_asks(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        offer(monkeypatch, broken="no_such_module_at_all:X")
        assert "broken" in strategy_names()
        assert str(strategy_from("cove")) == "cove"
        with pytest.raises(ConfigError, match="no_such_module_at_all"):
            strategy_from("broken")

    def test_a_plugin_may_not_take_our_name(self, monkeypatch: pytest.MonkeyPatch) -> None:
        offer(monkeypatch, cove="json:loads")
        assert "that name is taken" in registry.CATALOGUE.clashes["cove"]
        assert str(strategy_from("cove")) == "cove"
        assert registry.CATALOGUE.plugins == {}


def offer(monkeypatch: pytest.MonkeyPatch, **strategies: str) -> None:
    """Pretend that a distribution offers these strategies."""
    known = registry.CATALOGUE
    points = [EntryPoint(name, value, known.group) for name, value in strategies.items()]
    monkeypatch.setattr(plugins, "entry_points", lambda group: points)
    monkeypatch.setattr(registry, "CATALOGUE", plugins.Catalogue(known.group, known.what, known.ours))


class TestReply:
    def test_a_stream_adds_up_to_the_message(self) -> None:
        async def pieces() -> AsyncGenerator[Delta | Ending, None]:
            yield Delta({"role": "assistant", "content": ""})
            yield Delta({"content": "Hel"}, logprobs={"content": [1]})
            yield Delta({"content": "lo", "custom": {"a": 1}}, logprobs={"content": [2]})
            yield Delta(
                {"tool_calls": [{"index": 1, "id": "b", "function": {"name": "g", "arguments": "{"}}]}
            )
            yield Delta({"tool_calls": [{"index": 0, "id": "a", "function": {"name": "f", "arguments": ""}}]})
            yield Delta({"tool_calls": [{"index": 1, "function": {"arguments": "}"}}]})
            yield Delta({}, finish_reason="tool_calls")
            yield Ending(Usage(3, 4), {"system_fingerprint": "fp"})

        answer = asyncio.run(Reply(pieces()).read())
        assert answer.message["content"] == "Hello"
        assert answer.message["custom"] == {"a": 1}
        assert answer.message["tool_calls"] == [
            {"id": "a", "function": {"name": "f", "arguments": ""}},
            {"id": "b", "function": {"name": "g", "arguments": "{}"}},
        ]
        assert answer.logprobs == {"content": [1, 2]}
        assert (answer.finish_reason, answer.usage) == ("tool_calls", Usage(3, 4))
        assert answer.envelope == {"system_fingerprint": "fp"}

    def test_closing_a_reply_closes_its_source(self) -> None:
        closed = []

        async def endless() -> AsyncGenerator[Delta | Ending, None]:
            try:
                while True:
                    yield Delta({"content": "x"})
            finally:
                closed.append(True)

        async def main() -> None:
            reply = Reply(endless())
            async for _ in reply:
                break
            await reply.aclose()

        asyncio.run(main())
        assert closed == [True]

    def test_a_whole_message_keeps_its_exact_shape(self) -> None:
        message = {"role": "assistant", "content": None, "refusal": "no", "annotations": []}
        answer = asyncio.run(Reply.of(Answer(message, "content_filter")).read())
        assert answer.message == message
        assert answer.finish_reason == "content_filter"


class TestTypes:
    @pytest.mark.parametrize(
        ("content", "text"),
        [
            ("<think>a\nb</think>\n\nYes.", "Yes."),
            ("  <think>never ends", ""),
            ("a</think>Yes.", "Yes."),
            ("Say <think> aloud", "Say <think> aloud"),
            ([{"type": "text", "text": "a"}, {"type": "image_url"}, {"type": "text", "text": "b"}], "a\nb"),
            (None, ""),
        ],
    )
    def test_reasoning_is_not_visible(self, content: Any, text: str) -> None:
        assert visible(content) == text

    def test_a_prefilled_turn_is_completed_not_doubled(self) -> None:
        chat = Conversation(({"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Good "}))
        assert chat.answered("day.").messages[-1]["content"] == "Good day."
        assert len(chat.answered("day.").messages) == 2

    @pytest.mark.parametrize(
        "usage", [None, 3, [], {"prompt_tokens": "x"}, {"prompt_tokens": -1}, {"prompt_tokens": True}]
    )
    def test_malformed_usage_counts_as_nothing(self, usage: Any) -> None:
        assert Usage.from_wire(usage) == Usage()

    def test_usage_round_trips(self) -> None:
        usage = Usage(10, 5, 4, 2)
        assert Usage.from_wire(usage.to_wire()) == usage


class TestPassages:
    @given(
        st.text(alphabet=st.sampled_from("ab. !?\n\"'A1。é…)-"), max_size=200),
        st.integers(0, 5),
        st.integers(1, 9),
    )
    def test_nothing_is_lost(self, text: str, above: int, at_most: int) -> None:
        assert "".join(sentences(text)) == text
        found = passages(text, above=above, at_most=at_most)
        assert "".join(found) == text
        assert len(found) <= max(1, at_most)

    @pytest.mark.parametrize(
        ("text", "count"),
        [
            ("Dr. Smith met J. K. Rowling. They spoke.", 2),
            ("It cost 3.5 million. Nobody paid.", 2),
            ("- one\n- two\n\n- three", 3),
            ("東京は首都です。大阪は違います。", 2),
            ('He said "Yes." Then he left.', 2),
            ("no end", 1),
            ("1. Born in 1867.\n2. Won twice.", 2),
        ],
    )
    def test_sentences(self, text: str, count: int) -> None:
        assert len(sentences(text)) == count


class Shape(pydantic.BaseModel):
    label: str
    n: int = pydantic.Field(0, ge=0)


class TestParsing:
    @pytest.mark.parametrize(
        "text",
        [
            '{"label": "a", "n": 1}',
            'Sure:\n```json\n{"label": "a", "n": 1}\n```',
            'It is {"label": "a", "n": 1}, ok?',
        ],
    )
    def test_json_is_found_bare_fenced_or_in_a_sentence(self, text: str) -> None:
        assert parsed(text, Shape) == Shape(label="a", n=1)

    @pytest.mark.parametrize(
        "text", ["", "label: a", "{", '{"n": 1}', '{"label": "a", "n": -1}', "[" * 50_000, "null"]
    )
    def test_anything_else_is_a_fault_that_does_not_quote_the_text(self, text: str) -> None:
        with pytest.raises(ValueError) as fault:  # noqa: PT011 - its words are what is tested
            parsed(text, Shape)
        assert len(str(fault.value)) < 120

    def test_the_schema_is_strict_and_bounds_strings_only_where_that_is_known(self) -> None:
        class Bounded(pydantic.BaseModel):
            text: str = pydantic.Field("", max_length=9, description="prose", title="T")

        loose = response_format(Bounded)["json_schema"]["schema"]
        assert loose["properties"]["text"] == {"type": "string"}
        assert (loose["required"], loose["additionalProperties"]) == (["text"], False)
        assert (
            response_format(Bounded, lengths=True)["json_schema"]["schema"]["properties"]["text"]["maxLength"]
            == 9
        )

    def test_a_backend_that_refuses_schemas_is_asked_without_and_not_with_one_again(self) -> None:
        def answer(request: ChatRequest) -> str:
            if "response_format" in request.params:
                raise BackendRefused("no such parameter", status=400)
            return '{"label": "a"}'

        backend = ScriptedBackend(("", answer), repeat=True)
        llm = LLM(backend, "m", Budget(), Trace())

        async def main() -> None:
            for _ in range(2):
                assert (await llm.parse(Prompt("cove/check")(question="q"), Shape)).label == "a"

        asyncio.run(main())
        assert ["response_format" in request.params for request in backend.requests] == [True, False, False]

    def test_reasoning_that_eats_the_limit_is_given_room_once(self) -> None:
        def answer(request: ChatRequest) -> Any:
            if "max_tokens" in request.params:
                return {"role": "assistant", "content": "", "reasoning_content": "Hm."}
            return "Canberra."

        backend = ScriptedBackend(("q", answer), repeat=True, finish="length")
        llm = LLM(backend, "m", Budget(), Trace())
        assert asyncio.run(llm(Prompt("cove/check")(question="q"))) == "Canberra."
        assert ["max_tokens" in request.params for request in backend.requests] == [True, False]


class TestPrompts:
    def every(self) -> list[Prompt]:
        folder = files("veridical.strategies") / "prompts"
        return [
            Prompt(f"{method.name}/{file.name.removesuffix('.md')}")
            for method in folder.iterdir()
            for file in method.iterdir()
        ]

    def test_every_prompt_cites_its_source_first_and_never_shows_it(self) -> None:
        for prompt in self.every():
            first = prompt.source.splitlines()[0]
            assert re.fullmatch(r"\{# .*arXiv.* #\}", first), prompt.name
            text = prompt(**{name: [] if name.endswith("s") else "x" for name in prompt.variables})
            assert "arXiv" not in text.messages[0]["content"]

    def test_the_version_is_a_hash_of_the_wording(self) -> None:
        versions = {prompt.version for prompt in self.every()}
        assert len(versions) == len(self.every())
        assert all("@" in version for version in versions)

    @pytest.mark.parametrize("variables", [{}, {"question": "q", "other": 1}])
    def test_missing_and_unknown_variables_are_errors(self, variables: dict[str, Any]) -> None:
        with pytest.raises(TypeError, match="cove/check"):
            Prompt("cove/check")(**variables)


class TestBudget:
    @pytest.mark.parametrize(
        ("limits", "error"),
        [
            (Limits(max_calls=2), BudgetExceeded),
            (Limits(max_tokens=1), BudgetExceeded),
            (Limits(deadline_s=1e-9), DeadlineExceeded),
        ],
    )
    def test_running_out_raises(self, limits: Limits, error: type[VeridicalError]) -> None:
        plan = json.dumps({"checks": [{"fact": "a", "question": "b?"}]})
        backend = ScriptedBackend(("Who?", "A long enough draft."), ("write one question", plan), ("b?", "c"))
        with pytest.raises(error):
            asyncio.run(ask(strategy_from("cove"), "Who?", backend, limits=limits))

    @given(st.integers(1, 500), st.integers(1, 10**6), st.floats(0.1, 1000))
    def test_a_request_only_lowers(self, calls: int, tokens: int, seconds: float) -> None:
        server = Limits(128, 200_000, 300.0)
        asked = server.lowered(calls, tokens, seconds)
        assert asked.max_calls == min(128, calls)
        assert asked.max_tokens == min(200_000, tokens)
        assert asked.deadline_s == min(300.0, seconds)


class TestConcurrency:
    def test_a_failure_cancels_its_siblings_and_comes_out_plain(self) -> None:
        cancelled: list[int] = []

        async def work(item: int) -> int:
            if item == 1:
                await asyncio.sleep(0)
                raise KeyError("plain")
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                cancelled.append(item)
                raise
            return item

        with pytest.raises(KeyError, match="plain"):
            asyncio.run(concurrently(work, range(3)))
        assert sorted(cancelled) == [0, 2]

    def test_depth_is_the_longest_chain_not_the_number_of_calls(self) -> None:
        async def chained(length: int) -> None:
            for _ in range(length):
                chain.set(chain.get() + 1)
                await asyncio.sleep(0)

        async def main() -> int:
            chain.set(0)
            await concurrently(chained, [1, 3, 2])
            return chain.get()

        assert asyncio.run(main()) == 3


def test_a_pipe_lets_outer_work_on_what_inner_makes() -> None:
    backend = ScriptedBackend(
        ("Who?", "Draft."), ("write one question", '{"checks": []}'), ("write one question", '{"checks": []}')
    )
    pipe = strategy_from("cove|cove")
    assert isinstance(pipe, Pipe)
    outcome = asyncio.run(ask(pipe, "Who?", backend))
    assert outcome.text == "Draft."
    assert [call.step for call in outcome.trace.calls] == ["draft", "cove/plan", "cove/plan"]
    backend.assert_used_up()


def test_a_scripted_backend_fails_loudly() -> None:
    backend = ScriptedBackend(("never asked", "x"))
    with pytest.raises(AssertionError, match="no answer to"):
        asyncio.run(ask(strategy_from("direct"), "Something else", backend))
    with pytest.raises(AssertionError, match="never asked"):
        backend.assert_used_up()
