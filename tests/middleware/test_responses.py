"""The Responses API before a backend that knows chats only, by the official SDK."""

import json

import openai
import pydantic
import pytest

from veridical.retrievers.index import build
from veridical.tests.answers import Cut, Fail, Pieces, Say, sse
from veridical.tests.proxy import RESPONSES
from veridical.tests.upstream import CANBERRA, SYDNEY

WRONG, RIGHT = "The capital of Australia is Sydney.", "The capital of Australia is Canberra."
PAGE = {"id": "nile", "title": "Nile", "text": "The Nile flows through Cairo.", "url": "https://nile.test"}
STREAMED = pytest.mark.parametrize("stream", [False, True])
LOOK = {"type": "function", "name": "look", "parameters": {"type": "object"}, "strict": False}
CALLS = [
    {"id": f"c{i}", "type": "function", "function": {"name": "look", "arguments": json.dumps({"at": i})}}
    for i in (1, 2)
]
CALL_DELTAS = [
    {"role": "assistant", "content": None},
    {"tool_calls": [{"index": 0, **CALLS[0], "function": {"name": "look", "arguments": ""}}]},
    {"tool_calls": [{"index": 0, "function": {"arguments": '{"at"'}}]},
    {"tool_calls": [{"index": 0, "function": {"arguments": ": 1}"}}]},
    {"tool_calls": [{"index": 1, **CALLS[1]}]},
]
LOGPROBS = {"content": [{"token": "The", "logprob": -0.1, "bytes": [84], "top_logprobs": []}]}


def respond(proxy, stream=False, model="m1", **fields):
    """A response; streamed, all its events are looked at, and the last one's response is returned."""
    ours = {name: fields.pop(name) for name in ("strategy", "veridical") if name in fields}
    fields.setdefault("input", "What is the capital of Australia?")
    made = proxy.client.responses.create(model=model, stream=stream, extra_body=ours, **fields)
    return checked([event.to_dict() for event in made])["response"] if stream else made.to_dict()


def checked(events):
    """The last event, after a look at what holds of every stream: numbers, order, and that the pieces
    add up to what is told as done."""
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    assert [event["type"] for event in events[:2]] == ["response.created", "response.in_progress"]
    assert events[0]["response"]["status"] == "in_progress"
    done = [event["item"] for event in events if event["type"] == "response.output_item.done"]
    added = [event["item"] for event in events if event["type"] == "response.output_item.added"]
    assert events[-1]["response"]["output"] == done
    assert [item["id"] for item in added] == [item["id"] for item in done]
    assert {item["status"] for item in added} <= {"in_progress"}
    for index, item in enumerate(done):
        mine = [event for event in events if event.get("output_index") == index]
        kinds = [event["type"].removeprefix("response.") for event in mine]
        assert kinds[0] == "output_item.added"
        assert kinds[-1] == "output_item.done"
        assert {event["item_id"] for event in mine[1:-1]} <= {item["id"]}
        pieces = "".join(event["delta"] for event in mine if event["type"].endswith(".delta"))
        parts = item.get("content") or [{"text": item.get("arguments", "")}]
        assert pieces == "".join(part.get("text") or part.get("refusal") or "" for part in parts)
    return events[-1]


@STREAMED
@pytest.mark.parametrize("model", ["m1", "m1+cove"])
def test_a_text_answer(proxy, upstream, model, stream):
    upstream.cove(WRONG, SYDNEY, final=RIGHT)
    found = respond(proxy, stream, model)
    (item,) = found["output"]
    text = RIGHT if model == "m1+cove" else WRONG
    assert item["content"] == [{"type": "output_text", "text": text, "annotations": [], "logprobs": []}]
    assert (item["type"], item["role"], item["status"]) == ("message", "assistant", "completed")
    assert (found["status"], found["model"], found["object"]) == ("completed", model, "response")
    calls = len(upstream.chats)
    assert found["usage"]["input_tokens"] == 7 * calls
    assert found["usage"]["total_tokens"] == 10 * calls
    if model == "m1+cove":
        assert found["veridical"]["status"] == "verified"
        assert found["veridical"]["claims"][0]["verdict"] == "refuted"
    else:
        assert "veridical" not in found


