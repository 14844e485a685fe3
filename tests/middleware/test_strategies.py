"""Chain-of-Verification through the wire: what comes back, whole and streamed, and what it cost."""

import json

import pytest

from veridical.tests.answers import Say
from veridical.tests.upstream import CANBERRA, SYDNEY, Fact

WRONG, RIGHT = "The capital of Australia is Sydney.", "The capital of Australia is Canberra."
STEPS = ["draft", "plan", "check", "cross_check", "revise"]


def read(answer):
    """Text, usage and trail of an answer by the SDK, whole or streamed; it says where they came."""
    if hasattr(answer, "choices"):
        found = answer.to_dict()
        return answer.choices[0].message.content, found["usage"], found["veridical"]
    chunks = [chunk.to_dict() for chunk in answer]
    text = "".join(c["choices"][0]["delta"].get("content") or "" for c in chunks if c["choices"])
    assert ["veridical" in c for c in chunks] == [False] * (len(chunks) - 1) + [True]
    finishes = [c["choices"][0]["finish_reason"] for c in chunks if c["choices"]]
    assert [finish for finish in finishes if finish] == ["stop"]
    return text, chunks[-1].get("usage"), chunks[-1]["veridical"]


@pytest.fixture(params=["whole", "stream", "stream with usage"])
def mode(request):
    return {
        "whole": {},
        "stream": {"stream": True},
        "stream with usage": {"stream": True, "stream_options": {"include_usage": True}},
    }[request.param]


def test_a_refuted_draft_is_rewritten(proxy, upstream, mode):
    upstream.cove(WRONG, SYDNEY, final=Say(RIGHT, 20, 9))
    text, usage, trail = read(proxy.ask(model="m1+cove", **mode))
    assert text == RIGHT
    if "stream" not in mode or "stream_options" in mode:
        assert usage == {"prompt_tokens": 48, "completion_tokens": 21, "total_tokens": 69}
    else:
        assert usage is None
    assert trail["strategy"] == "cove"
    assert (trail["status"], trail["calls"], trail["depth"], trail["notes"]) == ("verified", 5, 5, [])
    assert trail["seconds"] > 0
    assert len(trail["id"]) == 24
    (claim,) = trail["claims"]
    assert claim == {
        "text": WRONG,
        "verdict": "refuted",
        "evidence": [],
        "question": SYDNEY.question,
        "answer": SYDNEY.answer,
        "correction": RIGHT,
    }
    assert list(trail["usage_by_step"]) == ["draft", *(f"cove/{step}" for step in STEPS[1:])]
    assert trail["usage_by_step"]["cove/revise"].items() >= {"calls": 1, "prompt_tokens": 20}.items()
    assert [exchange.step for exchange in upstream.chats] == STEPS


def test_a_sound_draft_comes_back_word_for_word(proxy, upstream, mode):
    draft = "  The capital of Australia\tis **Canberra**.\n\n— so it is 🐨 \n"
    upstream.cove(draft, CANBERRA, final="never")
    text, _, trail = read(proxy.ask(model="m1+cove", **mode))
    assert text == draft
    assert trail["status"] == "unchanged"
    assert trail["calls"] == 4
    assert trail["claims"][0]["verdict"] == "supported"
    assert not upstream.asked("revise")


def test_a_sound_draft_is_replayed_delta_by_delta(proxy, upstream):
    pieces = ["The capital", " of Aus", "tralia is Can", "b", "erra."]
    deltas = [{"role": "assistant", "content": ""}, *({"content": piece} for piece in pieces)]
    upstream.cove(Say(deltas=deltas), CANBERRA)
    chunks = list(proxy.ask(model="m1+cove", stream=True))
    assert [c.choices[0].delta.content for c in chunks if c.choices[0].delta.content] == pieces
    assert {c.id for c in chunks} == {chunks[0].id}
    assert {c.model for c in chunks} == {"m1+cove"}


@pytest.mark.parametrize(
    ("variant", "steps", "depth"),
    [
        ("joint", ["draft", "joint", "revise"], 3),
        ("two_step", ["draft", "plan", "check_all", "revise"], 4),
        ("factored", ["draft", "plan", "check", "revise"], 4),
    ],
)
def test_the_other_variants_rewrite_always_and_give_no_verdicts(proxy, upstream, mode, variant, steps, depth):
    upstream.cove(WRONG, SYDNEY, final=RIGHT)
    text, _, trail = read(proxy.ask(model=f"m1+cove(variant={variant})", **mode))
    assert text == RIGHT
    assert trail["strategy"] == f"cove(variant={variant})"
    assert (trail["status"], trail["depth"]) == ("verified", depth)
    assert [claim["verdict"] for claim in trail["claims"]] == [None]
    assert [exchange.step for exchange in upstream.chats] == steps


