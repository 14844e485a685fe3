"""Streams with a strategy: heartbeats, steps in words, live tokens, breaks, and clients that leave."""

import asyncio
import time

import openai
import pytest

from veridical.tests.answers import Cut, Fail, Pieces, Say, sse
from veridical.tests.proxy import wait_until
from veridical.tests.upstream import CANBERRA, SYDNEY, Fact

WRONG, RIGHT = "The capital of Australia is Sydney.", "The capital of Australia is Canberra."


def chunk(text: str | None = None, finish: str | None = None) -> bytes:
    delta = {} if text is None else {"content": text}
    return sse({"choices": [{"index": 0, "delta": delta, "finish_reason": finish}]})


def cove(proxy, **body):
    return proxy.ask(model="m1+cove", stream=True, **body)


def text_of(chunks) -> str:
    return "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)


def test_heartbeats_come_while_checks_run(serve, upstream):
    slow = Fact(CANBERRA.fact, CANBERRA.question, "Canberra.", delay=0.5)
    upstream.cove(RIGHT, slow)
    proxy = serve(server={"heartbeat_s": 0.05})
    raw = proxy.chat(model="m1+cove", stream=True).raw
    before, _, after = raw.partition(b'"content":"The')
    assert before.count(b": working\n\n") >= 3
    assert after.endswith(b"data: [DONE]\n\n")
    assert text_of(cove(proxy)) == RIGHT  # the SDK skips the comments


def test_the_status_does_not_wait_for_the_whole_answer(serve, upstream):
    upstream.on(draft=Say(RIGHT, delay=20))
    proxy = serve(server={"heartbeat_s": 0.1})
    with proxy.open(model="m1+cove", stream=True) as connection:
        connection.settimeout(5)
        assert connection.recv(1000).startswith(b"HTTP/1.1 200")
    assert upstream.chats[0].gone.wait(3)


@pytest.mark.parametrize("field", ["reasoning_content", "reasoning"])
def test_steps_come_as_reasoning_if_asked_for(proxy, upstream, field):
    upstream.cove(WRONG, SYDNEY, final=RIGHT)
    chunks = list(cove(proxy, veridical={"progress": "reasoning"}))
    steps = "".join(c.choices[0].delta.to_dict().get(field) or "" for c in chunks).splitlines()
    assert steps == [
        "Drafting an answer",
        "Planning checks",
        f"Checking: {SYDNEY.question}",
        f"Refuted: {WRONG}",
        "Rewriting what did not pass",
    ]
    assert text_of(chunks) == RIGHT
    assert chunks[0].choices[0].delta.role == "assistant"
    assert not any(c.choices[0].delta.to_dict().get(field) for c in cove(proxy))


def test_the_final_words_come_live(proxy, upstream):
    parts = [chunk("The "), 1.5, chunk("capital"), chunk(finish="stop"), b"data: [DONE]\n\n"]
    upstream.cove(WRONG, SYDNEY, final=Pieces(parts))
    spoken = (piece.choices[0].delta.content for piece in cove(proxy))
    came = [(text, time.monotonic()) for text in spoken if text]
    assert [text for text, _ in came] == ["The ", "capital"]
    assert came[1][1] - came[0][1] > 0.5


def test_words_cut_inside_a_character_arrive_whole(proxy, upstream):
    text = "Žluťoučký 🐎 馬"
    wire = chunk(text[:7]) + chunk(text[7:]) + chunk(finish="stop") + b"data: [DONE]\n\n"
    upstream.cove(WRONG, SYDNEY, final=Pieces([wire[i : i + 3] for i in range(0, len(wire), 3)]))
    assert text_of(cove(proxy)) == text


@pytest.mark.parametrize("end", ["\n\n", "\r\n\r\n", "\r\r"])
def test_line_ends_and_comments_of_every_kind_are_read(proxy, upstream, end):
    events = [b": hi\n\n", chunk("The capital"), b"event: x\nid: 3\n", chunk(finish="stop")]
    wire = b"".join(events).replace(b"\n\n", end.encode())
    upstream.cove(WRONG, SYDNEY, final=Pieces([wire]))
    assert text_of(cove(proxy)) == "The capital"


@pytest.mark.parametrize(
    "parts",
    [
        [chunk("half"), 0.2, Cut()],
        [chunk("half"), chunk()],
        [chunk("half"), sse({"error": {"message": "out of memory"}})],
        [chunk("half"), b"data: {nonsense\n\n"],
        [chunk("half"), b"data: 5\n\n"],
        [chunk("half"), sse({"choices": 5})],
        [chunk("half"), sse({"choices": [{"delta": {"content": 5}}]})],
        [chunk("half"), sse({"choices": [{"delta": {"tool_calls": [5]}}]})],
        [chunk("half"), sse({"choices": [{"delta": {"tool_calls": [{"index": "a"}]}}]})],
        [chunk("half"), sse({"choices": [{"delta": {}, "finish_reason": {}}]})],
        [chunk("half"), sse([])],
    ],
)
def test_final_words_that_break_end_in_an_error_event(proxy, upstream, parts):
    upstream.cove(WRONG, SYDNEY, final=Pieces(parts))
    said = []
    with pytest.raises(openai.APIError) as caught:
        said.extend(c.choices[0].delta.content for c in cove(proxy))
    assert "half" in (said or ["half"])
    assert caught.value.code == "backend_failed"
    assert b"[DONE]" not in proxy.chat(model="m1+cove", stream=True).raw


