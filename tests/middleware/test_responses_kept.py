"""Responses that are kept: continued, looked at, deleted, and gone when there is no room or time."""

import asyncio

import openai
import pytest

from veridical.middleware.responses.store import MemoryStore
from veridical.tests.answers import Say
from veridical.tests.proxy import RESPONSES
from veridical.tests.upstream import CANBERRA, SYDNEY

CALL = {"id": "c1", "type": "function", "function": {"name": "look", "arguments": "{}"}}
LOOK = {"type": "function", "name": "look", "parameters": {"type": "object"}, "strict": False}
RIGHT = "The capital of Australia is Canberra."


def ask(proxy, words, **fields):
    fields.setdefault("model", "m1")
    return proxy.client.responses.create(input=words, **fields)


@pytest.mark.parametrize("stream", [False, True])
def test_a_conversation_is_continued(proxy, upstream, stream):
    upstream.on(draft=[Say("One."), Say("Two."), Say("Three.")])
    first = ask(proxy, "one", instructions="Be brief.", stream=stream)
    if stream:
        first = list(first)[-1].response
    second = ask(proxy, "two", previous_response_id=first.id)
    third = ask(proxy, "three", previous_response_id=second.id, instructions="Be long.")
    assert third.previous_response_id == second.id
    assert upstream.chats[-1].body["messages"] == [
        {"role": "system", "content": "Be long."},
        {"role": "user", "content": "one"},
        {"role": "assistant", "content": "One."},
        {"role": "user", "content": "two"},
        {"role": "assistant", "content": "Two."},
        {"role": "user", "content": "three"},
    ]


def test_a_conversation_goes_from_direct_to_a_strategy_and_back(proxy, upstream):
    upstream.cove(RIGHT, CANBERRA)
    first = ask(proxy, "Capital?", model="m1+cove")
    assert first.to_dict()["veridical"]["status"] == "unchanged"
    second = ask(proxy, "Sure?", previous_response_id=first.id, model="m2")
    ask(proxy, "Really?", previous_response_id=second.id, model="m1+cove")
    drafts = [exchange.body["messages"] for exchange in upstream.asked("draft")]
    assert [len(messages) for messages in drafts] == [1, 3, 5]
    upstream.cove(RIGHT, SYDNEY, final="It is Canberra.")
    last = ask(proxy, "And?", previous_response_id=first.id, model="m1+cove")
    ask(proxy, "Why?", previous_response_id=last.id)
    assert upstream.chats[-1].body["messages"][-2]["content"] == "It is Canberra."


def test_tool_results_answer_calls_of_the_previous_response(proxy, upstream):
    said = Say(None, message={"tool_calls": [CALL], "reasoning_content": "Hm."}, finish="tool_calls")
    upstream.on(draft=[said, Say("It is a map.")])
    first = ask(proxy, "Look!", tools=[LOOK])
    output = {"type": "function_call_output", "call_id": first.output[1].call_id, "output": "a map"}
    second = ask(proxy, [output], tools=[LOOK], previous_response_id=first.id)
    assert second.output_text == "It is a map."
    assert upstream.chats[-1].body["messages"] == [
        {"role": "user", "content": "Look!"},
        {"role": "assistant", "content": None, "reasoning_content": "Hm.", "tool_calls": [CALL]},
        {"role": "tool", "tool_call_id": "c1", "content": "a map"},
    ]


def test_output_sent_back_by_a_stateless_client_is_the_same_chat(proxy, upstream):
    upstream.on(draft=[Say("One.", message={"reasoning_content": "Hm."}), Say("Two.")])
    first = ask(proxy, "one", store=False)
    assert first.to_dict()["store"] is False
    again = [{"role": "user", "content": "one"}, *first.to_dict()["output"]]
    ask(proxy, [*again, {"role": "user", "content": "two"}])
    assert upstream.chats[-1].body["messages"] == [
        {"role": "user", "content": "one"},
        {"role": "assistant", "content": "One."},
        {"role": "user", "content": "two"},
    ]


def test_an_item_is_referred_to(proxy, upstream):
    upstream.on(draft=Say("One."))
    (item,) = ask(proxy, "one").output
    ask(proxy, [{"type": "item_reference", "id": item.id}, {"role": "user", "content": "two"}])
    assert upstream.chats[-1].body["messages"][0] == {"role": "assistant", "content": "One."}


