"""Requests of the Responses API as the backend sees them, as chats; what a chat cannot keep is refused
by name."""

import pytest

from veridical.tests.answers import Say
from veridical.tests.proxy import RESPONSES

ONE = {"role": "user", "content": "one"}


@pytest.fixture
def chat_of(proxy, upstream):
    """The chat that the backend sees for a request."""

    def made(**fields):
        upstream.on(draft=Say("hi"))
        body = {"model": "m1", "input": "one", **fields}
        response = proxy.request("POST", RESPONSES, body)
        assert response.status == 200, response.raw
        return upstream.chats[-1].body

    return made


def call(number):
    return {"type": "function_call", "call_id": f"c{number}", "name": "look", "arguments": "{}"}


def called(*numbers):
    function = {"name": "look", "arguments": "{}"}
    return [{"id": f"c{number}", "type": "function", "function": function} for number in numbers]


def text(words, kind="input_text", **more):
    return {"type": kind, "text": words, **more}


@pytest.mark.parametrize(
    ("given", "messages"),
    [
        ("one", [ONE]),
        ("žluťoučký 🐎", [{"role": "user", "content": "žluťoučký 🐎"}]),
        ([ONE], [ONE]),
        ([{"type": "message", "id": "msg_1", "status": "completed", **ONE}], [ONE]),
        ([{"role": "user", "content": [text("one")]}], [ONE]),
        (
            [{"role": "user", "content": [text("one"), text("two", novel=1)]}],
            [
                {
                    "role": "user",
                    "content": [
                        {"type": "text", "text": "one"},
                        {"type": "text", "text": "two", "novel": 1},
                    ],
                }
            ],
        ),
        (
            [{"role": "system", "content": "s"}, {"role": "developer", "content": "d"}, ONE],
            [{"role": "system", "content": "s"}, {"role": "developer", "content": "d"}, ONE],
        ),
        (
            [
                ONE,
                {
                    "type": "message",
                    "role": "assistant",
                    "id": "msg_2",
                    "status": "completed",
                    "content": [text("two", "output_text", annotations=[], logprobs=[])],
                },
                {"role": "user", "content": "three", "novel": [1]},
            ],
            [
                ONE,
                {"role": "assistant", "content": "two"},
                {"role": "user", "content": "three", "novel": [1]},
            ],
        ),
        (
            [ONE, {"role": "assistant", "content": [{"type": "refusal", "refusal": "no"}]}, ONE],
            [ONE, {"role": "assistant", "content": [{"type": "refusal", "refusal": "no"}]}, ONE],
        ),
        (
            [
                ONE,
                {"role": "assistant", "content": "Let me see."},
                call(1),
                call(2),
                {"type": "function_call_output", "call_id": "c1", "output": "a map"},
                {"type": "function_call_output", "call_id": "c2", "output": [text("a sky")]},
            ],
            [
                ONE,
                {"role": "assistant", "content": "Let me see.", "tool_calls": called(1, 2)},
                {"role": "tool", "tool_call_id": "c1", "content": "a map"},
                {"role": "tool", "tool_call_id": "c2", "content": "a sky"},
            ],
        ),
        (
            [
                ONE,
                {"type": "reasoning", "summary": [], "content": [{"type": "reasoning_text", "text": "Hm."}]},
                call(1),
                {"type": "function_call_output", "call_id": "c1", "output": ""},
            ],
            [
                ONE,
                {
                    "role": "assistant",
                    "content": None,
                    "reasoning_content": "Hm.",
                    "tool_calls": called(1),
                },
                {"role": "tool", "tool_call_id": "c1", "content": ""},
            ],
        ),
        (
            [
                {"type": "reasoning", "summary": [{"type": "summary_text", "text": "Hm."}]},
                call(1),
                {"type": "function_call_output", "call_id": "c1", "output": ""},
                ONE,
            ],
            [
                {"role": "assistant", "content": None, "tool_calls": called(1)},
                {"role": "tool", "tool_call_id": "c1", "content": ""},
                ONE,
            ],
        ),
        (
            [
                {
                    "role": "user",
                    "content": [
                        {"type": "input_image", "image_url": "data:image/png;base64,AA", "detail": "low"},
                        {"type": "input_file", "filename": "a.pdf", "file_data": "data:x"},
                        {"type": "input_audio", "input_audio": {"data": "AA", "format": "wav"}},
                    ],
                }
            ],
            [
                {
                    "role": "user",
                    "content": [
                        {
                            "type": "image_url",
                            "image_url": {"url": "data:image/png;base64,AA", "detail": "low"},
                        },
                        {"type": "file", "file": {"file_data": "data:x", "filename": "a.pdf"}},
                        {"type": "input_audio", "input_audio": {"data": "AA", "format": "wav"}},
                    ],
                }
            ],
        ),
    ],
)
def test_input_becomes_messages(chat_of, given, messages):
    assert chat_of(input=given)["messages"] == messages


