"""Parsers of what comes from outside, on inputs that nobody would write: an error of ours, or a value."""

import json
from contextlib import suppress

from hypothesis import example, given
from hypothesis import strategies as st

from veridical.middleware.protocol import read_body
from veridical.middleware.responses.request import read_responses_body
from veridical.middleware.transparent import form_model, safe_path, with_form_model
from veridical.strategies.errors import VeridicalError
from veridical.strategies.expression import MAX_STAGES, parse_expression
from veridical.tests.middleware.test_properties import JSON

PIECES = [
    "cove",
    "|",
    "(",
    ")",
    ",",
    "=",
    "1",
    "-",
    ".5",
    "e9",
    '"',
    "'",
    "\\",
    " ",
    "max_questions",
    "true",
    "é",
]
FORM = [
    b"--b",
    b"--",
    b"\r\n",
    b"\r\n\r\n",
    b'Content-Disposition: form-data; name="model"',
    b"m1",
    b"\n",
    b'"',
]
PATH = [
    b"/v1/",
    b"/",
    b".",
    b"..",
    b"%2e",
    b"%2f",
    b"%25",
    b"%5c",
    b"%00",
    b"a",
    b"\\",
    b"?",
    b"#",
    b"\xff",
    b"%c0%af",
]
TYPES = st.sampled_from(
    ["multipart/form-data; boundary=b", 'multipart/form-data; boundary="b"', "multipart/x"]
)
ITEM = st.fixed_dictionaries(
    {}, optional={"type": st.sampled_from(["message", "function_call", "reasoning", "x"]) | JSON,
                  "role": st.sampled_from(["user", "assistant"]) | JSON, "content": JSON, "id": JSON,
                  "call_id": JSON, "output": JSON, "arguments": JSON, "name": JSON, "summary": JSON}
)  # fmt: skip
FIELDS = [
    *("tools", "tool_choice", "text", "reasoning", "instructions", "include", "store", "stream", "metadata"),
    *("previous_response_id", "max_output_tokens", "truncation", "background", "veridical", "strategy"),
]
RESPONSES = st.fixed_dictionaries(
    {"model": st.just("m1") | JSON, "input": st.lists(ITEM, max_size=3) | JSON},
    optional=dict.fromkeys(FIELDS, JSON),
)


@given(st.lists(st.sampled_from(PIECES), max_size=40).map("".join) | st.text(max_size=1100))
def test_an_expression_is_read_or_refused(text):
    with suppress(VeridicalError):
        assert 1 <= len(parse_expression(text)) <= MAX_STAGES


@given(RESPONSES)
@example({"model": "m1", "input": [{"role": []}]})
@example({"model": "m1", "input": "hi", "include": [{}]})
def test_a_responses_request_becomes_a_chat_or_is_refused(body):
    with suppress(VeridicalError):
        request = read_responses_body(json.dumps(body).encode())
        chat = request.chat((), request.items(), lambda params: params)
        read_body(json.dumps(dict(chat.body)).encode())


@example(b'--b\r\nContent-Disposition: form-data; name="model"\r\n\r\n--b', "multipart/form-data; boundary=b")
@given(st.lists(st.sampled_from(FORM), max_size=12).map(b"".join), TYPES)
def test_a_form_is_changed_in_its_model_alone(raw, kind):
    model = form_model(raw, kind)
    changed = with_form_model(raw, kind, "other")
    if model is None:
        assert changed == raw
    else:
        assert form_model(changed, kind) == "other"
        assert len(changed) - len(raw) <= len("other")


@given(st.lists(st.sampled_from(PATH), max_size=10).map(b"".join))
def test_a_path_that_is_passed_on_stays_below_the_root(raw):
    with suppress(VeridicalError):
        path = safe_path(b"/v1/" + raw)
        assert path.startswith("/")
        assert ".." not in path.split("/")
        assert not {"\\", "?", "#"} & set(path)
