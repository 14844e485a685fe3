"""Through the real proxy: what is answered from the cache, what is not, and what a client is told of it."""

import json
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from veridical.tests.answers import Cut, Fail, Held, Pieces, Say, Whole, sse
from veridical.tests.proxy import wait_until
from veridical.tests.upstream import CANBERRA, SYDNEY

DRAFT = "The capital of Australia is Sydney."


def cove(upstream):
    upstream.cove(DRAFT, SYDNEY, CANBERRA, final="The capital of Australia is Canberra.")


def test_a_second_answer_costs_no_call_and_says_so(cached, kind, upstream):
    proxy = cached(kind)
    cove(upstream)
    first = proxy.ask(model="m1+cove", temperature=0)
    asked = len(upstream.chats)
    second = proxy.ask(model="m1+cove", temperature=0)
    assert len(upstream.chats) == asked == first.veridical["calls"]
    assert second.choices[0].message.content == first.choices[0].message.content
    assert first.veridical["cache"] == {"hits": 0, "misses": asked, "saved_tokens": 0}
    saved = first.usage.total_tokens
    assert second.veridical["cache"] == {"hits": asked, "misses": 0, "saved_tokens": saved}
    assert second.usage == first.usage
    assert second.veridical["claims"] == first.veridical["claims"]


def test_a_stream_is_given_back_delta_by_delta(cached, kind, upstream):
    proxy = cached(kind)
    cove(upstream)

    def streamed():
        stream = proxy.ask(model="m1+cove", temperature=0, stream=True)
        return list(stream)

    first = streamed()
    asked = len(upstream.chats)
    second = streamed()
    assert len(upstream.chats) == asked

    def words(chunks):
        return [c.choices[0].delta.content for c in chunks if c.choices and c.choices[0].delta.content]

    assert words(second) == words(first)
    assert len(words(second)) > 1
    assert second[-1].veridical["cache"]["misses"] == 0


@pytest.mark.parametrize("stream", [False, True])
def test_a_relayed_answer_comes_back_byte_for_byte(cached, kind, upstream, stream):
    proxy = cached(kind)
    odd = '{"id" : "x",\n "choices":[ {"index":0,"message":{"content":"caf\\u00e9 é"}} ], "a": 1.50}'.encode()
    upstream.on(draft=Say("Žluťoučký kůň", cut=4) if stream else Whole(odd))
    first = proxy.chat(temperature=0, stream=stream)
    second = proxy.chat(temperature=0, stream=stream)
    assert first.raw == second.raw
    assert stream or first.raw == odd
    assert [each.headers["x-veridical-cache"] for each in (first, second)] == ["miss", "hit"]
    assert first.headers["content-type"] == second.headers["content-type"]
    assert second.headers["x-veridical-backend"] == "up"
    assert first.headers["x-veridical-id"] != second.headers["x-veridical-id"]
    assert int(second.headers.get("age", 0)) < 60  # none where it joined the first before that was stored
    assert len(upstream.chats) == 1


def test_the_sdk_reads_a_cached_stream(cached, upstream):
    proxy = cached()
    upstream.on(draft=Say("Žluťoučký kůň", cut=4))
    for _ in range(2):
        chunks = list(proxy.ask(stream=True, temperature=0, stream_options={"include_usage": True}))
        assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) == "Žluťoučký kůň"
        assert chunks[-1].usage.total_tokens == 10
    assert len(upstream.chats) == 1


def test_a_strategy_drafts_with_what_direct_has_answered(cached, caches, upstream):
    proxy = cached()
    cove(upstream)
    proxy.ask(temperature=0)
    wait_until(lambda: caches[0].counts.stores == 1)
    answer = proxy.ask(model="m1+cove", temperature=0)
    assert len(upstream.asked("draft")) == 1
    assert answer.veridical["cache"]["hits"] == 1
    assert answer.veridical["calls"] == len(upstream.chats)


def test_another_option_costs_only_the_calls_that_it_changes(cached, upstream):
    proxy = cached()
    cove(upstream)
    proxy.ask(model="m1+cove", temperature=0)
    asked = {step: len(upstream.asked(step)) for step in ("draft", "plan", "check")}
    proxy.ask(temperature=0, strategy="cove(variant=joint)")
    assert {step: len(upstream.asked(step)) for step in ("draft", "plan", "check")} == asked
    assert upstream.asked("joint")


