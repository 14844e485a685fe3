"""ChatOpenAI as a backend, against a loopback server that speaks OpenAI."""

import asyncio
import json
from collections.abc import Awaitable, Callable

import pytest
from aiohttp import web

from veridical.middleware.backends.langchain import LangChainBackend
from veridical.strategies.backend import ChatRequest
from veridical.strategies.errors import (
    BackendRateLimited,
    BackendUnreachable,
)
from veridical.strategies.types import Usage

KEY = "sk-a-key-that-nobody-may-see"
HELLO = [{"role": "user", "content": "Hello"}]
TOOL = {
    "type": "function",
    "function": {"name": "weather", "parameters": {"type": "object", "properties": {}}},
}
IMAGE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}


def asked(stream: bool = False, messages=HELLO, **params) -> ChatRequest:
    return ChatRequest("m", messages, params, stream)


USAGE = {
    "prompt_tokens": 8,
    "completion_tokens": 4,
    "total_tokens": 12,
    "prompt_tokens_details": {"cached_tokens": 6},
    "completion_tokens_details": {"reasoning_tokens": 1},
}


class OpenAIServer:
    """Speaks chat completions; keeps request bodies, and whether a stream was cut by its reader."""

    def __init__(self) -> None:
        self.bodies: list[dict] = []
        self.headers: list[dict] = []
        self.cut = asyncio.Event()
        self.endless = False

    async def handle(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        self.bodies.append(body)
        self.headers.append(dict(request.headers))
        if body["model"] == "busy":
            error = {"message": "Slow down.", "type": "rate_limit", "param": None, "code": "slow"}
            return web.json_response({"error": error}, status=429, headers={"Retry-After": "2"})
        return await self.stream(request) if body.get("stream") else web.json_response(self.completion(body))

    def completion(self, body: dict) -> dict:
        call = {
            "id": "c1",
            "type": "function",
            "function": {"name": "weather", "arguments": '{"city": "Rome"}'},
        }
        said = {"content": None, "tool_calls": [call]} if body.get("tools") else {"content": '{"a": 1}'}
        finish = "tool_calls" if body.get("tools") else "stop"
        choice = {"index": 0, "message": {"role": "assistant", **said}, "finish_reason": finish}
        return {
            "id": "x",
            "object": "chat.completion",
            "created": 1,
            "model": "m",
            "system_fingerprint": "fp",
            "choices": [choice],
            "usage": USAGE,
        }

    async def stream(self, request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        try:
            for words in ("Paris", " is", " it."):
                await self.send(response, {"index": 0, "delta": {"role": "assistant", "content": words}})
            while self.endless:
                await self.send(response, {"index": 0, "delta": {"content": "…"}})
                await asyncio.sleep(0.01)
            await self.send(response, {"index": 0, "delta": {}, "finish_reason": "stop"})
            await self.send(response, None, usage=USAGE)
            await response.write(b"data: [DONE]\n\n")
        except ConnectionError:
            self.cut.set()
        return response

    async def send(self, response: web.StreamResponse, choice: dict | None, **fields) -> None:
        chunk = {"id": "x", "object": "chat.completion.chunk", "created": 1, "model": "m", **fields}
        chunk["choices"] = [choice] if choice else []
        await response.write(f"data: {json.dumps(chunk)}\n\n".encode())


def with_server(monkeypatch, scenario: Callable[[LangChainBackend, OpenAIServer], Awaitable[None]]) -> None:
    monkeypatch.setenv("SOME_KEY", KEY)

    async def run() -> None:
        server, app = OpenAIServer(), web.Application()
        app.router.add_post("/v1/chat/completions", server.handle)
        runner = web.AppRunner(app)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        url = f"http://127.0.0.1:{runner.addresses[0][1]}/v1"
        backend = LangChainBackend(
            "langchain_openai:ChatOpenAI", {"base_url": url, "api_key_env": "SOME_KEY"}
        )
        try:
            await scenario(backend, server)
        finally:
            for model in backend._models.values():
                await model.root_async_client.close()
            await runner.cleanup()

    asyncio.run(run())


def test_chat_openai_whole(monkeypatch):
    async def scenario(backend, server):
        messages = [{"role": "user", "content": [{"type": "text", "text": "What is this?"}, IMAGE]}]
        wanted = {"type": "json_object"}
        request = asked(messages=messages, temperature=0, max_tokens=5, response_format=wanted, seed=3)
        answer = await (await backend.chat(request)).read()
        assert answer.text == '{"a": 1}'
        assert answer.usage == Usage(8, 4, 6, 1)
        assert answer.envelope == {"system_fingerprint": "fp"}
        (body,) = server.bodies
        assert (body["model"], body["temperature"], body["seed"]) == ("m", 0, 3)
        assert body["response_format"] == wanted
        assert body["max_completion_tokens"] == 5
        assert body["messages"][0]["content"][1] == IMAGE
        assert server.headers[0]["Authorization"] == f"Bearer {KEY}"

    with_server(monkeypatch, scenario)


def test_chat_openai_streams_as_it_arrives_with_usage(monkeypatch):
    async def scenario(backend, server):
        reply = await backend.chat(asked(stream=True))
        deltas = [delta async for delta in reply]
        assert [d.text for d in deltas if d.text] == ["Paris", " is", " it."]
        assert [d.finish_reason for d in deltas if d.finish_reason] == ["stop"]
        assert reply.answer.usage == Usage(8, 4, 6, 1)
        assert server.bodies[0]["stream_options"] == {"include_usage": True}

    with_server(monkeypatch, scenario)


def test_chat_openai_streams_under_a_schema_without_saying_it_twice(monkeypatch):
    async def scenario(backend, server):
        schema = {"name": "s", "schema": {"type": "object", "properties": {}}}
        wanted = {"type": "json_schema", "json_schema": schema}
        reply = await backend.chat(asked(stream=True, response_format=wanted))
        answer = await reply.read()
        assert answer.text == "Paris is it."
        assert answer.usage == Usage(8, 4, 6, 1)

    with_server(monkeypatch, scenario)


def test_chat_openai_calls_tools_and_gets_their_results(monkeypatch):
    async def scenario(backend, server):
        answer = await (await backend.chat(asked(tools=[TOOL], tool_choice="required"))).read()
        (call,) = answer.message["tool_calls"]
        assert json.loads(call["function"]["arguments"]) == {"city": "Rome"}
        assert answer.finish_reason == "tool_calls"
        result = {"role": "tool", "tool_call_id": "c1", "content": "sunny"}
        await backend.chat(asked(messages=[*HELLO, answer.message, result]))
        first, second = server.bodies
        assert (first["tools"], first["tool_choice"]) == ([TOOL], "required")
        assert second["messages"][1]["tool_calls"][0]["id"] == "c1"
        assert second["messages"][2] == result

    with_server(monkeypatch, scenario)


@pytest.mark.parametrize("stream", [False, True])
def test_chat_openai_refusals_are_asked_once_and_pass_on(monkeypatch, stream):
    async def scenario(backend, server):
        with pytest.raises(BackendRateLimited, match="Slow down") as caught:
            await backend.chat(ChatRequest("busy", HELLO, {}, stream))
        assert caught.value.retry_after == "2"
        assert caught.value.body["code"] == "slow"
        assert len(server.bodies) == 1

    with_server(monkeypatch, scenario)


def test_chat_openai_with_nobody_there():
    backend = LangChainBackend(
        "langchain_openai:ChatOpenAI", {"base_url": "http://127.0.0.1:9", "api_key": "x"}
    )
    with pytest.raises(BackendUnreachable):
        asyncio.run(backend.chat(asked()))


def test_closing_the_reply_closes_the_stream(monkeypatch):
    async def scenario(backend, server):
        server.endless = True
        reply = await backend.chat(asked(stream=True))
        async for _ in reply:
            break
        await reply.aclose()
        async with asyncio.timeout(30):
            await server.cut.wait()

    with_server(monkeypatch, scenario)


def test_cancelling_the_reader_closes_the_stream(monkeypatch):
    async def scenario(backend, server):
        server.endless = True
        reply = await backend.chat(asked(stream=True))
        reading = asyncio.create_task(reply.read())
        await asyncio.sleep(0.05)
        reading.cancel()
        async with asyncio.timeout(30):
            await server.cut.wait()
        with pytest.raises(asyncio.CancelledError):
            await reading

    with_server(monkeypatch, scenario)
