"""Requests that are sound HTTP and mean no good: too many, too deep, too large, twice the same."""

import json

import pytest

from veridical.tests.answers import Say
from veridical.tests.proxy import CHAT, RESPONSES
from veridical.tests.upstream import CANBERRA

MESSAGES = [{"role": "user", "content": "hello"}]
BOTH = pytest.mark.parametrize("model", ["m1", "m1+cove"])


def nested(levels: int) -> str:
    return "[" * levels + "]" * levels


@BOTH
def test_ten_thousand_messages_are_a_request_like_any_other(proxy, upstream, model):
    upstream.cove("The capital is Canberra.", CANBERRA)
    messages = [{"role": ("user", "assistant")[i % 2], "content": f"message {i}"} for i in range(10_001)]
    assert proxy.chat(model=model, messages=messages).status == 200
    assert upstream.chats[0].body["messages"] == messages


@BOTH
@pytest.mark.parametrize("levels", [100, 235, 250, 500, 1000, 100_000])
@pytest.mark.parametrize("place", ["extra", "messages", "tools", "veridical", "strategy"])
def test_depth_is_answered_or_refused(proxy, upstream, model, levels, place):
    upstream.cove("The capital is Canberra.", CANBERRA)
    fields = {"model": json.dumps(model), "messages": json.dumps(MESSAGES), "veridical": '{"trace": "full"}'}
    deep = nested(levels)
    if place == "messages":
        fields["messages"] = f'[{{"role": "user", "content": "hello", "deep": {deep}}}]'
    else:
        fields[place] = deep
    raw = "{" + ", ".join(f'"{name}": {value}' for name, value in fields.items()) + "}"
    response = proxy.request("POST", CHAT, raw.encode())
    assert response.status in (200, 400)
    if levels >= 250:
        assert response.status == 400
        assert response.error["message"]


@BOTH
@pytest.mark.parametrize(
    "field",
    [
        *('"n": 1e400', '"n": 1000000000000000000000000', '"n": -1', '"n": 99999', '"seed": 1e400'),
        *('"temperature": NaN', '"temperature": Infinity', '"temperature": -Infinity', '"top_p": 1e400'),
        *(
            '"user": "\\ud800"',
            '"user": "\\udc00\\ud800"',
            '"user": "\xff"',
            '"user": "\x00"',
            '"\\ud800": 1',
        ),
    ],
)
def test_numbers_and_texts_that_are_none_do_no_harm(proxy, upstream, model, field):
    upstream.cove("The capital is Canberra.", CANBERRA)
    raw = json.dumps({"model": model, "messages": MESSAGES})[:-1] + f", {field}}}"
    response = proxy.request("POST", CHAT, raw.encode("latin-1"))
    assert response.status in (200, 400)
    assert response.status == 400 or model == "m1"
    if response.status == 400:
        assert response.error["code"] in ("invalid_request", "unsupported_parameter")


@pytest.mark.parametrize("seed", [2**63, 2**64 - 1, -1.5e19, 1.5e300])
def test_a_seed_that_cannot_be_counted_on_from_is_named(proxy, upstream, seed):
    response = proxy.chat(model="m1+self_consistency(n=3)", seed=seed)
    assert (response.status, response.error["param"]) == (400, "seed")
    assert not upstream.chats


@pytest.mark.parametrize(
    "body",
    [
        b'{"model": "m2", "model": "m1", "messages": [{"role": "user", "content": "hello"}]}',
        b'{"mod\\u0065l": "m2", "model": "m1", "messages": [{"role": "user", "content": "hello"}]}',
        b'{"model": "m2", "m\\u006fdel": "m1", "messages": [{"role": "user", "content": "hello"}]}',
    ],
)
@pytest.mark.parametrize("path", [CHAT, "/v1/embeddings"])
def test_a_backend_is_told_one_model_where_a_request_names_two(proxy, upstream, body, path):
    """Whichever of the two a backend would take: it is the one that was looked at here."""
    upstream.on(draft=Say("hi"))
    proxy.request("POST", path, body)
    (came,) = upstream.at(path)
    assert came.raw.count(b"m1") == 1
    assert b"m2" not in came.raw


@pytest.mark.parametrize(
    "expression",
    [
        *(
            "(" * 900,
            "cove" + "(" * 900,
            "|" * 900,
            "cove|" * 199,
            "cove(" * 199,
            "a" * 1001,
            "cove(a=" * 100,
        ),
        *(
            'cove(variant="' + "\\" * 900,
            "cove(max_questions=" + "9" * 900 + ")",
            "cove(max_questions=1e999)",
        ),
        *(
            "cove(max_questions=-" + "0" * 900 + ")",
            "cove" + "()" * 400,
            "\x00",
            "cove\n|\tcove|",
            "cove(=1)",
        ),
        *("cove(variant=joint,variant=joint)", "__class__", "cove(__init__=1)", "cove.cove", "\u202ecove"),
    ],
    ids=lambda text: repr(text[:24]),
)
def test_a_pathological_expression_is_refused(proxy, upstream, expression):
    for fields in ({"strategy": expression}, {"model": f"m1+{expression}"}, {"strategy": [expression] * 9}):
        response = proxy.chat(**fields)
        assert response.status in (400, 404)
        assert len(response.error["message"]) < 600
    assert not upstream.chats


@pytest.mark.parametrize("path", [CHAT, RESPONSES, "/v1/embeddings", "/v1/completions", "/v1/files"])
@pytest.mark.parametrize(
    "raw", [b"", b"{", b"\xff\xfe", b'{"model": 5}', b"[1]", b"null", b'"x"', nested(9000).encode()]
)
def test_no_body_makes_an_error_of_ours(proxy, upstream, path, raw):
    response = proxy.request("POST", path, raw)
    assert response.status < 500
