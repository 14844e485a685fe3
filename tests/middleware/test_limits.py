"""Budgets, deadlines, failures and retries: the best draft comes back, and says why it is one."""

import json
import time

import openai
import pytest

from veridical.middleware import retrying
from veridical.tests.answers import Fail, Pieces, Say, Whole, sse
from veridical.tests.upstream import CANBERRA, SYDNEY

WRONG, RIGHT = "The capital of Australia is Sydney.", "The capital of Australia is Canberra."
STREAMED = pytest.mark.parametrize("stream", [False, True])


@pytest.fixture(autouse=True)
def _short_waits(monkeypatch):
    monkeypatch.setattr(retrying, "FIRST_WAIT_S", 0.01)


def collected(answer) -> tuple[str, dict]:
    if hasattr(answer, "choices"):
        return answer.choices[0].message.content, answer.to_dict()["veridical"]
    chunks = list(answer)
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    return text, chunks[-1].to_dict()["veridical"]


@STREAMED
@pytest.mark.parametrize(
    ("budget", "code"),
    [
        ({"max_calls": 3}, "budget_exceeded"),
        ({"max_tokens": 25}, "budget_exceeded"),
        ({"deadline_s": 0.6}, "deadline_exceeded"),
    ],
)
def test_a_budget_that_ends_gives_the_draft_and_the_reason(proxy, upstream, stream, budget, code):
    upstream.cove(WRONG, SYDNEY, final=RIGHT)
    if "deadline_s" in budget:
        upstream.on(cross_check=Say("late", delay=20))
    text, trail = collected(proxy.ask(model="m1+cove", stream=stream, veridical={"budget": budget}))
    assert (text, trail["status"]) == (WRONG, "degraded")
    assert trail["notes"][0].startswith(f"{code}: ")
    assert trail["calls"] == len(upstream.chats)
    if "deadline_s" in budget:
        assert upstream.asked("cross_check")[0].gone.wait(3)


@STREAMED
@pytest.mark.parametrize(
    ("budget", "status", "code"),
    [({"max_calls": 2}, 503, "budget_exceeded"), ({"deadline_s": 0.4}, 504, "deadline_exceeded")],
)
def test_on_limit_error_tells_instead(proxy, upstream, stream, budget, status, code):
    upstream.cove(WRONG, SYDNEY, final=RIGHT)
    upstream.on(check=Say("late", delay=20))
    veridical = {"budget": budget, "on_limit": "error"}
    with pytest.raises(openai.APIError) as caught:
        list(proxy.ask(model="m1+cove", stream=stream, veridical=veridical))
    assert caught.value.code == code
    if not stream:
        assert caught.value.status_code == status


@STREAMED
@pytest.mark.parametrize("budget", [{"deadline_s": 0.3}, {"max_tokens": 5}])
def test_a_limit_without_a_draft_is_an_error(proxy, upstream, stream, budget):
    upstream.on(draft=Say(RIGHT, delay=20 if "deadline_s" in budget else 0))
    if "deadline_s" in budget:
        response = proxy.chat(model="m1+cove", stream=stream, veridical={"budget": budget})
        assert (response.status, response.error["code"]) == (504, "deadline_exceeded")
    else:
        text, trail = collected(proxy.ask(model="m1+cove", stream=stream, veridical={"budget": budget}))
        assert (text, trail["status"], trail["calls"]) == (RIGHT, "degraded", 1)


def test_a_request_can_only_lower_the_servers_limits(serve, upstream):
    upstream.cove(WRONG, SYDNEY, final=RIGHT)
    proxy = serve(budget={"max_calls": 2})
    _, trail = collected(proxy.ask(model="m1+cove", veridical={"budget": {"max_calls": 100}}))
    assert (trail["status"], trail["calls"]) == ("degraded", 2)
    _, trail = collected(proxy.ask(model="m1+cove", veridical={"budget": {"max_calls": 1}}))
    assert trail["calls"] == 1


