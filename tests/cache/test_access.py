"""Whose answers are whose, and what a key pays for one that was not asked for again."""

from contextlib import contextmanager

import pytest

from veridical.tests.access.conftest import bearer, create, guarded, state  # noqa: F401 - fixtures
from veridical.tests.answers import Say
from veridical.tests.proxy import wait_until
from veridical.tests.upstream import CANBERRA, SYDNEY

MEMORY = {"kind": "memory"}


def test_clients_who_bring_their_own_key_to_the_backend_share_nothing(cached, caches, upstream):
    proxy = cached()
    upstream.on(draft=lambda exchange: Say(f"for {exchange.headers['authorization']}"))
    for trace in ("none", "summary"):
        for name in ("alice", "bob", "alice", "bob"):
            answer = proxy.chat(temperature=0, headers=bearer(name), veridical={"trace": trace})
            assert answer.json["choices"][0]["message"]["content"] == f"for Bearer {name}"
        wait_until(lambda: caches[0].counts.stores == 2)
    assert len(upstream.chats) == 2


@pytest.mark.parametrize("header", ["OpenAI-Organization", "OpenAI-Project", "X-Tenant", "Api-Key"])
def test_a_header_that_a_backend_may_heed_tells_answers_apart(cached, upstream, header):
    proxy = cached()
    upstream.on(draft=Say("hi"))
    for value in ("a", "b"):
        assert proxy.chat(temperature=0, headers={header: value}).headers["x-veridical-cache"] == "miss"
    told = {
        header: "a",
        "User-Agent": "curl",
        "X-My-Request-Id": "7",
        "X-Stainless-Retry-Count": "1",
        "Traceparent": "00-1-1-01",
    }
    assert proxy.chat(temperature=0, headers=told).headers["x-veridical-cache"] == "hit"


def test_where_the_proxy_has_the_backends_key_answers_are_shared(cached, upstream, monkeypatch):
    monkeypatch.setenv("UP_KEY", "sk-ours")
    proxy = cached(backend={"api_key_env": "UP_KEY"})
    upstream.on(draft=Say("hi"))
    found = [proxy.chat(temperature=0, headers=bearer(name)) for name in ("alice", "bob")]
    assert [each.headers["x-veridical-cache"] for each in found] == ["miss", "hit"]


@contextmanager
def spending(proxy, key):
    """What a key spends inside the block."""
    found = {}
    before = proxy.request("GET", "/v1/usage", headers=bearer(key)).json["total"]
    yield found
    after = proxy.request("GET", "/v1/usage", headers=bearer(key)).json["total"]
    found |= {name: after[name] - before[name] for name in after}


def test_a_key_pays_nothing_for_what_the_cache_answers(guarded, create, upstream):  # noqa: F811
    proxy = guarded(cache=MEMORY)
    upstream.cove("Sydney is it.", SYDNEY, CANBERRA, final="Canberra is it.")
    alice, bob = create(name="alice"), create(name="bob")
    for strategy in ("direct", "cove"):
        for stream in (False, True):
            body = {"temperature": 0, "strategy": strategy, "stream": stream, "max_tokens": 50 + stream}
            with spending(proxy, alice) as first:
                proxy.chat(**body, headers=bearer(alice))
            with spending(proxy, bob) as second:
                proxy.chat(**body, headers=bearer(bob))
            assert first["calls"] >= 1
            assert first["total_tokens"] >= 8
            assert (second["requests"], second["calls"], second["total_tokens"]) == (1, 0, 0)


def test_what_a_hit_held_is_given_back(guarded, create, upstream):  # noqa: F811
    proxy = guarded(cache=MEMORY)
    upstream.on(draft=Say("hi"))
    key = create(tokens_per_minute=60_000, tokens_per_month=100_000)
    for _ in range(3):
        answer = proxy.chat(temperature=0, max_tokens=15_000, headers=bearer(key))
        assert answer.status == 200
    assert answer.headers["x-veridical-cache"] == "hit"
    assert int(answer.headers["x-ratelimit-remaining-tokens"]) > 44_000


def test_a_key_gets_no_answer_of_a_model_or_strategy_that_it_may_not_use(guarded, create, upstream):  # noqa: F811
    proxy = guarded(cache=MEMORY)
    upstream.cove("Sydney is it.", SYDNEY, CANBERRA, final="Canberra is it.")
    anything, little = create(name="all"), create(name="little", model=["m2"], strategy=["direct"])
    for strategy in ("direct", "cove"):
        assert proxy.chat(temperature=0, strategy=strategy, headers=bearer(anything)).status == 200
    assert proxy.chat(temperature=0, headers=bearer(little)).status == 404
    upstream.on(draft=Say("for m2"))
    assert b"for m2" in proxy.chat(temperature=0, model="m2", headers=bearer(little)).raw
    refused = proxy.chat(temperature=0, model="m2", strategy="cove", headers=bearer(little))
    assert (refused.status, refused.error["code"]) == (403, "not_allowed")