def test_no_check_sees_the_draft(proxy, upstream):
    upstream.cove(WRONG, SYDNEY, final=RIGHT)
    proxy.ask("Tell me a secret of Australia.", model="m1+cove")
    (check,) = upstream.asked("check")
    assert "Sydney" not in check.prompt
    assert "secret" not in check.prompt


def test_a_question_without_an_answer_refutes_nothing(proxy, upstream):
    unknown = Fact("Burley Griffin liked tea.", "What did Burley Griffin like to drink?")
    upstream.cove(f"{RIGHT} Burley Griffin liked tea.", CANBERRA, unknown)
    _, _, trail = read(proxy.ask(model="m1+cove"))
    assert [claim["verdict"] for claim in trail["claims"]] == ["supported", "not_enough_info"]
    assert trail["claims"][1]["answer"] is None
    assert trail["status"] == "unchanged"


@pytest.mark.parametrize(("level", "has", "lacks"), [("full", "steps", ""), ("summary", "claims", "steps")])
def test_trace_chooses_how_much_is_told(proxy, upstream, level, has, lacks):
    upstream.cove(WRONG, SYDNEY, final=RIGHT)
    trail = proxy.ask(model="m1+cove", veridical={"trace": level}).to_dict()["veridical"]
    assert has in trail
    assert lacks not in trail
    if level == "full":
        assert [step["depth"] for step in trail["steps"]] == [1, 2, 3, 4, 5]
        assert trail["steps"][0]["output"] == trail["drafts"][0] == WRONG
        assert trail["steps"][1]["prompt"].startswith("cove/plan@")


def test_trace_none_tells_nothing(proxy, upstream, mode):
    upstream.cove(WRONG, SYDNEY, final=RIGHT)
    answer = proxy.ask(model="m1+cove", veridical={"trace": "none"}, **mode)
    chunks = [answer] if not mode else list(answer)
    assert not any("veridical" in chunk.to_dict() for chunk in chunks)


def test_n_runs_are_independent_and_the_upstream_never_hears_of_n(proxy, upstream, mode):
    claims = [[CANBERRA], [], [SYDNEY]]
    upstream.cove(WRONG, CANBERRA, SYDNEY, final=RIGHT)
    plans = [{"checks": [{"fact": f.fact, "question": f.question} for f in facts]} for facts in claims]
    upstream.on(plan=[Say(json.dumps(plan)) for plan in plans])
    answer = proxy.ask(model="m1+cove", n=3, **mode)
    chunks = [answer] if not mode else list(answer)
    trail = chunks[-1].to_dict()["veridical"]
    assert sorted(len(choice["claims"]) for choice in trail["choices"]) == [0, 1, 1]
    statuses = sorted(choice["status"] for choice in trail["choices"])
    assert statuses == ["unchanged", "unchanged", "verified"]
    assert (trail["status"], trail["claims"]) == ("verified", [])
    assert trail["calls"] == len(upstream.chats) == 3 + 3 + 2 + 2 + 1
    assert not any("n" in exchange.body for exchange in upstream.chats)
    assert {choice.index for chunk in chunks for choice in chunk.choices} == {0, 1, 2}
    texts = ["", "", ""]
    for chunk in chunks:
        for choice in chunk.choices:
            said = choice.message.content if not mode else choice.delta.content
            texts[choice.index] += said or ""
    assert sorted(texts) == [RIGHT, WRONG, WRONG]


def test_fields_that_a_backend_adds_are_kept_and_ours_are_ours(proxy, upstream):
    upstream.cove(Say(RIGHT, extra={"system_fingerprint": "fp_1", "veridical": "not theirs"}), CANBERRA)
    found = proxy.ask(model="m1+cove").to_dict()
    assert found["system_fingerprint"] == "fp_1"
    assert found["veridical"]["status"] == "unchanged"
    assert (found["object"], found["model"]) == ("chat.completion", "m1+cove")


def test_headers_name_the_request_and_its_backend(proxy, upstream):
    upstream.cove(RIGHT, CANBERRA)
    for stream in (False, True):
        response = proxy.chat(model="m1+cove", stream=stream)
        assert response.headers["x-veridical-backend"] == "up"
        last = response.json if not stream else response.events[-2]
        assert last["veridical"]["id"] == response.headers["x-veridical-id"]


def test_a_backend_without_usage_is_noted(proxy, upstream):
    upstream.cove(Say(RIGHT, usage=False), CANBERRA)
    found = proxy.ask(model="m1+cove").to_dict()
    assert found["usage"]["total_tokens"] == 30
    assert "usage" in found["veridical"]["notes"][0]
