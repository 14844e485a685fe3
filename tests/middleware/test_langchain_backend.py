"""LangChain models as backends: a core fake."""

import asyncio
import json
import subprocess
import sys

import pytest
from langchain_core.language_models import BaseChatModel
from langchain_core.language_models.fake_chat_models import GenericFakeChatModel
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult

from veridical.middleware.backends.langchain import LangChainBackend
from veridical.middleware.backends.langchain_wire import finish_reason_of, to_langchain, tool_choice
from veridical.strategies.backend import ChatRequest
from veridical.strategies.errors import (
    BackendError,
    BackendFailed,
    BackendRateLimited,
    BackendRefused,
    BackendTimeout,
    BackendUnreachable,
    ConfigError,
    InvalidRequest,
    UnsupportedParameter,
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


def backend_of(model: BaseChatModel) -> LangChainBackend:
    """A backend whose model is made already."""
    backend = LangChainBackend("some.module:Fake", {})
    backend._models["m"] = model
    return backend


def run_with(model: BaseChatModel, request: ChatRequest):
    async def scenario():
        reply = await backend_of(model).chat(request)
        return [delta async for delta in reply], reply.answer

    return asyncio.run(scenario())


# --- A langchain-core fake


class Recorded(BaseChatModel):
    """Answers with what it is given, whole or in chunks, and keeps what it was sent."""

    answer: AIMessage | None = None
    chunks: tuple[AIMessageChunk, ...] = ()
    error: Exception | None = None
    sent: tuple[BaseMessage, ...] = ()
    kwargs: dict | None = None

    @property
    def _llm_type(self) -> str:
        return "recorded"

    def _note(self, messages, kwargs) -> None:
        self.sent, self.kwargs = tuple(messages), kwargs
        if self.error:
            raise self.error

    def _generate(self, messages, stop=None, run_manager=None, **kwargs):
        self._note(messages, {"stop": stop, **kwargs})
        return ChatResult(generations=[ChatGeneration(message=self.answer)])

    async def _astream(self, messages, stop=None, run_manager=None, **kwargs):
        self._note(messages, {"stop": stop, **kwargs})
        for chunk in self.chunks:
            yield ChatGenerationChunk(message=chunk)

    def bind_tools(self, tools, *, tool_choice=None, **kwargs):
        return self.bind(tools=tools, tool_choice=tool_choice, **kwargs)


class Unstreamed(Recorded):
    """A model that cannot stream."""

    _astream = BaseChatModel._astream


def test_the_core_fake_answers_and_streams_word_by_word():
    _, answer = run_with(GenericFakeChatModel(messages=iter(["Hello to you"])), asked())
    assert answer.message == {"role": "assistant", "content": "Hello to you"}
    assert answer.finish_reason == "stop"
    deltas, answer = run_with(GenericFakeChatModel(messages=iter(["Hello to you"])), asked(stream=True))
    assert [d.text for d in deltas if d.text] == ["Hello", " ", "to", " ", "you"]
    assert deltas[0].fields["role"] == "assistant"
    assert deltas[-1].finish_reason == "stop"
    assert answer.text == "Hello to you"


def test_usage_finish_reason_and_reasoning_of_a_whole_answer():
    usage = {
        "input_tokens": 9,
        "output_tokens": 5,
        "total_tokens": 14,
        "input_token_details": {"cache_read": 4},
        "output_token_details": {"reasoning": 2},
    }
    content = [
        {"type": "thinking", "thinking": "Hm."},
        {"type": "text", "text": "A"},
        {"type": "text", "text": "B"},
    ]
    said = AIMessage(content, usage_metadata=usage, response_metadata={"stop_reason": "max_tokens"})
    _, answer = run_with(Recorded(answer=said), asked())
    assert answer.message == {"role": "assistant", "content": "AB", "reasoning_content": "Hm."}
    assert answer.usage == Usage(9, 5, 4, 2)
    assert answer.finish_reason == "length"


def test_usage_of_a_stream_is_the_sum_of_its_chunks():
    def usage(read, written):
        return {"input_tokens": read, "output_tokens": written, "total_tokens": read + written}

    chunks = [
        AIMessageChunk("", usage_metadata=usage(9, 0)),
        AIMessageChunk("", additional_kwargs={"reasoning_content": "Hm."}),
        AIMessageChunk("Yes"),
        AIMessageChunk("", usage_metadata=usage(0, 3), response_metadata={"stop_reason": "end_turn"}),
    ]
    deltas, answer = run_with(Recorded(chunks=chunks), asked(stream=True))
    assert answer.usage == Usage(9, 3)
    assert answer.message["reasoning_content"] == "Hm."
    assert [d.finish_reason for d in deltas] == [None, None, "stop"]


def test_tool_calls_of_a_whole_answer():
    calls = [{"id": "c1", "name": "weather", "args": {"city": "Zürich"}}]
    broken = [{"id": "c2", "name": "weather", "args": "{oops", "error": None}]
    _, answer = run_with(Recorded(answer=AIMessage("", tool_calls=calls, invalid_tool_calls=broken)), asked())
    first, second = answer.message["tool_calls"]
    assert (first["id"], first["type"], first["function"]["name"]) == ("c1", "function", "weather")
    assert json.loads(first["function"]["arguments"]) == {"city": "Zürich"}
    assert second["function"]["arguments"] == "{oops"
    assert answer.message["content"] is None
    assert answer.finish_reason == "tool_calls"


def test_streamed_tool_calls_are_numbered_from_zero_whatever_the_provider_counts():
    def piece(index, id_, name, args):
        return AIMessageChunk("", tool_call_chunks=[{"index": index, "id": id_, "name": name, "args": args}])

    chunks = [
        AIMessageChunk("Let me see."),
        piece(1, "c1", "weather", ""),
        piece(1, None, None, '{"city":'),
        piece(1, None, None, '"Rome"}'),
        piece(None, "c2", "time", "{}"),
    ]
    deltas, answer = run_with(Recorded(chunks=chunks), asked(stream=True))
    assert [d.fields["tool_calls"][0]["index"] for d in deltas if "tool_calls" in d.fields] == [0, 0, 0, 1]
    assert [(c["id"], c["function"]["arguments"]) for c in answer.message["tool_calls"]] == [
        ("c1", '{"city":"Rome"}'),
        ("c2", "{}"),
    ]
    assert answer.finish_reason == "tool_calls"


def test_a_model_that_cannot_stream_gives_its_answer_in_one_piece():
    calls = [{"id": "c1", "name": "weather", "args": {}}]
    model = Unstreamed(answer=AIMessage("All at once", tool_calls=calls))
    deltas, answer = run_with(model, asked(stream=True))
    assert [d.text for d in deltas if d.text] == ["All at once"]
    assert answer.message["tool_calls"][0]["id"] == "c1"
    assert answer.finish_reason == "tool_calls"


def test_parameters_and_tools_reach_the_model():
    model = Recorded(answer=AIMessage("ok"))
    wanted = {"type": "json_object"}
    run_with(
        model,
        asked(
            temperature=0.5, stop="END", seed=7, max_completion_tokens=9, response_format=wanted, top_p=None
        ),
    )
    assert model.kwargs == {
        "temperature": 0.5,
        "stop": ["END"],
        "seed": 7,
        "max_tokens": 9,
        "response_format": wanted,
    }
    run_with(model, asked(tools=[TOOL], tool_choice="required", parallel_tool_calls=False))
    assert model.kwargs["tools"] == [TOOL]
    assert model.kwargs["tool_choice"] == "any"
    assert model.kwargs["parallel_tool_calls"] is False
    run_with(model, asked(tools=[TOOL], tool_choice="none"))
    assert model.kwargs == {"stop": None}


@pytest.mark.parametrize("name", ["config", "extra_headers", "callbacks", "n"])
def test_what_would_reach_further_than_the_request_is_refused_by_name(name):
    with pytest.raises(UnsupportedParameter, match=name) as caught:
        run_with(Recorded(answer=AIMessage("ok")), asked(**{name: 2}))
    assert caught.value.param == name


def test_tools_for_a_model_that_takes_none_are_refused():
    with pytest.raises(UnsupportedParameter) as caught:
        run_with(GenericFakeChatModel(messages=iter(["x"])), asked(tools=[TOOL]))
    assert caught.value.param == "tools"


def test_renamed_and_refused_parameters():
    backend = LangChainBackend("a:B", {}, refuse=("temperature",), rename={"max_tokens": "max_output_tokens"})
    backend._models["m"] = model = Recorded(answer=AIMessage("ok"))
    params = backend.adapted({"temperature": 0, "max_tokens": 5})
    asyncio.run(backend.chat(asked(**params)))
    assert model.kwargs == {"stop": None, "max_output_tokens": 5}


def test_messages_survive_the_way_in():
    call = {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": '{"a": 1}'}}
    bare = {"id": "c2", "type": "function", "function": {"name": "now", "arguments": ""}}
    messages = to_langchain(
        [
            {"role": "system", "content": "Be brief."},
            {"role": "developer", "content": "Be kind."},
            {"role": "user", "content": [{"type": "text", "text": "What is this?"}, IMAGE], "name": None},
            {"role": "assistant", "tool_calls": [call, bare]},
            {"role": "tool", "tool_call_id": "c1", "content": "sunny"},
        ]
    )
    assert [m.type for m in messages] == ["system", "system", "human", "ai", "tool"]
    assert messages[2].content[1] == IMAGE
    assert [c["args"] for c in messages[3].tool_calls] == [{"a": 1}, {}]
    assert (messages[4].tool_call_id, messages[4].content) == ("c1", "sunny")


@pytest.mark.parametrize(
    "message",
    [
        {"role": "wizard", "content": "secret words"},
        {"content": "secret words"},
        {"role": "tool", "content": "secret words"},
        {"role": "user", "content": "secret words", "message_type": "x"},
        {"role": "assistant", "content": "secret words", "tool_calls": ["x"]},
        {
            "role": "assistant",
            "tool_calls": [{"id": "c", "function": {"name": "f", "arguments": "{secret words"}}],
        },
    ],
)
def test_an_unreadable_message_is_named_and_not_quoted(message):
    with pytest.raises(InvalidRequest, match=r"messages\[1\]") as caught:
        to_langchain([*HELLO, message])
    assert "secret words" not in caught.value.message


def test_tool_choices_in_everybodys_words():
    assert tool_choice({"type": "function", "function": {"name": "weather"}}) == "weather"
    assert tool_choice("auto") == "auto"


@pytest.mark.parametrize(
    ("metadata", "reason"),
    [
        ({"finish_reason": "length"}, "length"),
        ({"finish_reason": "STOP"}, "stop"),
        ({"finish_reason": "MAX_TOKENS"}, "length"),
        ({"stop_reason": "tool_use"}, "tool_calls"),
        ({"stopReason": "end_turn"}, "stop"),
        ({}, None),
    ],
)
def test_finish_reasons_are_openais(metadata, reason):
    assert finish_reason_of(AIMessage("", response_metadata=metadata)) == reason


# --- Errors


class SDKError(Exception):
    def __init__(self, status_code: int, body=None, **headers: str) -> None:
        super().__init__(f"Error {status_code} with {KEY}")
        self.status_code, self.body = status_code, body
        self.response = type("Response", (), {"headers": headers})()


class APITimeoutError(Exception):
    pass


class APIConnectionError(Exception):
    pass


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (SDKError(400), BackendRefused),
        (SDKError(429), BackendRateLimited),
        (SDKError(503), BackendFailed),
        (APITimeoutError(KEY), BackendTimeout),
        (TimeoutError(KEY), BackendTimeout),
        (APIConnectionError(KEY), BackendUnreachable),
        (ConnectionRefusedError(KEY), BackendUnreachable),
        (RuntimeError(KEY), BackendFailed),
    ],
)
def test_errors_become_ours_by_status_or_kind(error, kind, stream):
    with pytest.raises(BackendError) as caught:
        run_with(Recorded(error=error), asked(stream))
    assert type(caught.value) is kind
    assert KEY not in caught.value.message
    assert caught.value.status == getattr(error, "status_code", None)