@pytest.mark.parametrize(
    ("given", "sent"),
    [
        ({"max_output_tokens": 9}, {"max_tokens": 9}),
        ({"temperature": 0.5, "top_p": 0.5, "user": "u"}, {"temperature": 0.5, "top_p": 0.5, "user": "u"}),
        ({"parallel_tool_calls": False, "seed": 3}, {"parallel_tool_calls": False, "seed": 3}),
        ({"text": {"format": {"type": "text"}, "verbosity": "low"}}, {"verbosity": "low"}),
        (
            {"text": {"format": {"type": "json_object"}}},
            {"response_format": {"type": "json_object"}},
        ),
        (
            {"text": {"format": {"type": "json_schema", "name": "a", "schema": {}, "strict": True}}},
            {
                "response_format": {
                    "type": "json_schema",
                    "json_schema": {"name": "a", "schema": {}, "strict": True},
                }
            },
        ),
        ({"reasoning": {"effort": "low", "summary": "auto"}}, {"reasoning_effort": "low"}),
        ({"tool_choice": "required"}, {"tool_choice": "required"}),
        (
            {"tool_choice": {"type": "function", "name": "look"}},
            {"tool_choice": {"type": "function", "function": {"name": "look"}}},
        ),
        (
            {
                "tool_choice": {
                    "type": "allowed_tools",
                    "mode": "auto",
                    "tools": [{"type": "function", "name": "look"}],
                }
            },
            {
                "tool_choice": {
                    "type": "allowed_tools",
                    "allowed_tools": {
                        "mode": "auto",
                        "tools": [{"type": "function", "function": {"name": "look"}}],
                    },
                }
            },
        ),
        ({"metadata": {"a": "b"}, "store": False, "truncation": "disabled", "background": False}, {}),
        ({"include": ["reasoning.encrypted_content"], "stream_options": {"include_obfuscation": False}}, {}),
        (
            {"chat_template_kwargs": {"enable_thinking": False}},
            {"chat_template_kwargs": {"enable_thinking": False}},
        ),
    ],
)
def test_parameters_become_those_of_a_chat(chat_of, given, sent):
    assert chat_of(**given) == {"model": "m1", "messages": [ONE], **sent}


def test_the_length_is_named_as_the_backend_knows_it(serve, upstream):
    upstream.on(draft=Say("hi"))
    proxy = serve(backend={"rename": {"max_tokens": "max_completion_tokens"}})
    proxy.client.responses.create(model="m1", input="one", max_output_tokens=9)
    assert upstream.chats[0].body["max_completion_tokens"] == 9
    proxy = serve(backend={"refuse": ["max_tokens"]})
    refused = proxy.request("POST", RESPONSES, {"model": "m1", "input": "one", "max_output_tokens": 9})
    assert (refused.status, refused.error["param"]) == (400, "max_output_tokens")


def test_instructions_stand_first(chat_of):
    messages = chat_of(instructions="Be brief.")["messages"]
    assert messages == [{"role": "system", "content": "Be brief."}, ONE]


def item(**fields):
    return {"input": [ONE, fields]}


