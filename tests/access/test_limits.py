"""Limits per minute and budgets per month on a real proxy: direct, streamed and with a strategy."""

import asyncio
import re
import sqlite3
import threading
from datetime import UTC, datetime

import openai
import pytest

from veridical.tests.access.conftest import bearer, id_of
from veridical.tests.answers import Fail, Held, Pieces, Say, sse
from veridical.tests.proxy import wait_until
from veridical.tests.upstream import SYDNEY, Fact

WRONG, RIGHT = "The capital of Australia is Sydney.", "The capital of Australia is Canberra."
ASKED = [{"role": "user", "content": "hello"}]


def at_once(proxy, key, upstream, answer, *, count, passing, **fields):
    """Many requests at once by the SDK, of which `passing` should be let in: these are answered when all
    others have been refused. Returns how many were answered, and the refusals."""
    release = threading.Event()
    upstream.on(draft=Held(answer, release))

    async def run():
        async with openai.AsyncOpenAI(base_url=proxy.url, api_key=key, max_retries=0, timeout=60) as client:
            chats = client.chat.completions
            calls = [
                asyncio.ensure_future(chats.create(model="m1", messages=ASKED, **fields))
                for _ in range(count)
            ]
            while sum(call.done() for call in calls) < count - passing:
                await asyncio.wait(
                    [call for call in calls if not call.done()], return_when=asyncio.FIRST_COMPLETED
                )
            release.set()
            return await asyncio.gather(*calls, return_exceptions=True)

    found = asyncio.run(run())
    refused = [each for each in found if isinstance(each, openai.RateLimitError)]
    others = [each for each in found if isinstance(each, Exception) and each not in refused]
    assert not others
    return len(found) - len(refused), refused


def test_requests_per_minute_hold_when_all_come_at_once(guarded, create, upstream):
    key = create(requests_per_minute=2)
    answered, refused = at_once(guarded(), key, upstream, Say("hi"), count=20, passing=2)
    assert (answered, len(upstream.chats)) == (2, 2)
    error = refused[0]
    assert (error.status_code, error.type, error.code) == (429, "requests", "rate_limit_exceeded")
    assert re.search(r"Limit 2\. Please try again in [123]\d(\.\d+)?s\.", error.message)
    headers = error.response.headers
    assert 10 < int(headers["retry-after"]) <= 30
    assert -1000 < int(headers["retry-after-ms"]) - 1000 * int(headers["retry-after"]) <= 0
    assert headers["x-ratelimit-remaining-requests"] == "0"


def test_each_key_has_limits_of_its_own(guarded, create, upstream):
    upstream.on(draft=Say("hi"))
    proxy = guarded()
    first, second, free = create(requests_per_minute=1), create(requests_per_minute=1), create()
    found = [proxy.chat(headers=bearer(key)).status for key in (first, first, second, free, free)]
    assert found == [200, 429, 200, 200, 200]


@pytest.mark.parametrize("stream", [False, True])
def test_tokens_per_minute_are_held_before_they_are_spent(guarded, create, upstream, stream):
    """Each of 20 requests may take 4 + 2 + 94 tokens, so that 2 hold the whole minute's 200."""
    key, answer = create(tokens_per_minute=200), Say("hi", prompt_tokens=6, completion_tokens=94)
    asked = {"max_tokens": 94, "stream": stream}
    answered, refused = at_once(guarded(), key, upstream, answer, count=20, passing=2, **asked)
    assert answered == 2
    assert {error.type for error in refused} == {"tokens"}
    assert "Limit 200, requested 100." in refused[0].message


def test_what_a_request_did_not_take_is_given_back(guarded, create, upstream):
    upstream.on(draft=Say("hi", prompt_tokens=2, completion_tokens=1))
    proxy, key = guarded(), create(tokens_per_minute=500)
    left = [
        int(proxy.chat(headers=bearer(key), max_tokens=400).headers["x-ratelimit-remaining-tokens"])
        for _ in range(5)
    ]
    assert all(94 - 3 * before <= each <= 94 for before, each in enumerate(left))


def test_what_a_request_took_more_delays_the_next(guarded, create, upstream):
    upstream.on(draft=Say("hi", prompt_tokens=2000, completion_tokens=998))
    proxy, key = guarded(), create(tokens_per_minute=1000)
    assert proxy.chat(headers=bearer(key)).status == 200
    refused = proxy.chat(headers=bearer(key), max_tokens=1)
    assert refused.status == 429
    assert 118 <= int(refused.headers["retry-after"]) <= 121  # 2000 too many, and 7 for itself


def test_a_request_larger_than_the_minute_waits_for_a_full_one(guarded, create, upstream):
    upstream.on(draft=Say("hi", prompt_tokens=3, completion_tokens=3))
    proxy, key = guarded(), create(tokens_per_minute=1000)
    assert proxy.chat(headers=bearer(key), max_tokens=50_000).status == 200
    again = proxy.chat(headers=bearer(key), max_tokens=50_000)
    assert (again.status, int(again.headers["retry-after"])) == (429, 1)


def test_a_strategys_calls_all_count_and_it_is_one_request(guarded, create, upstream):
    upstream.cove(WRONG, SYDNEY, final=RIGHT)
    proxy, key = guarded(), create(requests_per_minute=10, tokens_per_minute=1000)
    found = proxy.chat(model="m1+cove", headers=bearer(key))
    spent = found.json["usage"]["total_tokens"]
    assert spent == 10 * len(upstream.chats) > 10
    after = proxy.chat(model="m2", headers=bearer(key), max_tokens=1)
    assert after.headers["x-ratelimit-remaining-requests"] == "8"
    assert abs(int(after.headers["x-ratelimit-remaining-tokens"]) - (1000 - spent - 7)) <= 10