def test_a_parameter_that_the_sdk_does_not_know_is_a_refusal():
    error = TypeError("create() got an unexpected keyword argument 'seed'")
    with pytest.raises(BackendRefused, match="'seed'") as caught:
        run_with(Recorded(error=error), asked())
    assert caught.value.status == 400


def test_what_the_provider_says_is_passed_on_without_the_key(monkeypatch):
    monkeypatch.setenv("SOME_KEY", KEY)
    backend = LangChainBackend("a:B", {"api_key_env": "SOME_KEY"})
    body = {"error": {"message": f"No room for {KEY}", "type": "busy", "code": 7, "internal": KEY}}
    backend._models["m"] = Recorded(error=SDKError(429, body, **{"retry-after": "3"}))
    with pytest.raises(BackendRateLimited, match=r"No room for \[key\]") as caught:
        asyncio.run(backend.chat(asked()))
    assert caught.value.body == {"message": "No room for [key]", "type": "busy", "code": 7}
    assert caught.value.retry_after == "3"


def test_a_refused_key_is_not_talked_about():
    with pytest.raises(BackendRefused) as caught:
        run_with(Recorded(error=SDKError(401, {"message": "Wrong key sk-part***"})), asked())
    assert caught.value.body is None
    assert "sk-" not in caught.value.message


@pytest.mark.parametrize(
    ("model_class", "words"),
    [
        ("langchain_nowhere:Chat", "langchain-nowhere installed"),
        ("langchain_core.language_models:Nothing", "has no Nothing"),
        ("langchain_openai:ChatOpenAI", "temperature"),
    ],
)
def test_a_class_that_cannot_be_made_is_a_config_error(model_class, words):
    backend = LangChainBackend(model_class, {"temperature": KEY, "api_key": KEY})
    with pytest.raises(ConfigError, match=words) as caught:
        asyncio.run(backend.chat(asked()))
    assert KEY not in caught.value.message


def test_configuration_errors_come_early():
    with pytest.raises(ConfigError, match="import string"):
        LangChainBackend("not an import string", {})
    with pytest.raises(ConfigError, match="NOT_SET_ANYWHERE"):
        LangChainBackend("a:B", {"api_key_env": "NOT_SET_ANYWHERE"})


def test_langchain_is_not_imported_until_it_is_used():
    code = (
        "import sys; from veridical.middleware.backends.langchain import LangChainBackend;"
        "LangChainBackend('langchain_openai:ChatOpenAI', {});"
        "sys.exit(any(name.startswith('langchain_') for name in sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