def test_final_words_that_break_before_they_begin_give_the_draft(proxy, upstream):
    upstream.cove(WRONG, SYDNEY, final=Pieces([chunk(""), sse({"error": {"message": "no memory"}})]))
    chunks = list(cove(proxy))
    assert text_of(chunks) == WRONG
    trail = chunks[-1].to_dict()["veridical"]
    assert trail["status"] == "degraded"
    assert "no memory" in trail["notes"][0]


@pytest.mark.parametrize("draft", [Fail(401, "who are you"), Fail(429, "slow down", {"Retry-After": "0"})])
def test_a_draft_that_is_refused_keeps_its_status(proxy, upstream, draft):
    upstream.on(draft=draft)
    with pytest.raises(openai.APIStatusError, match=draft.message) as caught:
        list(cove(proxy))
    assert caught.value.status_code == draft.status


def test_a_draft_that_comes_unstreamed_though_a_stream_was_asked_for_is_read(proxy, upstream):
    class Stubborn(Say):
        async def give(self, exchange, out):
            exchange.body.pop("stream")
            await super().give(exchange, out)

    upstream.cove(Stubborn(RIGHT), CANBERRA)
    assert text_of(cove(proxy)) == RIGHT


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("step", ["draft", "plan", "check", "cross_check", "revise"])
def test_a_client_that_leaves_takes_every_call_with_it(proxy, upstream, stream, step):
    upstream.cove(WRONG, SYDNEY, CANBERRA, final=RIGHT)
    upstream.on(**{step: Say("late", delay=20)})
    with proxy.open(model="m1+cove", stream=stream):
        wait_until(lambda: upstream.asked(step))
        if step in ("check", "cross_check"):
            wait_until(lambda: len(upstream.asked(step)) == 2)
    assert all(exchange.gone.wait(3) for exchange in upstream.asked(step))
    calls = len(upstream.chats)
    time.sleep(0.1)
    assert len(upstream.chats) == calls


def test_a_client_that_leaves_during_the_final_words_ends_them(proxy, upstream):
    upstream.cove(WRONG, SYDNEY, final=Pieces([chunk("The "), 20.0]))
    with proxy.open(model="m1+cove", stream=True) as connection:
        connection.settimeout(5)
        seen = b""
        while b"The " not in seen:
            seen += connection.recv(1000)
    assert upstream.asked("revise")[0].gone.wait(3)


def test_the_async_sdk_can_stop_early(proxy, upstream):
    upstream.cove(WRONG, SYDNEY, final=Pieces([chunk("The "), 20.0]))

    async def first_words() -> str:
        http_client = openai.DefaultAsyncHttpxClient(trust_env=False)
        async with openai.AsyncOpenAI(base_url=proxy.url, api_key="k", http_client=http_client) as client:
            question = [{"role": "user", "content": "?"}]
            stream = await client.chat.completions.create(model="m1+cove", messages=question, stream=True)
            async with stream:
                async for piece in stream:
                    if text := piece.choices[0].delta.content:
                        return text
        return ""

    assert asyncio.run(first_words()) == "The "
    assert upstream.asked("revise")[0].gone.wait(3)


def test_many_streams_at_once_keep_apart(proxy, upstream):
    upstream.cove(RIGHT, CANBERRA)
    upstream.on(draft=lambda exchange: Say(f"Echo: {exchange.prompt}. {RIGHT}", delay=0.05))

    async def all_at_once() -> list[str]:
        http_client = openai.DefaultAsyncHttpxClient(trust_env=False)
        async with openai.AsyncOpenAI(base_url=proxy.url, api_key="k", http_client=http_client) as client:

            async def one(number: int) -> str:
                question = [{"role": "user", "content": f"question {number}"}]
                stream = await client.chat.completions.create(model="m1+cove", messages=question, stream=True)
                return "".join([piece.choices[0].delta.content or "" async for piece in stream])

            return await asyncio.gather(*map(one, range(12)))

    answers = asyncio.run(all_at_once())
    assert answers == [f"Echo: question {number}. {RIGHT}" for number in range(12)]


SLOW = Pieces([chunk("slow "), 20.0, chunk("words", "stop")])
LONG = "Ada was born in 1815. She lived in Rome. She wrote novels. She knew Newton. She died in 1900."


def gone(upstream) -> int:
    """How many rewrites have had their connection closed on them."""
    return sum(exchange.gone.is_set() for exchange in upstream.asked("revise"))


def rewriting(upstream, revise) -> None:
    """Script five passages, each with a refuted fact."""
    upstream.cove(LONG, Fact("a fact", "what fact?", "Another.", "inconsistent"))
    upstream.on(revise=revise)


def test_a_client_that_leaves_ends_the_rewrites_that_were_not_read_yet(proxy, upstream):
    rewriting(upstream, SLOW)
    with proxy.open(model="m1+cove", stream=True):
        wait_until(lambda: len(upstream.asked("revise")) == 5)
    wait_until(lambda: gone(upstream) == 5)


def test_a_rewrite_that_fails_ends_the_others(proxy, upstream):
    answers = iter([Fail(400, "no"), *[SLOW] * 4])
    rewriting(upstream, lambda exchange: next(answers))
    answer = proxy.ask(model="m1+cove", stream=True)
    text = "".join(chunk.choices[0].delta.content or "" for chunk in answer if chunk.choices)
    assert text == LONG
    wait_until(lambda: gone(upstream) == 4)
