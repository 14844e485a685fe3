"""Pipes through the proxy: named ones, one budget, what each part cost, and what is shared."""

from __future__ import annotations

from typing import Any

import openai
import pytest

from veridical.middleware.assembly import Assembly
from veridical.middleware.config import Settings
from veridical.strategies.errors import ConfigError
from veridical.tests.answers import Exchange, Fail, Say
from veridical.tests.conftest import Serve
from veridical.tests.proxy import Proxy
from veridical.tests.upstream import CANBERRA, SYDNEY, Upstream

PIPELINES = {"careful": "cove(max_questions=2)|self_refine(max_rounds=1)", "agreed": "careful|cove"}
FULL = {"trace": "full"}


def refining(upstream: Upstream, final: str) -> None:
    """Script a review and a rewriting behind everything else."""
    review = Say('{"feedback": "Say more.", "done": false}')
    upstream.on(**{"self_refine/feedback": review, "self_refine/refine": Say(final)})


def settings(**pipelines: str) -> Settings:
    backends = {"up": {"type": "http", "base_url": "http://127.0.0.1:9/v1"}}
    return Settings.model_validate({"backends": backends, "pipelines": pipelines})


@pytest.mark.parametrize("how", ["suffix", "field", "default"])
def test_a_named_pipeline_is_asked_for_like_a_strategy(how: str, serve: Serve, upstream: Upstream) -> None:
    proxy = serve(pipelines=PIPELINES, default_strategy="careful" if how == "default" else "direct")
    upstream.cove("Sydney.", SYDNEY, final="Canberra.")
    refining(upstream, "It is Canberra.")
    if how == "suffix":
        answer = proxy.ask(model="m1+careful")
    elif how == "field":
        answer = proxy.ask(strategy="careful")
    else:
        answer = proxy.ask(veridical={"trace": "summary"})
    assert answer.choices[0].message.content == "It is Canberra."
    assert answer.veridical["strategy"] == "cove(max_questions=2)|self_refine(max_rounds=1)"


def test_pipelines_are_listed_with_every_model(serve: Serve) -> None:
    listed = {model.id for model in serve(pipelines=PIPELINES).client.models.list()}
    assert {f"{model}+{name}" for model in ("m1", "m2") for name in PIPELINES} <= listed
    named = serve(pipelines=PIPELINES, advertise=["careful", "cove(max_questions=5)"]).client.models.list()
    assert [model.id for model in named] == ["m1", "m1+careful", "m1+cove", "m2", "m2+careful", "m2+cove"]


def test_a_pipeline_stands_for_its_stages_in_a_pipe(serve: Serve, upstream: Upstream) -> None:
    proxy = serve(pipelines=PIPELINES)
    upstream.cove("Canberra.", CANBERRA)
    refining(upstream, "It is Canberra.")
    parts = proxy.ask(strategy="agreed").veridical["parts"]
    assert [part["strategy"] for part in parts] == [
        "cove(max_questions=2)", "self_refine(max_rounds=1)", "cove",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("strategy", "words"),
    [("careful(n=1)", "takes no options"), ("carefull", "Did you mean 'careful'")],
)
def test_a_wrong_use_of_a_pipeline_is_told(strategy: str, words: str, serve: Serve) -> None:
    with pytest.raises(openai.APIStatusError, match=words) as refused:
        serve(pipelines=PIPELINES).ask(strategy=strategy)
    assert refused.value.status_code in (400, 404)


