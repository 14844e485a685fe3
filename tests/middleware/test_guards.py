"""What is settled before anything is spent, and what one part's trouble must not do to another."""

from __future__ import annotations

import pytest

from veridical.strategies.evidence import cleaned
from veridical.tests.answers import Pieces, Say, sse
from veridical.tests.upstream import CANBERRA, SYDNEY


@pytest.mark.parametrize("trace", ["summary", "full"])
def test_n_is_bounded_on_direct_too(proxy, upstream, trace):
    response = proxy.chat(n=300_000, veridical={"trace": trace})
    assert (response.status, response.error["param"]) == (400, "n")
    assert upstream.chats == []


def test_a_missing_source_is_refused_before_anything_is_spent(proxy, upstream):
    response = proxy.chat(model="m1+cove(execute_with=retrieval)", stream=True)
    assert response.status == 400
    assert "has: none" in response.error["message"]
    assert upstream.chats == []


def test_a_content_part_that_is_no_object_is_named(proxy):
    response = proxy.chat(model="m1+cove", messages=[{"role": "user", "content": ["hi"]}])
    assert (response.status, response.error["param"]) == (400, "messages[0].content")


def test_a_role_that_is_not_used_is_not_looked_at(serve, upstream):
    upstream.on(draft=Say("Hello."))
    proxy = serve(roles={"verifier": "nope"})
    assert proxy.chat(veridical={"trace": "summary"}).status == 200
    response = proxy.chat(model="m1+cove")
    assert response.status == 500
    assert "'verifier' is misconfigured" in response.error["message"]


def test_the_default_response_format_does_not_change_how_a_long_answer_is_checked(proxy, upstream):
    upstream.cove("Ada was born. She read much. She wrote more. She knew many. She died.")
    proxy.ask(model="m1+cove", response_format={"type": "text"})
    assert len(upstream.asked("plan")) == 5


def test_a_refused_response_format_is_not_sent_with_our_own_calls(serve, upstream):
    upstream.cove("Sydney.", SYDNEY, final="Canberra.")
    proxy = serve(backend={"refuse": ["response_format"]})
    assert proxy.ask(model="m1+cove").choices[0].message.content == "Canberra."
    assert all("response_format" not in exchange.body for exchange in upstream.chats)


def test_what_an_inner_strategy_rewrote_stays_verified(proxy, upstream):
    upstream.cove("Sydney.", SYDNEY, final="Canberra.")
    first = upstream.script["plan"]
    upstream.on(plan=[first, Say('{"checks": []}')])
    answer = proxy.ask(model="m1+cove|cove")
    assert (answer.choices[0].message.content, answer.veridical["status"]) == ("Canberra.", "verified")


def test_our_key_is_taken_out_of_a_relayed_stream(serve, upstream, monkeypatch):
    monkeypatch.setenv("UPSTREAM_KEY", "sk-very-secret")
    upstream.on(draft=Pieces([sse({"error": {"message": "bad key sk-very-secret"}}), b"data: [DONE]\n\n"]))
    proxy = serve(backend={"api_key_env": "UPSTREAM_KEY"})
    raw = proxy.chat(stream=True).raw
    assert b"bad key [key]" in raw
    assert b"sk-very-secret" not in raw


def test_a_dead_backend_is_not_asked_by_every_request_for_a_healthy_one(serve, upstream):
    upstream.cove("Canberra.", CANBERRA)
    proxy = serve(backends={
        "dead": {"type": "http", "base_url": "http://127.0.0.1:9/v1"},
        "up": {"type": "http", "base_url": upstream.url},
    })  # fmt: skip
    for _ in range(5):
        assert proxy.chat().status == 200
    assert len([exchange for exchange in upstream.log if exchange.path == "/v1/models"]) == 1


def test_footnotes_of_a_passage_cannot_be_taken_for_our_citations():
    assert cleaned("[7] A title: text [2, 3].") == "(7) A title: text (2, 3)."


def test_an_unclosed_fence_mark_costs_its_own_words_only():
    assert cleaned("Some <evidence was found in Orsk.") == "Some was found in Orsk."