@pytest.mark.parametrize("model", ["m1", "m1+cove"])
@pytest.mark.parametrize("stream", [False, True])
def test_every_answer_says_how_the_limits_stand(guarded, create, upstream, model, stream):
    upstream.cove(WRONG, SYDNEY, final=RIGHT)
    found = guarded().chat(
        model=model,
        stream=stream,
        max_tokens=92,
        headers=bearer(create(requests_per_minute=60, tokens_per_minute=6000)),
    )
    shown = {name: value for name, value in found.headers.items() if name.startswith("x-ratelimit-")}
    assert shown == {
        "x-ratelimit-limit-requests": "60",
        "x-ratelimit-limit-tokens": "6000",
        "x-ratelimit-remaining-requests": "59",
        "x-ratelimit-remaining-tokens": "5902",
        "x-ratelimit-reset-requests": "1s",
        "x-ratelimit-reset-tokens": "980ms",
    }


def test_the_backends_own_limits_show_only_where_the_key_has_none(guarded, create, upstream):
    theirs = {"x-ratelimit-limit-requests": "9", "x-request-id": "r1"}
    upstream.on(draft=Fail(400, headers=theirs))
    proxy = guarded()
    for key, limit in ((create(), "9"), (create(requests_per_minute=60), "60")):
        headers = proxy.chat(headers=bearer(key)).headers
        assert (headers["x-ratelimit-limit-requests"], headers["x-request-id"]) == (limit, "r1")


def test_a_429_of_the_backend_is_passed_on_as_its_own(guarded, create, upstream):
    upstream.on(draft=Fail(429, headers={"Retry-After": "7"}))
    found = guarded().chat(headers=bearer(create(requests_per_minute=60)))
    assert (found.status, found.error["code"], found.headers["retry-after"]) == (429, "from_upstream", "7")


def test_a_months_budget_ends_with_insufficient_quota(guarded, create, upstream):
    upstream.on(draft=Say("hi", prompt_tokens=40, completion_tokens=20))
    proxy, key = guarded(), create(tokens_per_month=100)
    client = proxy.client_with(key)
    for _ in range(2):
        client.chat.completions.create(model="m1", messages=ASKED, max_tokens=10)
    with pytest.raises(openai.RateLimitError, match="budget of 100 tokens for this month") as refused:
        client.with_options(max_retries=5).chat.completions.create(model="m1", messages=ASKED)
    assert (refused.value.type, refused.value.code) == ("insufficient_quota", "insufficient_quota")
    assert len(upstream.chats) == 2
    assert client.models.list().data


def test_a_budget_cannot_be_slipped_past_by_asking_at_once(guarded, create, upstream):
    """Each holds 100 tokens while it runs, so the fourth finds 300 of 300 taken."""
    key, answer = create(tokens_per_month=300), Say("hi", prompt_tokens=6, completion_tokens=94)
    answered, refused = at_once(guarded(), key, upstream, answer, count=12, passing=3, max_tokens=94)
    assert answered == 3
    assert {error.code for error in refused} == {"insufficient_quota"}


def test_a_budget_counts_what_was_spent_before_a_restart_but_not_last_month(guarded, create, upstream, state):
    upstream.on(draft=Say("hi"))
    spent, old = create(tokens_per_month=100), create(tokens_per_month=100)
    file = sqlite3.connect(state)
    for key, day in ((spent, f"{datetime.now(UTC):%Y-%m}-01"), (old, "2020-01-31")):
        row = (id_of(key), day, "m1", "direct", 1, 1, 60, 40, 0)
        file.execute("INSERT INTO usage_by_day VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", row)
    file.commit()
    file.close()
    proxy = guarded()
    assert [proxy.chat(headers=bearer(key)).status for key in (spent, old)] == [429, 200]


def test_a_strategy_ends_with_its_draft_where_the_budget_ends(guarded, create, upstream):
    facts = [Fact(f"Fact {i}.", f"Is fact {i} so?", "Yes.") for i in range(5)]
    upstream.cove(WRONG, *facts, final=RIGHT)
    proxy, key = guarded(), create(tokens_per_month=35)
    found = proxy.chat(model="m1+cove", headers=bearer(key)).json
    assert found["veridical"]["status"] == "degraded"
    assert found["choices"][0]["message"]["content"] == WRONG
    assert proxy.chat(headers=bearer(key)).error["code"] == "insufficient_quota"


def test_a_client_that_leaves_gives_back_what_it_held(guarded, create, upstream):
    upstream.on(draft=Pieces([sse({"choices": [{"index": 0, "delta": {"content": "a"}}]}), 30.0]))
    proxy, key = guarded(), create(tokens_per_minute=10_000)
    with proxy.open(stream=True, max_tokens=9_000, headers=bearer(key)) as connection:
        while b"delta" not in connection.recv(4096):
            pass
    upstream.chats[0].gone.wait(5)
    upstream.on(draft=Say("hi"))
    wait_until(lambda: proxy.chat(headers=bearer(key), max_tokens=9_000).status == 200)


def test_a_refused_request_takes_nothing(guarded, create, upstream):
    upstream.on(draft=Say("hi", prompt_tokens=1, completion_tokens=1))
    proxy, key = guarded(), create(requests_per_minute=3, tokens_per_minute=1000)
    for body in ({"model": "nowhere"}, {"messages": []}, {"model": "m1+nothing"}):
        assert 400 <= proxy.chat(headers=bearer(key), **body).status <= 404
    left = [proxy.chat(headers=bearer(key)).headers["x-ratelimit-remaining-requests"] for _ in range(4)]
    assert left == ["2", "1", "0", "0"]