@pytest.mark.parametrize(
    ("fields", "kept"),
    [
        ({}, False),
        ({"temperature": None}, False),
        ({"temperature": 0}, True),
        ({"temperature": 0.0}, True),
        ({"temperature": 0.1}, False),
        ({"temperature": False}, False),
        ({"temperature": 1, "seed": 0}, True),
        ({"temperature": 1, "seed": None}, False),
        ({"temperature": 0, "store": True}, False),
        ({"veridical": {"cache": {"sampled": True}}}, True),
        ({"temperature": 1, "veridical": {"cache": {"sampled": True}}}, True),
        ({"temperature": 0, "veridical": {"cache": {"sampled": False}}}, True),
    ],
)
@pytest.mark.parametrize("trace", ["none", "summary"])
def test_only_what_asks_for_the_same_answer_is_kept_unless_told(cached, upstream, fields, kept, trace):
    proxy = cached()
    upstream.on(draft=[Say("one"), Say("two")])
    body = {**fields, "veridical": {**fields.get("veridical", {}), "trace": trace}}
    said = [proxy.chat(**body).json["choices"][0]["message"]["content"] for _ in range(2)]
    assert said == (["one", "one"] if kept else ["one", "two"])


def test_the_server_may_keep_draws_and_a_request_may_not_want_it(cached, upstream):
    proxy = cached({"sampled": True})
    upstream.on(draft=[Say("one"), Say("two")])
    assert [proxy.ask().choices[0].message.content for _ in range(2)] == ["one", "one"]
    fresh = proxy.ask(veridical={"cache": {"sampled": False}})
    assert fresh.choices[0].message.content == "two"


def test_draws_are_told_apart_by_their_number(cached, upstream):
    proxy = cached()
    upstream.on(draft=[Say("one"), Say("two"), Say("three")])

    def draw(sample):
        cache = {"sampled": True, "sample": sample}
        return proxy.ask(temperature=1, veridical={"cache": cache}).choices[0].message.content

    assert [draw(sample) for sample in (0, 1, 0, 1, 2)] == ["one", "two", "one", "two", "three"]


def test_draws_of_one_strategy_stay_independent(cached, upstream):
    proxy = cached({"sampled": True}, backend={"n": False})
    upstream.on(draft=[Say("A"), Say("B"), Say("B"), Say("never asked for")])
    first = proxy.ask(model="m1+self_consistency(n=3)", temperature=1)
    second = proxy.ask(model="m1+self_consistency(n=3)", temperature=1)
    assert len(upstream.asked("draft")) == 3
    assert (first.choices[0].message.content, second.choices[0].message.content) == ("B", "B")
    assert second.veridical["cache"] == {"hits": 3, "misses": 0, "saved_tokens": 30}


@pytest.mark.parametrize(
    "change",
    [
        {"model": "m2"},
        {"messages": [{"role": "user", "content": "hello!"}]},
        {"max_tokens": 5},
        {"seed": 1},
        {"n": 2},
        {"stream": True},
        {"novel": {"field": 1}},
        {"response_format": {"type": "json_object"}},
    ],
)
def test_any_difference_is_another_answer(cached, upstream, change):
    proxy = cached()
    upstream.on(draft=Say("hi"))
    proxy.chat(temperature=0)
    assert proxy.chat(**{"temperature": 0, **change}).headers["x-veridical-cache"] == "miss"
    assert len(upstream.chats) == 2


@pytest.mark.parametrize("kind", ["disk", "redis"], indirect=True)  # what outlives its proxy
def test_other_settings_of_a_backend_are_another_backend(cached, caches, kind, upstream):
    upstream.on(draft=Say("hi"))
    assert cached(kind).chat(temperature=0).headers["x-veridical-cache"] == "miss"
    wait_until(lambda: caches[0].counts.stores == 1)
    assert cached(kind).chat(temperature=0).headers["x-veridical-cache"] == "hit"
    other = cached(kind, backend={"models": {"m1": "m2"}})
    assert other.chat(temperature=0).headers["x-veridical-cache"] == "miss"