@pytest.mark.parametrize(
    ("pipelines", "words"),
    [
        ({"careful": "cov|direct"}, "'careful': Unknown strategy 'cov'. Did you mean 'cove'"),
        ({"careful": "cove(max_question=1)"}, "'careful'.*no option 'max_question'"),
        ({"careful": "cove|"}, "'careful'.*cannot be read"),
        ({"cove": "direct"}, "'cove' has the name of a strategy"),
        ({"two words": "cove"}, "'two words': a name has"),
        ({"a": "cove|b", "b": "c", "c": "rag|a"}, "'a'.*names itself: a > b > c > a"),
        ({"a": "a"}, "'a'.*names itself"),
        ({"a": "|".join(["cove"] * 5), "b": "a|a"}, "'b'.*more than 8 stages"),
        ({"a": "rag|cove"}, "'a'.*no retrieval source 'default'"),
    ],
)
def test_a_pipeline_that_cannot_run_is_an_error_at_the_start(pipelines: dict[str, str], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        Assembly(settings(**pipelines))


def test_each_part_tells_what_it_cost(proxy: Proxy, upstream: Upstream) -> None:
    upstream.cove("Sydney.", SYDNEY, final="Canberra.")
    refining(upstream, "It is Canberra.")
    answer = proxy.ask(strategy="cove|self_refine(max_rounds=1)", veridical=FULL)
    trail = answer.veridical
    first, second = trail["parts"]
    assert (first["calls"], first["depth"], first["drafts"]) == (5, 5, 2)
    assert (second["calls"], second["depth"], second["drafts"]) == (2, 2, 0)
    assert (trail["calls"], trail["depth"]) == (7, 7)
    assert [step["part"] for step in trail["steps"]] == [0] * 5 + [1] * 2
    # The first part's answer is the second's draft.
    assert (trail["drafts"], trail["draft_parts"]) == (["Sydney.", "Canberra."], [0, 0])
    assert sum(part["usage"]["total_tokens"] for part in trail["parts"]) == answer.usage.total_tokens
    assert len(upstream.chats) == 7


def test_one_budget_covers_the_whole_pipe(proxy: Proxy, upstream: Upstream) -> None:
    upstream.cove("Sydney.", SYDNEY, final="Canberra.")
    refining(upstream, "It is Canberra.")
    answer = proxy.ask(strategy="cove|self_refine", veridical={"budget": {"max_calls": 6}})
    assert answer.choices[0].message.content == "Canberra."
    assert (answer.veridical["status"], answer.veridical["calls"]) == ("degraded", 6)
    assert len(upstream.chats) == 6


@pytest.mark.parametrize("stream", [False, True])
def test_what_a_later_part_asks_again_is_not_asked_again(
    stream: bool, proxy: Proxy, upstream: Upstream
) -> None:
    upstream.cove("Canberra.", CANBERRA)
    if stream:
        *_, last = proxy.ask(strategy="cove|cove", stream=True)
        trail = last.veridical
    else:
        trail = proxy.ask(strategy="cove|cove", veridical=FULL).veridical
        assert [step["shared"] for step in trail["steps"]] == [False] * 4 + [True] * 3
    assert (trail["calls"], trail["depth"], trail["shared_calls"]) == (4, 4, 3)
    assert [part["calls"] for part in trail["parts"]] == [4, 0]
    assert len(upstream.chats) == 4


def test_requests_share_nothing_with_one_another_nor_do_choices(proxy: Proxy, upstream: Upstream) -> None:
    upstream.cove("Canberra.", CANBERRA)
    proxy.ask(strategy="cove")
    answer = proxy.ask(strategy="cove", n=2)
    assert answer.veridical["calls"] == 8
    assert len(upstream.chats) == 4 + 8


def choices(*texts: str, usage: dict[str, int]) -> Say:
    found = [
        {"index": i, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
        for i, text in enumerate(texts)
    ]
    return Say("", extra={"choices": found, "usage": usage})


def test_n_draws_are_one_request_with_its_usage_counted_once(serve: Serve, upstream: Upstream) -> None:
    used = {"prompt_tokens": 20, "completion_tokens": 9, "total_tokens": 29}
    upstream.on(draft=choices("Sydney", "Canberra", "canberra.", usage=used))
    answer = serve().ask(model="m1+self_consistency(n=3)", temperature=0, veridical=FULL)
    (asked,) = upstream.chats
    assert (asked.body["n"], asked.body["temperature"]) == (3, 0.7)
    assert answer.choices[0].message.content == "Canberra"
    trail = answer.veridical
    assert (trail["calls"], trail["depth"], trail["confidence"]) == (1, 1, 0.6667)
    assert answer.usage.total_tokens == 29
    assert (trail["steps"][0]["output"], trail["steps"][0]["others"]) == ("Sydney", ["Canberra", "canberra."])


def test_a_backend_without_n_is_asked_for_single_draws(serve: Serve, upstream: Upstream) -> None:
    proxy = serve(backend={"n": False})
    upstream.on(draft=[Say("Sydney"), Say("Canberra"), Say("Canberra")])
    answer = proxy.ask(model="m1+self_consistency(n=3)", stream_options={"include_usage": True}, stream=True)
    chunks = list(answer)
    assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) == "Canberra"
    assert chunks[-1].usage.completion_tokens == 9
    assert ["n" in chat.body for chat in upstream.chats] == [False] * 3
    assert not any("stream_options" in chat.body for chat in upstream.chats)


def test_a_backend_that_ignores_or_refuses_n_is_asked_with_it_once(serve: Serve, upstream: Upstream) -> None:
    for first in (Say("Canberra"), Fail(400, "n is not supported")):
        proxy = serve()
        upstream.log.clear()
        upstream.on(draft=[first, Say("Canberra")])
        for _ in range(2):
            assert proxy.ask(model="m1+self_consistency(n=3)").veridical["confidence"] == 1.0
        assert ["n" in chat.body for chat in upstream.chats].count(True) == 1


def test_llama_cpps_count_of_one_choice_is_not_taken_for_all(serve: Serve, upstream: Upstream) -> None:
    used = {"prompt_tokens": 20, "completion_tokens": 3, "total_tokens": 23}
    several = choices("Canberra", "Canberra", usage=used)

    class LlamaCpp(Say):
        async def give(self, exchange: Exchange, out: Any) -> None:
            await out.whole(200, _json(several, exchange), headers={"Server": "llama.cpp"})

    upstream.on(draft=[LlamaCpp(), Say("Canberra")])
    proxy = serve(backend={"models": ["m1"]})
    answer = proxy.ask(model="m1+self_consistency(n=2)")
    assert answer.usage.total_tokens == 0
    assert "reported no usage" in answer.veridical["notes"][0]
    proxy.ask(model="m1+self_consistency(n=2)")
    assert ["n" in chat.body for chat in upstream.chats] == [True, False, False]


def _json(say: Say, exchange: Exchange) -> bytes:
    import json

    return json.dumps(say.completion(exchange.body)).encode()


@pytest.mark.parametrize(
    "told",
    [
        {
            "usage": {
                "prompt_tokens": 9,
                "completion_tokens": 1,
                "prompt_tokens_details": {"cached_tokens": 6},
            }
        },
        {"usage": {"prompt_tokens": 9, "completion_tokens": 1}, "timings": {"cache_n": 6, "prompt_n": 3}},
    ],
)
def test_cached_prompt_tokens_are_reported(told: dict[str, Any], proxy: Proxy, upstream: Upstream) -> None:
    upstream.on(draft=Say("Canberra", extra=told))
    answer = proxy.ask(veridical={"trace": "summary"})
    assert answer.usage.prompt_tokens_details.cached_tokens == 6
    assert answer.veridical["usage_by_step"]["draft"]["cached_tokens"] == 6