def test_the_events_of_a_text_in_the_official_order(proxy, upstream):
    upstream.on(draft=Say("Hello there.", cut=6))
    kinds = [event.type for event in proxy.client.responses.create(model="m1", input="Hi", stream=True)]
    assert kinds == [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        "response.content_part.added",
        "response.output_text.delta",
        "response.output_text.delta",
        "response.output_text.done",
        "response.content_part.done",
        "response.output_item.done",
        "response.completed",
    ]


def test_each_event_names_itself_on_the_wire(proxy, upstream):
    upstream.on(draft=Say("Hi"))
    raw = proxy.request("POST", RESPONSES, {"model": "m1", "input": "Hi", "stream": True}).raw.decode()
    events = [block.split("\n") for block in raw.split("\n\n") if block.startswith("event: ")]
    for name, data in events:
        assert json.loads(data.removeprefix("data: "))["type"] == name.removeprefix("event: ")
    assert "[DONE]" not in raw


@STREAMED
def test_tool_calls(proxy, upstream, stream):
    said = Say(None, message={"tool_calls": CALLS}, finish="tool_calls", deltas=CALL_DELTAS)
    upstream.on(draft=said)
    found = respond(proxy, stream, "m1+cove", tools=[LOOK])
    assert [
        (item["type"], item["call_id"], item["name"], json.loads(item["arguments"]))
        for item in found["output"]
    ] == [("function_call", "c1", "look", {"at": 1}), ("function_call", "c2", "look", {"at": 2})]
    assert found["veridical"]["status"] == "unchanged"
    function = {"name": "look", "parameters": {"type": "object"}, "strict": False}
    assert upstream.chats[0].body["tools"] == [{"type": "function", "function": function}]


@STREAMED
def test_reasoning_is_an_item_of_its_own(proxy, upstream, stream):
    upstream.on(draft=Say("Canberra.", message={"reasoning_content": "Not Sydney."}))
    found = respond(proxy, stream)
    thought, said = found["output"]
    assert (thought["type"], thought["content"]) == (
        "reasoning",
        [{"type": "reasoning_text", "text": "Not Sydney."}],
    )
    assert said["content"][0]["text"] == "Canberra."


@STREAMED
def test_a_refusal(proxy, upstream, stream):
    deltas = [{"role": "assistant", "refusal": "I will "}, {"refusal": "not."}]
    upstream.on(draft=Say(None, message={"refusal": "I will not."}, deltas=deltas))
    found = respond(proxy, stream)
    assert found["output"][0]["content"] == [{"type": "refusal", "refusal": "I will not."}]


@STREAMED
def test_logprobs_are_included(proxy, upstream, stream):
    upstream.on(draft=Say("The", logprobs=LOGPROBS))
    found = respond(proxy, stream, include=["message.output_text.logprobs"], top_logprobs=2)
    assert found["output"][0]["content"][0]["logprobs"] == LOGPROBS["content"]
    assert (upstream.chats[0].body["logprobs"], upstream.chats[0].body["top_logprobs"]) == (True, 2)


@STREAMED
@pytest.mark.parametrize(
    ("finish", "why"), [("length", "max_output_tokens"), ("content_filter", "content_filter")]
)
def test_an_answer_that_was_cut_is_incomplete(proxy, upstream, stream, finish, why):
    upstream.on(draft=Say("The capital is", finish=finish))
    found = respond(proxy, stream)
    assert (found["status"], found["incomplete_details"]) == ("incomplete", {"reason": why})
    assert found["output"][0]["status"] == "incomplete"


@STREAMED
def test_an_answer_without_words_is_an_empty_message(proxy, upstream, stream):
    upstream.on(draft=Say(""))
    (item,) = respond(proxy, stream)["output"]
    assert (item["type"], item["content"][0]["text"]) == ("message", "")


@STREAMED
def test_fields_that_only_the_backend_knows_are_kept(proxy, upstream, stream):
    said = Say("hi", message={"novel": {"a": 1}}, extra={"system_fingerprint": "fp", "service_tier": "flex"})
    upstream.on(draft=said)
    found = respond(proxy, stream)
    assert (found["output"][0]["novel"], found["system_fingerprint"]) == ({"a": 1}, "fp")
    assert found["service_tier"] == "flex"