def test_no_store_neither_looks_nor_keeps(cached, upstream):
    proxy = cached()
    upstream.on(draft=[Say("one"), Say("two"), Say("three")])
    secret = {"Cache-Control": "no-store"}
    assert "x-veridical-cache" not in proxy.chat(temperature=0, headers=secret).headers
    assert b"two" in proxy.chat(temperature=0).raw
    assert b"three" in proxy.chat(temperature=0, headers={"cache-control": "max-age=5, NO-STORE"}).raw
    whole = proxy.chat(temperature=0, headers=secret, veridical={"trace": "summary"})
    assert "cache" not in whole.json["veridical"]


@pytest.mark.parametrize("trace", ["none", "summary"])
@pytest.mark.parametrize("header", ["no-cache", "max-age=0"])
def test_no_cache_asks_anew_and_keeps_what_comes(cached, caches, upstream, header, trace):
    proxy = cached()
    upstream.on(draft=[Say("one"), Say("two"), Say("three")])

    def said(stores, **headers):
        found = proxy.chat(temperature=0, headers=headers, veridical={"trace": trace})
        wait_until(lambda: caches[0].counts.stores == stores)
        return found.json["choices"][0]["message"]["content"]

    anew = {"Cache-Control": header}
    assert [said(1), said(1), said(2, **anew), said(2)] == ["one", "one", "two", "two"]


def test_an_answer_lives_as_long_as_it_is_told(cached, kind, upstream):
    proxy = cached({**kind, "ttl_s": 0.3})
    upstream.on(draft=Say("hi"))
    assert proxy.chat(temperature=0).headers["x-veridical-cache"] == "miss"
    assert proxy.chat(temperature=0).headers["x-veridical-cache"] == "hit"
    wait_until(lambda: proxy.chat(temperature=0).headers["x-veridical-cache"] == "miss")


ERROR_IN_200 = Whole(b'{"error": {"message": "out of memory"}}')
ERROR_IN_STREAM = Pieces([sse({"error": {"message": "out of memory"}}), b"data: [DONE]\n\n"])
HALF = sse({"choices": [{"index": 0, "delta": {"content": "half"}}]})


@pytest.mark.parametrize("trace", ["none", "summary"])
@pytest.mark.parametrize(
    ("fault", "stream"),
    [
        (Fail(500), False),
        (Fail(429), True),
        (Fail(400), False),
        (ERROR_IN_200, False),
        (Whole(b'{"choices": [', length=500), False),
        (ERROR_IN_STREAM, True),
        (Pieces([HALF, Cut()]), True),
        (Pieces([HALF]), True),
    ],
)
def test_errors_and_halves_are_not_kept(cached, upstream, fault, stream, trace):
    proxy = cached()
    upstream.on(draft=[fault, Say("sound")])
    proxy.chat(temperature=0, stream=stream, veridical={"trace": trace})
    second = proxy.chat(temperature=0, stream=stream, veridical={"trace": trace})
    assert second.status == 200
    assert b"sound" in second.raw
    assert len(upstream.chats) == 2


def test_a_degraded_answer_is_not_kept_but_the_sound_calls_in_it_are(cached, upstream):
    proxy = cached()
    cove(upstream)
    sound = upstream.script["plan"]
    upstream.on(plan=Fail(400))
    degraded = proxy.ask(model="m1+cove", temperature=0)
    assert degraded.veridical["status"] == "degraded"
    upstream.on(plan=sound)
    whole = proxy.ask(model="m1+cove", temperature=0)
    assert whole.veridical["status"] == "verified"
    assert whole.veridical["cache"]["hits"] == 1
    assert len(upstream.asked("draft")) == 1