def test_a_response_is_looked_at_and_deleted(proxy, upstream):
    upstream.on(draft=Say("One."))
    first = ask(proxy, "one", metadata={"a": "b"}, temperature=0.5)
    found = proxy.client.responses.retrieve(first.id)
    assert found == first
    assert (found.metadata, found.temperature) == ({"a": "b"}, 0.5)
    proxy.client.responses.delete(first.id)
    for gone in (proxy.client.responses.retrieve, proxy.client.responses.delete):
        with pytest.raises(openai.NotFoundError) as caught:
            gone(first.id)
        assert caught.value.code == "response_not_found"


def test_input_items_are_paged(proxy, upstream):
    upstream.on(draft=Say("One."))
    given = [{"role": "user", "content": str(number)} for number in range(5)]
    first = ask(proxy, given)
    listed = proxy.client.responses.input_items.list

    def words(**query):
        return [item.content[0].text for item in listed(first.id, **query)]

    assert words(order="asc") == list("01234")
    assert words(limit=2) == list("43210")  # the SDK turns the pages
    page = listed(first.id, limit=2, order="asc")
    assert (page.has_more, page.first_id, page.last_id) == (True, page.data[0].id, page.data[1].id)
    for query, param in ((("limit", 0), "limit"), (("order", "x"), "order"), (("after", "x"), "after")):
        path = f"{RESPONSES}/{first.id}/input_items?{query[0]}={query[1]}"
        key = {"Authorization": "Bearer sk-of-the-client"}
        assert proxy.request("GET", path, headers=key).error["param"] == param


def test_an_unknown_previous_response_is_named(proxy, upstream):
    for name in ("resp_other", "resp_vrdunknown"):
        with pytest.raises(openai.BadRequestError) as caught:
            ask(proxy, "two", previous_response_id=name, model="m1+cove")
        assert caught.value.param == "previous_response_id"
        assert caught.value.code == "previous_response_not_found"
    assert not upstream.chats


def test_what_is_not_stored_is_not_found(proxy, upstream):
    upstream.on(draft=Say("One."))
    first = ask(proxy, "one", store=False)
    with pytest.raises(openai.NotFoundError):
        proxy.client.responses.retrieve(first.id)


def test_one_client_cannot_reach_anothers(proxy, upstream):
    upstream.on(draft=Say("One."))
    first = ask(proxy, "one")
    other = proxy.client_with("sk-of-another")
    for reach in (
        lambda: other.responses.retrieve(first.id),
        lambda: other.responses.delete(first.id),
        lambda: other.responses.input_items.list(first.id),
    ):
        with pytest.raises(openai.NotFoundError):
            reach()
    for reach in (
        lambda: other.responses.create(model="m1", input="x", previous_response_id=first.id),
        lambda: other.responses.create(
            model="m1", input=[{"type": "item_reference", "id": first.output[0].id}]
        ),
    ):
        with pytest.raises(openai.BadRequestError):
            reach()
    assert proxy.client.responses.retrieve(first.id).id == first.id


def test_a_response_too_large_for_the_store_says_that_it_is_not_kept(serve, upstream):
    proxy = serve(responses={"max_bytes": 2000})
    upstream.on(draft=Say("x" * 5000))
    assert ask(proxy, "one").to_dict()["store"] is False
    streamed = list(ask(proxy, "one", stream=True))[-1].response
    assert streamed.to_dict()["store"] is False


def test_a_finished_response_is_not_streamed_again(proxy, upstream):
    upstream.on(draft=Say("One."))
    first = ask(proxy, "one")
    response = proxy.request(
        "GET", f"{RESPONSES}/{first.id}?stream=true", headers={"Authorization": "Bearer sk-of-the-client"}
    )
    assert (response.status, response.error["param"]) == (400, "stream")


def test_the_memory_store_is_bounded_in_bytes_and_time():
    now = [0.0]

    async def story():
        store = MemoryStore(3 * (100 + MemoryStore.OVERHEAD), 10.0, clock=lambda: now[0])
        for name in "abc":
            assert await store.put(name, b"x" * 100)
        assert await store.get("a")
        assert await store.put("d", b"x" * 100)
        assert [name for name in "abcd" if await store.get(name)] == ["a", "c", "d"]
        assert await store.put("a", b"y")
        assert await store.get("a") == b"y"
        assert not await store.put("e", b"x" * 2000)
        assert await store.get("c")
        assert await store.delete("c")
        assert not await store.delete("c")
        now[0] = 10.0
        assert await store.get("d") is None
        assert await store.put("f", b"x" * 900)

    asyncio.run(story())
