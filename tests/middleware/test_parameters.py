"""What of a client's request reaches which call of a strategy, and what comes back with it."""

import json

import pytest

from veridical.tests.answers import Fail, Say, text_of
from veridical.tests.upstream import CANBERRA, SYDNEY

WRONG, RIGHT = "The capital of Australia is Sydney.", "The capital of Australia is Canberra."
CHECKS = ("plan", "check", "cross_check")
STREAMED = pytest.mark.parametrize("stream", [False, True])


def collected(answer) -> dict:
    """The last chunk, or the completion, with the message and log-probabilities put together."""
    if hasattr(answer, "choices"):
        found = answer.to_dict()
        return {**found, "text": answer.choices[0].message.content, "message": found["choices"][0]["message"]}
    chunks = [chunk.to_dict() for chunk in answer]
    deltas = [chunk["choices"][0] for chunk in chunks if chunk["choices"]]
    text = "".join(delta["delta"].get("content") or "" for delta in deltas)
    return {**chunks[-1], "text": text, "deltas": deltas}


@STREAMED
def test_the_clients_parameters_reach_draft_and_final_words_only(proxy, upstream, stream):
    given = {"temperature": 0.7, "top_p": 0.9, "max_tokens": 77, "seed": 5, "stop": ["##"], "user": "u1"}
    upstream.cove(WRONG, SYDNEY, final=RIGHT)
    extra = {"min_p": 0.05, "chat_template_kwargs": {"enable_thinking": False}}
    assert collected(proxy.ask(model="m1+cove", stream=stream, **given, extra=extra))["text"] == RIGHT
    for step in ("draft", "revise"):
        (exchange,) = upstream.asked(step)
        assert exchange.body.items() >= {**given, **extra}.items()
        assert exchange.body.get("stream", False) == stream
    for exchange in (e for step in CHECKS for e in upstream.asked(step)):
        assert exchange.body.keys() <= {"model", "messages", "temperature", "max_tokens", "response_format"}
        assert exchange.body["temperature"] == 0
    sent = [field for exchange in upstream.chats for field in exchange.body]
    assert not {"veridical", "strategy", "n"} & set(sent)
    assert ("stream_options" in sent) == stream


def test_system_messages_turns_and_unknown_fields_survive(proxy, upstream):
    upstream.cove(WRONG, SYDNEY, final=RIGHT)
    messages = [
        {"role": "system", "content": "Be brief.", "novel": 1},
        {"role": "user", "content": "Hello", "name": "ann"},
        {"role": "assistant", "content": "Hi!"},
        {"role": "user", "content": [{"type": "text", "text": "What is the capital of Australia?"}]},
    ]
    proxy.ask(model="m1+cove", messages=messages)
    assert upstream.asked("draft")[0].body["messages"] == messages
    draft = {"role": "assistant", "content": WRONG}
    for step in ("plan", "revise"):
        assert upstream.asked(step)[0].body["messages"][:-1] == [*messages, draft]
    assert upstream.asked("check")[0].body["messages"][:-1] == messages[:1]


def test_image_parts_reach_the_draft(proxy, upstream):
    upstream.cove(RIGHT, CANBERRA)
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA", "detail": "low"}}
    messages = [{"role": "user", "content": [{"type": "text", "text": "Which city is this?"}, image]}]
    assert proxy.ask(model="m1+cove", messages=messages).choices[0].message.content == RIGHT
    assert upstream.asked("draft")[0].body["messages"] == messages