def test_what_the_cache_answers_takes_nothing_from_a_budget(cached, upstream):
    proxy = cached()
    cove(upstream)
    full = proxy.ask(model="m1+cove", temperature=0)
    narrow = {"budget": {"max_calls": 2}, "on_limit": "error"}  # two checks run at once
    again = proxy.ask(model="m1+cove", temperature=0, veridical=narrow)
    assert again.veridical["calls"] == full.veridical["calls"] > 2
    tokens = {"budget": {"max_tokens": 1}, "on_limit": "error"}
    assert proxy.ask(model="m1+cove", temperature=0, veridical=tokens).usage == full.usage


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("trace", ["none", "summary"])
def test_equal_requests_at_once_are_one_call(cached, upstream, stream, trace):
    proxy = cached()
    release = threading.Event()
    upstream.on(draft=Held(Say("hi"), release))
    with ThreadPoolExecutor(6) as pool:
        body = {"temperature": 0, "stream": stream, "veridical": {"trace": trace}}
        asked = [pool.submit(proxy.chat, **body) for _ in range(6)]
        wait_until(lambda: len(upstream.chats) == 1)
        release.set()
        answers = [each.result() for each in asked]
    assert len(upstream.chats) == 1
    assert {each.status for each in answers} == {200}
    assert all(b"hi" in each.raw for each in answers)
    if trace == "none":
        assert sorted(each.headers["x-veridical-cache"] for each in answers) == ["hit"] * 5 + ["miss"]


@pytest.mark.parametrize("trace", ["none", "summary"])
def test_one_who_leaves_takes_nobody_with_them(cached, caches, upstream, trace):
    proxy = cached()
    release = threading.Event()
    upstream.on(draft=Held(Say("hi"), release))
    body = {"temperature": 0, "veridical": {"trace": trace}}
    with ThreadPoolExecutor(1) as pool:
        with proxy.open(**body):
            wait_until(lambda: len(upstream.chats) == 1)
            other = pool.submit(proxy.chat, **body)
            wait_until(lambda: joined(caches) == 2)
        wait_until(lambda: joined(caches) == 1)
        release.set()
        assert b"hi" in other.result().raw
    assert len(upstream.chats) == 1


def joined(caches):
    """How many read along with the one flight that there is."""
    (cache,) = caches
    flights = [*cache.calls._flying.values(), *cache.relays._flying.values()]
    return sum(flight._aboard for flight in flights)


def test_the_last_who_leaves_ends_the_backends_work(cached, upstream):
    proxy = cached()
    upstream.on(draft=Held(Say("hi"), threading.Event()))
    with proxy.open(temperature=0):
        wait_until(lambda: len(upstream.chats) == 1)
    assert upstream.chats[0].gone.wait(3)


@pytest.mark.parametrize("trace", ["none", "summary"])
def test_a_failure_is_its_askers_own_and_one_of_the_others_takes_over(cached, caches, upstream, trace):
    proxy = cached()
    release = threading.Event()
    upstream.on(draft=[Held(Fail(400), release), Say("hi")])
    with ThreadPoolExecutor(4) as pool:
        body = {"temperature": 0, "veridical": {"trace": trace}}
        asked = [pool.submit(proxy.chat, **body) for _ in range(4)]
        wait_until(lambda: joined(caches) == 4)
        release.set()
        statuses = sorted(each.result().status for each in asked)
    assert statuses == [200, 200, 200, 400]
    assert len(upstream.chats) == 2


def test_without_a_cache_nothing_tells_of_one(proxy, upstream):
    upstream.on(draft=[Say("one"), Say("two")])
    answers = [proxy.chat(temperature=0) for _ in range(2)]
    assert [json.loads(each.raw)["choices"][0]["message"]["content"] for each in answers] == ["one", "two"]
    assert all("x-veridical-cache" not in each.headers for each in answers)
    told = proxy.chat(temperature=0, veridical={"trace": "full"}).json["veridical"]
    assert "cache" not in told
    assert "cached" not in told["steps"][0]


def test_a_field_of_ours_that_is_wrong_is_named(cached):
    error = cached().chat(veridical={"cache": {"sampels": True}}).error
    assert error["param"] == "veridical.cache.sampels"
    assert "sampled" in error["message"]


def test_responses_use_the_same_calls(cached, upstream):
    proxy = cached(backend={"responses": False})
    cove(upstream)
    said = [
        proxy.client.responses.create(model="m1+cove", input="Capital?", temperature=0).output_text
        for _ in range(2)
    ]
    assert said[0] == said[1]
    assert len(upstream.asked("draft")) == 1