def test_all_choices_share_one_budget(proxy, upstream):
    upstream.cove(WRONG, SYDNEY, final=RIGHT)
    answer = proxy.ask(model="m1+cove", n=3, veridical={"budget": {"max_calls": 6}})
    trail = answer.to_dict()["veridical"]
    assert (trail["calls"], trail["status"]) == (6, "degraded")
    assert [choice.message.content in (WRONG, RIGHT) for choice in answer.choices] == [True] * 3


@STREAMED
@pytest.mark.parametrize("step", ["plan", "check", "cross_check", "revise"])
@pytest.mark.parametrize("failure", [Fail(500, "broken"), Fail(400, "refused"), Whole(b"<html>")])
def test_a_failing_check_gives_the_draft(proxy, upstream, stream, step, failure):
    upstream.cove(WRONG, SYDNEY, final=RIGHT)
    upstream.on(**{step: failure})
    text, trail = collected(proxy.ask(model="m1+cove", stream=stream))
    assert (text, trail["status"]) == (WRONG, "degraded")
    assert trail["notes"][0].startswith("backend_")


@STREAMED
def test_on_failure_error_tells_instead(proxy, upstream, stream):
    upstream.cove(WRONG, SYDNEY, final=RIGHT)
    upstream.on(check=Fail(418, "I am a teapot"))
    with pytest.raises(openai.APIError, match="teapot") as caught:
        list(proxy.ask(model="m1+cove", stream=stream, veridical={"on_failure": "error"}))
    if not stream:
        assert caught.value.status_code == 418


@STREAMED
def test_a_plan_that_cannot_be_read_twice_gives_the_draft(proxy, upstream, stream):
    upstream.cove(WRONG, SYDNEY, final=RIGHT)
    upstream.on(plan=Say("I would rather not."))
    upstream.script["draft"] = lambda e: Say("Nor now." if "rather not" in e.prompt else WRONG)
    text, trail = collected(proxy.ask(model="m1+cove", stream=stream))
    assert (text, trail["status"]) == (WRONG, "degraded")
    assert trail["notes"][0].startswith("unparsable_output: cove/plan")
    assert trail["calls"] == 3


@pytest.mark.parametrize(
    "failures",
    [[Fail(500)], [Fail(503), Fail(429)], [Fail(429, headers={"Retry-After": "0.05"})] * 2, [Whole(b"{")]],
)
def test_inner_calls_are_tried_again(proxy, upstream, failures):
    upstream.cove(WRONG, SYDNEY, final=RIGHT)
    upstream.on(check=[*failures, Say(SYDNEY.answer)])
    text, trail = collected(proxy.ask(model="m1+cove"))
    assert (text, trail["status"]) == (RIGHT, "verified")
    assert len(upstream.asked("check")) == len(failures) + 1


def test_inner_calls_are_tried_three_times_at_most(proxy, upstream):
    upstream.cove(WRONG, SYDNEY, final=RIGHT)
    upstream.on(check=Fail(500))
    assert collected(proxy.ask(model="m1+cove"))[1]["status"] == "degraded"
    assert len(upstream.asked("check")) == 3


def test_retry_after_is_honoured_within_the_deadline_only(proxy, upstream):
    upstream.cove(WRONG, SYDNEY, final=RIGHT)
    upstream.on(check=[Fail(429, headers={"Retry-After": "1"}), Say(SYDNEY.answer)])
    assert collected(proxy.ask(model="m1+cove"))[1]["status"] == "verified"
    first, second = upstream.asked("check")
    assert second.at - first.at >= 0.99
    upstream.on(check=Fail(429, headers={"Retry-After": "60"}))
    began = time.monotonic()
    _, trail = collected(proxy.ask(model="m1+cove", veridical={"budget": {"deadline_s": 30}}))
    assert time.monotonic() - began < 20
    assert trail["notes"][0].startswith("rate_limit_exceeded")