TOOLS = [{"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}]
CALL = {"id": "c1", "type": "function", "function": {"name": "look", "arguments": '{"at": "map"}'}}
CALL_DELTAS = [
    {"role": "assistant", "content": None, "tool_calls": [{"index": 0, **CALL}]},
    {"tool_calls": [{"index": 1, **CALL, "function": {"name": "look", "arguments": '{"at"'}}]},
    {"tool_calls": [{"index": 1, "function": {"arguments": ': "sky"}'}}]},
]


def test_a_reply_that_calls_tools_comes_back_as_it_is(proxy, upstream):
    reply = Say(None, message={"tool_calls": [CALL], "refusal": None}, finish="tool_calls")
    upstream.on(draft=reply)
    answer = proxy.ask(model="m1+cove", tools=TOOLS).to_dict()
    message = {"role": "assistant", "content": None, "tool_calls": [CALL], "refusal": None}
    assert answer["choices"][0]["message"] == message
    assert answer["choices"][0]["finish_reason"] == "tool_calls"
    assert (answer["veridical"]["status"], answer["veridical"]["calls"]) == ("unchanged", 1)
    assert "no text" in answer["veridical"]["notes"][0]
    assert upstream.chats[0].body["tools"] == TOOLS


def test_a_streamed_tool_call_comes_back_delta_by_delta(proxy, upstream):
    upstream.on(draft=Say(deltas=CALL_DELTAS, finish="tool_calls"))
    found = collected(proxy.ask(model="m1+cove", tools=TOOLS, stream=True))
    calls = [call for d in found["deltas"] for call in d["delta"].get("tool_calls") or ()]
    assert calls == [call for delta in CALL_DELTAS for call in delta["tool_calls"]]
    assert [d["finish_reason"] for d in found["deltas"]][-1] == "tool_calls"


@STREAMED
def test_a_text_reply_beside_tools_is_verified(proxy, upstream, stream):
    upstream.cove(WRONG, SYDNEY, final=RIGHT)
    found = collected(proxy.ask(model="m1+cove", tools=TOOLS, tool_choice="auto", stream=stream))
    assert (found["text"], found["veridical"]["status"]) == (RIGHT, "verified")
    (final,) = upstream.asked("revise")
    assert (final.body["tools"], final.body["tool_choice"]) == (TOOLS, "none")
    assert not any("tools" in e.body for step in CHECKS for e in upstream.asked(step))


def test_a_conversation_with_tool_results_is_verified(proxy, upstream):
    upstream.cove(WRONG, SYDNEY, final=RIGHT)
    messages = [
        {"role": "user", "content": "Capital of Australia?"},
        {"role": "assistant", "content": None, "tool_calls": [CALL]},
        {"role": "tool", "tool_call_id": "c1", "content": "a map"},
    ]
    answer = proxy.ask(model="m1+cove", messages=messages, tools=TOOLS)
    assert answer.choices[0].message.content == RIGHT
    assert upstream.asked("draft")[0].body["messages"] == messages


@STREAMED
def test_response_format_is_kept_and_the_final_answer_fits_it(proxy, upstream, stream):
    wanted = {"type": "json_schema", "json_schema": {"name": "a", "schema": {"type": "object"}}}
    long = {"capital": "Sydney", "why": "One. Two. Three. Four. Five. Six. Seven."}
    upstream.cove(json.dumps(long), SYDNEY, final=json.dumps({**long, "capital": "Canberra"}))
    found = collected(proxy.ask(model="m1+cove", response_format=wanted, stream=stream))
    assert json.loads(found["text"])["capital"] == "Canberra"
    for step in ("draft", "revise"):
        assert [exchange.body["response_format"] for exchange in upstream.asked(step)] == [wanted]


LOGPROBS = {"content": [{"token": "The", "logprob": -0.1, "bytes": [84], "top_logprobs": []}]}


@STREAMED
@pytest.mark.parametrize("unchanged", [True, False])
def test_logprobs_come_with_words_of_one_call(proxy, upstream, stream, unchanged):
    draft = Say(WRONG, logprobs=LOGPROBS)
    upstream.cove(draft, CANBERRA if unchanged else SYDNEY, final=Say(RIGHT, logprobs=LOGPROBS))
    found = collected(proxy.ask(model="m1+cove", logprobs=True, stream=stream))
    come = [choice["logprobs"] for choice in found.get("deltas") or found["choices"]]
    assert [logprobs for logprobs in come if logprobs] == [LOGPROBS]


@STREAMED
def test_logprobs_are_null_where_words_of_several_calls_are_joined(proxy, upstream, stream):
    draft = " ".join(["One is odd.", "Two is even.", "Three is odd.", "Four is even.", WRONG])
    upstream.cove(Say(draft, logprobs=LOGPROBS), final=Say(RIGHT, logprobs=LOGPROBS))
    sound, bad = (json.dumps({"checks": c}) for c in ([], [{"fact": WRONG, "question": SYDNEY.question}]))
    upstream.questions = {SYDNEY.question}
    upstream.on(
        plan=lambda exchange: Say(bad if WRONG in text_of(exchange.body["messages"][-2]) else sound),
        check=SYDNEY.answered(),
        cross_check=SYDNEY.compared(),
    )
    found = collected(proxy.ask(model="m1+cove", logprobs=True, top_logprobs=1, stream=stream))
    assert found["text"] == draft.replace(WRONG, RIGHT)
    assert {json.dumps(choice["logprobs"]) for choice in found.get("deltas") or found["choices"]} == {"null"}
    assert "logprobs" not in upstream.asked("revise")[0].body


@STREAMED
def test_a_length_finish_is_told(proxy, upstream, stream):
    upstream.cove(Say(WRONG, finish="length"), CANBERRA)
    found = collected(proxy.ask(model="m1+cove", stream=stream))
    reasons = [choice["finish_reason"] for choice in found.get("deltas") or found["choices"]]
    assert [reason for reason in reasons if reason] == ["length"]


def test_inner_calls_leave_out_and_rename_what_the_backend_does_not_take(serve, upstream):
    backend = {"refuse": ["temperature"], "rename": {"max_tokens": "max_completion_tokens"}}
    upstream.cove(WRONG, SYDNEY, final=RIGHT)
    answer = serve(backend=backend).ask(model="m1+cove", max_completion_tokens=9)
    assert answer.choices[0].message.content == RIGHT
    for exchange in (e for step in CHECKS for e in upstream.asked(step)):
        assert not exchange.body.keys() & {"temperature", "max_tokens"}
        assert exchange.body["max_completion_tokens"] > 0
    assert upstream.asked("revise")[0].body["max_completion_tokens"] == 9


def test_a_backend_that_refuses_schemas_is_asked_for_one_once_only(serve, upstream):
    proxy = serve()
    upstream.cove(WRONG, SYDNEY, final=RIGHT)
    plan = upstream.script["plan"]
    refusal = Fail(400, "response_format is not supported")
    upstream.on(plan=lambda exchange: refusal if "response_format" in exchange.body else plan)
    for _ in range(2):
        assert proxy.ask(model="m1+cove").choices[0].message.content == RIGHT
    assert ["response_format" in exchange.body for exchange in upstream.asked("plan")] == [True, False, False]
    assert not any("response_format" in exchange.body for exchange in upstream.asked("cross_check"))


def test_a_backend_configured_without_schemas_is_never_asked_for_one(serve, upstream):
    upstream.cove(WRONG, SYDNEY, final=RIGHT)
    serve(backend={"json_schema": False}).ask(model="m1+cove")
    assert not any("response_format" in exchange.body for exchange in upstream.chats)