def part(**fields):
    return {"input": [{"role": "user", "content": [text("x"), fields]}]}


@pytest.mark.parametrize("model", ["m1", "m1+cove"])
@pytest.mark.parametrize(
    ("fields", "param", "code"),
    [
        ({"input": None}, "input", "invalid_request"),
        ({"input": 5}, "input", "invalid_request"),
        ({"input": []}, "input", "invalid_request"),
        ({"input": ["one"]}, "input[0]", "invalid_request"),
        (item(role="robot", content="x"), "input[1].role", "invalid_request"),
        (item(role="user"), "input[1].content", "invalid_request"),
        (item(role="user", content=[5]), "input[1].content[0]", "invalid_request"),
        (item(type="web_search_call", id="ws_1"), "input[1].type", "unsupported_parameter"),
        (item(type="computer_call_output"), "input[1].type", "unsupported_parameter"),
        (item(type="function_call", call_id="c"), "input[1].name", "invalid_request"),
        (item(**call(1), namespace="n"), "input[1].namespace", "unsupported_parameter"),
        (item(type="function_call_output", output=""), "input[1].call_id", "invalid_request"),
        (
            item(type="reasoning", encrypted_content="x"),
            "input[1].encrypted_content",
            "unsupported_parameter",
        ),
        (item(type="item_reference", id="msg_other"), "input[1].id", "unsupported_parameter"),
        (part(type="input_image", file_id="f"), "input[0].content[1].file_id", "unsupported_parameter"),
        (part(type="input_file", file_url="u"), "input[0].content[1].file_url", "unsupported_parameter"),
        (part(type="novel"), "input[0].content[1].type", "unsupported_parameter"),
        ({"background": True}, "background", "unsupported_parameter"),
        ({"conversation": "conv_1"}, "conversation", "unsupported_parameter"),
        ({"prompt": {"id": "pmpt_1"}}, "prompt", "unsupported_parameter"),
        ({"max_tool_calls": 3}, "max_tool_calls", "unsupported_parameter"),
        ({"truncation": "auto"}, "truncation", "unsupported_parameter"),
        ({"include": ["web_search_call.results"]}, "include", "unsupported_parameter"),
        ({"tools": [{"type": "web_search"}]}, "tools[0].type", "unsupported_parameter"),
        ({"tools": [5]}, "tools[0]", "invalid_request"),
        ({"tool_choice": {"type": "file_search"}}, "tool_choice", "unsupported_parameter"),
        ({"reasoning": {"summary": "detailed"}}, "reasoning.summary", "unsupported_parameter"),
        ({"text": {"format": {"type": "xml"}}}, "text.format.type", "unsupported_parameter"),
        ({"text": {"novel": 1}}, "text.novel", "unsupported_parameter"),
        ({"max_tokens": 5}, "max_tokens", "unsupported_parameter"),
        ({"response_format": {"type": "text"}}, "response_format", "unsupported_parameter"),
        ({"messages": [ONE]}, "messages", "unsupported_parameter"),
        ({"n": 2}, "n", "unsupported_parameter"),
        ({"max_output_tokens": 0}, "max_output_tokens", "invalid_request"),
        ({"temperature": "hot"}, "temperature", "invalid_request"),
        ({"stream": "yes"}, "stream", "invalid_request"),
        ({"tools": {}}, "tools", "invalid_request"),
        ({"previous_response_id": 5}, "previous_response_id", "invalid_request"),
        (
            {"stream_options": {"include_obfuscation": True}},
            "stream_options.include_obfuscation",
            "unsupported_parameter",
        ),
        ({"veridical": {"novel": 1}}, "veridical.novel", "invalid_request"),
    ],
)
def test_what_a_chat_cannot_keep_is_refused_by_name(proxy, upstream, model, fields, param, code):
    response = proxy.request("POST", RESPONSES, {"model": model, "input": "one", **fields})
    assert (response.status, response.error["param"], response.error["code"]) == (400, param, code)
    assert not upstream.chats
