"""Roles: which model answers which call, through a real proxy, and what a wrong role is told."""

import asyncio
import json
from importlib.metadata import EntryPoint
from types import SimpleNamespace

import aiohttp
import pytest

from veridical.middleware.config import Settings
from veridical.server import check_roles, create_app
from veridical.strategies import plugins, registry
from veridical.strategies.direct import Direct
from veridical.strategies.errors import ConfigError
from veridical.tests.answers import Exchange, Say
from veridical.tests.upstream import SYDNEY

WRONG, RIGHT = "The capital of Australia is Sydney.", "The capital of Australia is Canberra."


EXAMINATION = {
    "draft": Say(WRONG),
    "lm_vs_lm/claims": Say(json.dumps({"claims": [WRONG]})),
    "lm_vs_lm/setup": Say('{"questions": ["Where does its parliament sit?"]}'),
    "lm_vs_lm/answer": Say("In Canberra."),
    "lm_vs_lm/follow_up": Say('{"questions": []}'),
    "lm_vs_lm/decide": Say('{"conclusion": "It sits in Canberra.", "ruling": "incorrect"}'),
    "lm_vs_lm/revise": Say(RIGHT),
}


def models_by_step(answer) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for step in answer.to_dict()["veridical"]["steps"]:
        found.setdefault(step["step"], set()).add(step["model"])
    return found


def test_examiner_and_generator_of_lm_vs_lm(serve, upstream):
    upstream.models = ["m1", "m2", "m3"]
    upstream.on(**EXAMINATION)
    proxy = serve(roles={"examiner": "m2", "generator": "m3"})
    answer = proxy.ask(model="m1+lm_vs_lm(on_reject=revise)", veridical={"trace": "full"})
    assert answer.choices[0].message.content == RIGHT
    assert answer.model == "m1+lm_vs_lm(on_reject=revise)"
    assert models_by_step(answer) == {
        "draft": {"m3"},
        "lm_vs_lm/claims": {"m3"},
        "lm_vs_lm/setup": {"m2"},
        "lm_vs_lm/answer": {"m3"},
        "lm_vs_lm/follow_up": {"m2"},
        "lm_vs_lm/decide": {"m2"},
        "lm_vs_lm/revise": {"m3"},
    }
    assert sorted({exchange.body["model"] for exchange in upstream.chats}) == ["m2", "m3"]
    assert answer.veridical["roles"] == {"examiner": "m2", "generator": "m3"}
    assert answer.veridical["claims"][0].items() >= {"verdict": "refuted", "confidence": 1.0}.items()


def test_generator_and_verifier_of_cove(serve, upstream):
    upstream.models = ["m1", "m2", "m3"]
    upstream.cove(WRONG, SYDNEY, final=RIGHT)
    serve(roles={"generator": "m3", "verifier": "m2", "examiner": "m1"}).ask(model="m1+cove")
    models = {exchange.step: exchange.body["model"] for exchange in upstream.chats}
    assert models == {"draft": "m3", "plan": "m3", "check": "m2", "cross_check": "m2", "revise": "m3"}


def test_agents_and_judge_of_a_debate(serve, upstream):
    upstream.models = ["m1", "m2", "m3", "m4"]

    def named(exchange: Exchange) -> Say:
        return Say(exchange.body["model"])

    judged = Say('{"reason": "", "best": 2}')
    upstream.on(**{"draft": named, "debate/update": named, "debate/judge": judged})
    proxy = serve(roles={"agent1": "m2", "agent3": "m3", "judge": "m4", "agent4": "m4"})
    answer = proxy.ask(model="m1+debate(decide=judge)", veridical={"trace": "full"})
    assert answer.choices[0].message.content == "m1"
    assert models_by_step(answer) == {
        "draft": {"m1", "m2", "m3"}, "debate/update": {"m1", "m2", "m3"}, "debate/judge": {"m4"},
    }  # fmt: skip


def test_direct_asks_the_model_that_was_named(serve, upstream):
    upstream.on(draft=Say("hi"))
    proxy = serve(roles={"generator": "m2"})
    assert proxy.chat().status == proxy.chat(veridical={"trace": "full"}).status == 200
    assert [exchange.body["model"] for exchange in upstream.chats] == ["m1", "m1"]


def test_the_backend_named_in_the_headers_is_the_generators(serve, upstream):
    upstream.on(**EXAMINATION)
    one = {"type": "http", "base_url": upstream.url, "models": ["m1"]}
    two = {"type": "http", "base_url": upstream.url, "models": {"big": "m2"}}
    proxy = serve(backends={"one": one, "two": two}, roles={"generator": "two/big"})
    for stream in (False, True):
        response = proxy.chat(model="m1+lm_vs_lm(examinations=1)", stream=stream)
        assert (response.status, response.headers["x-veridical-backend"]) == (200, "two")
    assert {exchange.body["model"] for exchange in upstream.chats} == {"m2"}


