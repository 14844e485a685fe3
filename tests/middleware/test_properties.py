"""Properties that must hold for any input: event framing, name splitting, reasoning, request bodies."""

import json
from contextlib import suppress
from itertools import pairwise

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from veridical.middleware.protocol import check_for_strategy, read_body
from veridical.middleware.relaying import whole_events
from veridical.middleware.routing import splits
from veridical.middleware.sse import EventReader, comment, event
from veridical.strategies.errors import BackendFailed, VeridicalError
from veridical.strategies.pipelines import Pipelines
from veridical.strategies.thinking import ThinkingSplitter
from veridical.strategies.types import visible

CUTS = st.lists(st.integers(0, 400), max_size=12)


def cut(whole, at):
    """`whole` in pieces, cut at any places."""
    bounds = [0, *sorted(min(i, len(whole)) for i in at), len(whole)]
    return [whole[a:b] for a, b in pairwise(bounds)]


def events(pieces):
    reader = EventReader()
    return [data for piece in pieces for data in reader.feed(piece)] + reader.end()


WIRE = st.lists(
    st.sampled_from([b"data: ", b"data:", b"x", b"\xc5\xbd", b"\n", b"\r", b"\r\n", b":", b"id: 1"])
)


@given(WIRE.map(b"".join), CUTS)
def test_any_cut_of_any_stream_gives_the_same_events(wire, at):
    assert events(cut(wire, at)) == events([wire])


@given(st.lists(st.text()), st.sampled_from([b"\n", b"\r\n", b"\r"]), CUTS)
def test_what_is_written_is_read(texts, end, at):
    wire = b"".join(event({"text": text}) + comment("beat") for text in texts).replace(b"\n", end)
    assert [orjson.loads(data)["text"] for data in events(cut(wire, at))] == texts


def test_an_event_without_end_is_refused():
    for wire in (b"data: " + b"x" * 200, b"data: xxxxxxxxxx\n" * 20):
        reader = EventReader(100)
        with pytest.raises(BackendFailed):
            [reader.feed(piece) for piece in cut(wire, range(0, 300, 10))]


@given(WIRE.map(b"".join) | st.binary(max_size=300), CUTS)
def test_relayed_events_lose_and_reorder_nothing(wire, at):
    sent = held = b""
    for piece in cut(wire, at):
        whole, held = whole_events(held + piece)
        assert whole == b"" or whole.endswith((b"\n\n", b"\r\n\r\n", b"\r\r"))
        sent += whole
    assert sent + held == wire


@given(st.text(alphabet="ab+(", max_size=30))
def test_a_name_is_split_at_each_plus_the_longest_model_first(name):
    found = list(splits(name))
    assert found[0] == (name, None)
    for model, suffix in found[1:]:
        assert model + "+" + suffix == name
        assert model
    lengths = [len(model) for model, _ in found]
    assert lengths == sorted(set(lengths), reverse=True)
    assert len(found) == 1 + name[1:].count("+")


TAGGED = st.lists(
    st.sampled_from(["<think>", "</think>", " ", "\n", "<", "a", "ž", "</", "think>"]), max_size=12
)


def split(pieces, *, begun=False):
    splitter = ThinkingSplitter(begun=begun)
    parts = [part for piece in pieces for part in splitter.feed(piece)] + splitter.end()
    words = "".join(part.get("content", "") for part in parts)
    return words, "".join(part.get("reasoning_content", "") for part in parts)


@given(TAGGED.map("".join), CUTS, st.booleans())
def test_any_cut_of_an_answer_parts_reasoning_from_words_alike(text, at, begun):
    assert split(cut(text, at), begun=begun) == split([text], begun=begun)


@given(TAGGED.map("".join), CUTS)
def test_the_words_are_those_that_a_strategy_sees(text, at):
    begun = "</think>" in text and "<think>" not in text
    words, reasoning = split(cut(text, at), begun=begun)
    assert words == visible(text)
    assert words + reasoning in text.replace("<think>", "").replace("</think>", "") or reasoning in text


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
FIELDS = ["model", "messages", "stream", "n", "strategy", "veridical", "stream_options", "temperature"]
FIELDS += ["modalities", "audio", "max_tokens", "tools", "response_format"]
LIKELY = st.sampled_from(
    [
        "m1",
        [{"role": "user", "content": "hi"}],
        [{"role": "user", "content": [{"type": "text", "text": "hi"}]}],
        {"strategy": "cove(variant=joint)", "trace": "full", "budget": {"max_calls": 3}},
        {"budget": {"deadline_s": 1}},
        {"name": "cove", "options": {"max_questions": 3}},
        ["cove", {"name": "direct"}],
        True,
        1,
    ]
)
BODY = st.dictionaries(st.sampled_from(FIELDS), JSON | LIKELY, max_size=8)
SOUND = BODY.map(lambda body: {**body, "model": "m1", "messages": [{"role": "user", "content": "hi"}]})


@given(JSON | BODY | SOUND)
def test_any_json_is_read_or_refused_by_an_error_of_ours(body):
    with suppress(VeridicalError):
        request = read_body(json.dumps(body).encode())
        check_for_strategy(request)
        assert isinstance(request.includes_usage, bool)
        assert isinstance(request.messages, tuple)
        assert not request.params.keys() & {"veridical", "strategy", "n", "model", "messages", "stream"}


@given(st.binary(max_size=60))
def test_any_bytes_are_read_or_refused_by_an_error_of_ours(raw):
    with suppress(VeridicalError):
        read_body(raw)


@given(st.text(max_size=60))
def test_any_expression_is_built_or_refused_by_an_error_of_ours(expression):
    with suppress(VeridicalError):
        Pipelines().read(expression)
