"""Keys: who may use the proxy, whose key a backend gets to see, and that no key is ever shown."""

import logging

import openai
import pytest

from veridical.tests.answers import Cut, Fail, Pieces, Say, sse
from veridical.tests.upstream import CANBERRA, SYDNEY

WRONG, RIGHT = "The capital of Australia is Sydney.", "The capital of Australia is Canberra."
OURS, THEIRS = "sk-of-the-server", "sk-of-the-client"
CHAT = {"model": "m1", "messages": [{"role": "user", "content": "hello"}]}


@pytest.fixture(autouse=True)
def _keys(monkeypatch, caplog):
    monkeypatch.setenv("KEY_OF_UPSTREAM", OURS)
    monkeypatch.setenv("KEY_OF_CLIENTS", THEIRS)
    monkeypatch.setenv("KEY_OF_OTHERS", "sk-other")
    caplog.set_level(logging.DEBUG)


WITH_KEYS = {"auth": {"client_keys_env": ["KEY_OF_CLIENTS", "KEY_OF_OTHERS"]}}
WITH_OURS = {"backend": {"api_key_env": "KEY_OF_UPSTREAM"}}


@pytest.mark.parametrize(
    "header",
    [None, "", "Bearer", "Bearer wrong", f"Basic {THEIRS}", THEIRS, f"Bearer {THEIRS}x", "Bearer sk-öther"],
)
@pytest.mark.parametrize(
    ("method", "path"), [("POST", "/v1/chat/completions"), ("GET", "/v1/models"), ("GET", "/v1/nowhere")]
)
def test_without_a_valid_key_nobody_gets_in(serve_once, upstream, header, method, path):
    headers = {} if header is None else {"Authorization": header.encode().decode("latin-1")}
    response = serve_once.request(method, path, CHAT if method == "POST" else None, headers)
    assert response.status == 401
    assert (response.error["type"], response.error["code"]) == ("authentication_error", "invalid_api_key")
    assert response.headers["www-authenticate"] == "Bearer"
    assert not upstream.log


@pytest.fixture(scope="module")
def serve_once(one_upstream):
    """One proxy with client keys for the whole module."""
    from veridical.tests.conftest import settings_before
    from veridical.tests.proxy import running_proxy

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KEY_OF_CLIENTS", THEIRS)
        patch.setenv("KEY_OF_OTHERS", "sk-other")
        with running_proxy(settings_before(one_upstream, **WITH_KEYS)) as proxy:
            yield proxy


def test_each_key_opens_and_health_needs_none(serve_once, upstream):
    upstream.on(draft=Say("hi"))
    for key in (THEIRS, "sk-other"):
        assert serve_once.client_with(key).models.list().data
    with pytest.raises(openai.AuthenticationError):
        serve_once.client_with("sk-guess").models.list()
    assert serve_once.request("GET", "/health").status == 200


CREDENTIALS = {"Authorization": f"Bearer {THEIRS}", "X-Api-Key": THEIRS, "Api-Key": THEIRS}


@pytest.mark.parametrize("model", ["m1", "m1+cove"])
@pytest.mark.parametrize(
    ("settings", "arrives"),
    [
        ({}, f"Bearer {THEIRS}"),
        (WITH_OURS, f"Bearer {OURS}"),
        (WITH_KEYS, None),
        ({**WITH_KEYS, **WITH_OURS}, f"Bearer {OURS}"),
    ],
)
def test_whose_key_the_backend_sees(serve, upstream, settings, arrives, model):
    upstream.cove(WRONG, SYDNEY, final=RIGHT)
    assert serve(**settings).chat(model=model, headers=CREDENTIALS).status == 200
    assert {exchange.headers.get("authorization") for exchange in upstream.log} == {arrives}
    if arrives != f"Bearer {THEIRS}":
        assert not any(THEIRS in str(exchange.headers) for exchange in upstream.log)


@pytest.mark.parametrize("model", ["m1", "m1+cove"])
@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("status", [400, 401, 429, 500])
def test_an_error_that_quotes_our_key_is_passed_on_without_it(
    serve, upstream, caplog, capfd, model, stream, status
):
    quote = Fail(
        status, f"Incorrect API key provided: {OURS}.", {"X-Debug": f"key={OURS}", "Retry-After": "0"}
    )
    upstream.on(draft=quote)
    response = serve(**WITH_OURS).chat(model=model, stream=stream)
    assert response.status == (502 if status == 500 and "cove" in model else status)
    assert "Incorrect API key provided: [key]." in response.error["message"]
    shown = str(response) + caplog.text + "".join(capfd.readouterr())
    assert OURS not in shown


@pytest.mark.parametrize("error", [{"message": f"bad key {OURS}"}, f"bad key {OURS}", {"code": OURS}])
def test_an_error_event_that_quotes_our_key_is_passed_on_without_it(serve, upstream, caplog, error):
    upstream.on(draft=Pieces([sse({"error": error})]))
    response = serve(**WITH_OURS).chat(model="m1+cove", stream=True)
    assert OURS not in str(response) + caplog.text


def test_a_check_that_fails_with_our_key_does_not_tell_it_in_the_notes(serve, upstream):
    upstream.cove(WRONG, SYDNEY, final=RIGHT)
    upstream.on(plan=Fail(400, f"bad key {OURS}"))
    response = serve(**WITH_OURS).chat(model="m1+cove", veridical={"trace": "full"})
    assert response.json["veridical"]["status"] == "degraded"
    assert OURS not in str(response)
    assert "[key]" in str(response)


def test_no_key_is_logged_at_any_level(serve, upstream, caplog, capfd):
    upstream.cove(RIGHT, CANBERRA)
    proxy = serve(**WITH_OURS)
    proxy.chat(model="m1+cove", headers=CREDENTIALS)
    proxy.chat(model="nonsense", headers=CREDENTIALS)
    proxy.chat(b"{", headers=CREDENTIALS)
    upstream.on(draft=Pieces([Cut()]))
    proxy.chat(model="m1+cove", headers=CREDENTIALS)
    serve(backend={"base_url": "http://127.0.0.1:9", "api_key_env": "KEY_OF_UPSTREAM"}).chat(model="m1")
    shown = caplog.text + "".join(capfd.readouterr())
    assert OURS not in shown
    assert THEIRS not in shown
    assert "Traceback" not in shown


def test_a_key_that_is_not_set_is_named_not_shown(monkeypatch, serve):
    from veridical.strategies.errors import ConfigError

    monkeypatch.delenv("KEY_OF_UPSTREAM")
    with pytest.raises(ConfigError, match="KEY_OF_UPSTREAM"):
        serve(**WITH_OURS)