def test_structured_output_is_parsed_by_the_sdk(proxy, upstream):
    class Capital(pydantic.BaseModel):
        city: str

    upstream.cove('{"city": "Sydney"}', SYDNEY, final='{"city": "Canberra"}')
    found = proxy.client.responses.parse(model="m1+cove", input="Capital?", text_format=Capital)
    assert found.output_parsed == Capital(city="Canberra")
    wanted = upstream.chats[0].body["response_format"]
    assert (wanted["type"], wanted["json_schema"]["name"]) == ("json_schema", "Capital")
    assert wanted["json_schema"]["strict"] is True
    assert upstream.chats[-1].body["response_format"] == wanted


def test_the_sdks_streaming_helper_accumulates(proxy, upstream):
    upstream.cove(WRONG, SYDNEY, final=RIGHT)
    with proxy.client.responses.stream(model="m1+cove", input="Capital?") as stream:
        texts = [event.delta for event in stream if event.type == "response.output_text.delta"]
        final = stream.get_final_response()
    assert "".join(texts) == final.output_text == RIGHT


@STREAMED
def test_an_early_failure_keeps_its_status(proxy, upstream, stream):
    upstream.on(draft=Fail(429, "slow down", {"Retry-After": "7"}))
    with pytest.raises(openai.RateLimitError) as caught:
        respond(proxy, stream)
    assert caught.value.response.headers["retry-after"] == "7"


def test_a_stream_that_breaks_ends_in_an_error_and_a_failed_response(proxy, upstream):
    chunk = {"choices": [{"index": 0, "delta": {"content": "The capi"}, "finish_reason": None}]}
    upstream.on(draft=Pieces([sse(chunk), Cut()]))
    with pytest.raises(openai.APIError) as caught:
        list(proxy.client.responses.create(model="m1", input="Capital?", stream=True))
    assert caught.value.code == "backend_failed"
    events = proxy.request("POST", RESPONSES, {"model": "m1", "input": "Hi", "stream": True}).events
    assert [event["type"] for event in events[-2:]] == ["error", "response.failed"]
    assert events[-1]["response"]["status"] == "failed"
    assert events[-1]["response"]["error"]["code"] == "server_error"
    assert [event["sequence_number"] for event in events] == list(range(len(events)))


@STREAMED
def test_the_steps_are_reasoning_where_they_are_asked_for(proxy, upstream, stream):
    upstream.cove(WRONG, SYDNEY, final=RIGHT)
    found = respond(proxy, stream, "m1+cove", veridical={"progress": "reasoning"})
    assert [item["type"] for item in found["output"]] == ["reasoning", "message"][not stream :]
    if stream:
        assert "Planning checks" in found["output"][0]["content"][0]["text"]


@STREAMED
def test_citations_are_annotations(serve, upstream, tmp_path, stream):
    (tmp_path / "pages.jsonl").write_text(json.dumps(PAGE))
    build(tmp_path / "pages.jsonl", tmp_path / "index")
    proxy = serve(retrievers={"facts": {"type": "index", "path": str(tmp_path / "index")}})
    upstream.on(**{"rag/answer": Say("The Nile flows through Cairo [1].")})
    found = respond(proxy, stream, "m1+rag", input="Which river flows through Cairo?")
    (note,) = found["output"][0]["content"][0]["annotations"]
    assert note["type"] == "url_citation"
    assert (note["start_index"], note["end_index"]) == (29, 32)
    assert (note["title"], note["url"]) == ("Nile", "https://nile.test")
    assert found["veridical"]["evidence"]
    if stream:
        asked = {"model": "m1+rag", "input": "Which river flows through Cairo?"}
        made = proxy.client.responses.create(**asked, stream=True)
        events = [event.type for event in made]
        at = events.index("response.output_text.annotation.added")
        assert events[at - 1 : at + 2 : 2] == ["response.output_text.delta", "response.output_text.done"]


@STREAMED
def test_a_degraded_answer_says_so(proxy, upstream, stream):
    upstream.cove(RIGHT, CANBERRA)
    upstream.on(check=Fail(500))
    found = respond(proxy, stream, "m1+cove", veridical={"budget": {"max_calls": 2}})
    assert (found["status"], found["veridical"]["status"]) == ("completed", "degraded")
    assert found["output"][0]["content"][0]["text"] == RIGHT