def settings(upstream, **roles: str) -> Settings:
    backends = {"up": {"type": "http", "base_url": upstream.url}}
    return Settings.model_validate({"backends": backends, "roles": roles})


def test_a_role_that_no_strategy_has_is_refused_when_the_app_is_built(upstream):
    with pytest.raises(ConfigError, match=r"role 'examinor'.*'examiner'"):
        create_app(settings(upstream, examinor="m1"))
    create_app(settings(upstream, generator="m1", verifier="m1", examiner="m1", critic="m1", judge="m1"))


def test_a_plugins_roles_can_be_configured_and_a_broken_plugin_hides_none(monkeypatch):
    class Taught(Direct):
        name = "taught"
        roles = frozenset({"teacher"})

    known = registry.CATALOGUE
    broken = EntryPoint("broken", "no_such_module_at_all:X", known.group)
    taught = SimpleNamespace(name="taught", dist=None, value="taught", load=lambda: Taught)
    monkeypatch.setattr(plugins, "entry_points", lambda group: [broken, taught])
    monkeypatch.setattr(registry, "CATALOGUE", plugins.Catalogue(known.group, known.what, known.ours))
    registry.check_role_names(["verifier", "teacher"])
    with pytest.raises(ConfigError, match=r"'teachr'.*'teacher'"):
        registry.check_role_names(["teachr"])


@pytest.mark.parametrize(
    ("model", "words"), [("m11", r"'examiner'.*'m1'"), ("m1+cove", "takes a model alone"), ("up/no", "'up")]
)
def test_a_role_of_an_unknown_model_is_found_at_the_start(upstream, model, words):
    with pytest.raises(ConfigError, match=words):
        asyncio.run(check_roles(settings(upstream, verifier="m2", examiner=model)))


def test_a_model_list_that_cannot_be_read_at_the_start_is_read_later(serve, upstream, caplog):
    upstream.keys = {"Bearer sk-a": ["m1", "m2"]}
    asyncio.run(check_roles(settings(upstream, examiner="m2")))
    assert "'examiner' could not be looked up" in caplog.text
    upstream.on(**EXAMINATION)
    response = serve(roles={"examiner": "m2"}).chat(
        model="m1+lm_vs_lm", headers={"Authorization": "Bearer sk-a"}
    )
    assert response.status == 200
    assert {exchange.body["model"] for exchange in upstream.chats} == {"m1", "m2"}


@pytest.mark.parametrize("stream", [False, True])
def test_an_abstention_on_the_wire(proxy, upstream, stream):
    upstream.on(**EXAMINATION)
    response = proxy.chat(model="m1+lm_vs_lm(on_reject=abstain)", stream=stream)
    if stream:
        *chunks, last, done = response.events
        assert done == "[DONE]"
        text = "".join(c["choices"][0]["delta"].get("content") or "" for c in chunks)
    else:
        last = response.json
        text = last["choices"][0]["message"]["content"]
    assert text == "I do not have a reliable answer to this."
    assert last["veridical"]["status"] == "abstained"
    assert last["veridical"]["claims"][0]["text"] == WRONG


@pytest.mark.parametrize("stream", [False, True])
def test_an_abstention_from_structured_output_is_the_sdks_refusal(proxy, upstream, stream):
    upstream.on(**EXAMINATION)
    answer = proxy.ask(
        model="m1+lm_vs_lm(on_reject=abstain)", stream=stream, response_format={"type": "json_object"}
    )
    if stream:
        deltas = [chunk.choices[0].delta for chunk in answer if chunk.choices]
        assert "".join(delta.refusal or "" for delta in deltas).startswith("I do not have")
        assert not any(delta.content for delta in deltas)
    else:
        assert answer.choices[0].message.refusal.startswith("I do not have")
        assert answer.choices[0].message.content is None


@pytest.mark.timeout(600)
def test_64_concurrent_examinations_make_not_a_call_more_than_the_formula(serve, upstream):
    # On a busy machine this takes long; no limit of ours may then set off a second try.
    proxy = serve(backend={"connect_timeout_s": 300}, budget={"deadline_s": 500})

    async def main() -> list[dict]:
        body = {"model": "m1+lm_vs_lm(examinations=3)", "messages": [{"role": "user", "content": "Capital?"}]}
        timeout = aiohttp.ClientTimeout(total=None)
        connector = aiohttp.TCPConnector(limit=0)
        async with aiohttp.ClientSession(connector=connector, timeout=timeout) as session:

            async def one() -> dict:
                async with session.post(f"{proxy.url}/chat/completions", json=body) as response:
                    assert response.status == 200
                    return await response.json()

            return await asyncio.gather(*(one() for _ in range(64)))

    upstream.on(**EXAMINATION)
    found = asyncio.run(main())
    formula = 2 + 1 * 3 * (3 + 2 * 0 + 1)
    assert {answer["veridical"]["calls"] for answer in found} == {formula}
    assert {answer["veridical"]["depth"] for answer in found} == {2 + 4}
    assert len(upstream.chats) == 64 * formula