@pytest.mark.parametrize("words", ["Wed, 21 Oct 2099 07:28:00 GMT", "nan", "-3", "soon", ""])
def test_a_retry_after_that_is_no_number_does_no_harm(proxy, upstream, words):
    upstream.cove(WRONG, SYDNEY, final=RIGHT)
    upstream.on(check=[Fail(503, headers={"Retry-After": words}), Say(SYDNEY.answer)])
    assert collected(proxy.ask(model="m1+cove"))[1]["status"] == "verified"


def test_a_refused_draft_passes_its_status_words_and_retry_after_on(proxy, upstream):
    for status, headers in [(400, {}), (401, {}), (404, {}), (429, {"Retry-After": "0"})]:
        upstream.on(draft=Fail(status, "no such luck", headers))
        response = proxy.chat(model="m1+cove")
        assert response.status == status
        assert response.error.items() >= {"message": "no such luck", "code": "from_upstream"}.items()
        assert response.headers.get("retry-after") == headers.get("Retry-After")
    upstream.on(draft=Fail(503, "no such luck", {"Retry-After": "0"}))
    response = proxy.chat(model="m1+cove")
    assert (response.status, response.headers["retry-after"]) == (502, "0")


@pytest.mark.parametrize(
    "answer",
    [
        Whole(b"[]"),
        Whole(b'{"choices": []}'),
        Whole(b'{"choices": [{"message": null}]}'),
        Whole(b'{"choices": [{"message": {"content": 5}}]}'),
        Whole(b'{"choices": [{"message": {"content": "x", "tool_calls": 5}}]}'),
        Whole(b'{"choices": [{"message": {"content": "x"}, "finish_reason": {}}]}'),
        Whole(b'{"choices": [{"mess'),
        Whole(b'{"choices": [', length=500),
        Whole(b"<html>hello</html>", content_type="text/html"),
        Whole(b"\xff\xfe"),
        Whole(b"", status=204),
        Whole(b"[" * 5000),
        Fail(500, body=b"<html>"),
        Fail(302, headers={"Location": "http://127.0.0.1:9/"}, body=b""),
        Pieces([sse({"choices": []})]),
    ],
)
def test_whatever_a_backend_answers_the_client_gets_a_plain_error(proxy, upstream, answer):
    upstream.on(draft=answer)
    response = proxy.chat(model="m1+cove")
    assert (response.status, response.error["code"]) == (502, "backend_failed")


def test_an_answer_without_bound_is_cut_off(serve, upstream):
    proxy = serve(backend={"max_response_bytes": 2000})
    big = Say("word " * 1000)
    upstream.on(draft=big)
    assert "2000 bytes" in proxy.chat(model="m1+cove").error["message"]
    upstream.on(draft=Pieces([b"data: " + b"x" * 5000]))
    assert "2000 bytes" in proxy.chat(model="m1+cove", stream=True).raw.decode()


def test_more_choices_than_allowed_are_refused(serve, upstream):
    upstream.cove(RIGHT, CANBERRA)
    proxy = serve(server={"max_n": 2})
    response = proxy.chat(model="m1+cove", n=3)
    assert (response.status, response.error["param"]) == (400, "n")
    assert json.loads(proxy.chat(model="m1+cove", n=2).raw)["choices"][1]["index"] == 1


@STREAMED
def test_what_was_checked_before_the_end_is_told(proxy, upstream, stream):
    upstream.cove(WRONG, SYDNEY, final=RIGHT)
    budget = {"max_calls": 4}  # draft, plan, check, cross-check: nothing is left for the final words
    text, trail = collected(proxy.ask(model="m1+cove", stream=stream, veridical={"budget": budget}))
    assert (text, trail["status"]) == (WRONG, "degraded")
    assert [claim["verdict"] for claim in trail["claims"]] == ["refuted"]
