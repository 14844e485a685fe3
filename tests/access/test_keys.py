"""Keys of `veridical keys`: who gets in, with which models and strategies, and that no key is ever shown."""

import json
import logging
import sqlite3
import threading
import time

import openai
import pytest

from veridical.tests.access.conftest import bearer, id_of, keys_command
from veridical.tests.answers import Say
from veridical.tests.proxy import listed
from veridical.tests.upstream import SYDNEY

WRONG, RIGHT = "The capital of Australia is Sydney.", "The capital of Australia is Canberra."
CHAT = {"model": "m1", "messages": [{"role": "user", "content": "hello"}]}


def ask(proxy, key, model="m1", **fields):
    messages = [{"role": "user", "content": "What is the capital of Australia?"}]
    return proxy.client_with(key).chat.completions.create(model=model, messages=messages, **fields)


def test_a_key_opens_the_proxy_and_does_not_reach_the_backend(guarded, create, upstream):
    upstream.on(draft=Say("hi"))
    key = create()
    proxy = guarded()
    assert ask(proxy, key).choices[0].message.content == "hi"
    assert "authorization" not in upstream.chats[0].headers


def test_a_server_without_keys_lets_nobody_in_until_there_is_one(guarded, create, upstream, caplog):
    upstream.on(draft=Say("hi"))
    proxy = guarded()
    assert "veridical keys create" in caplog.text
    assert proxy.chat().status == 401
    assert ask(proxy, create()).choices[0].message.content == "hi"


@pytest.mark.parametrize(
    "wrong",
    [
        lambda key: None,
        lambda key: "",
        lambda key: "vrd_",
        lambda key: "vrd_unknown7_0123",
        lambda key: key[:-1] + ("0" if key[-1] != "0" else "1"),
        lambda key: key + "0",
        lambda key: key.upper(),
        lambda key: key.split("_")[2],
        lambda key: f"vrd_{id_of(key)}_",
        lambda key: "vrd__" + key.split("_")[2],
    ],
)
def test_a_wrong_key_opens_nothing(guarded, create, upstream, wrong):
    given = wrong(create())
    response = guarded().chat(headers={} if given is None else bearer(given))
    assert response.status == 401
    assert (response.error["type"], response.error["code"]) == ("authentication_error", "invalid_api_key")
    assert not upstream.log
    if given:
        assert given not in str(response)


def test_a_revoked_key_ends_within_the_refresh_time_and_says_so(guarded, create, upstream):
    upstream.on(draft=Say("hi"))
    key, other = create(), create(name="bob")
    proxy = guarded()
    ask(proxy, key)
    assert keys_command("revoke", id_of(key)).exit_code == 0
    time.sleep(0.5)  # two refreshes of 0.2 s: what the documentation promises
    with pytest.raises(openai.AuthenticationError, match="revoked"):
        ask(proxy, key)
    ask(proxy, other)


def test_an_expired_key_ends_by_itself(guarded, create, upstream, state):
    upstream.on(draft=Say("hi"))
    key = create(expires="1h")
    proxy = guarded()
    ask(proxy, key)
    with sqlite3.connect(state) as file:
        file.execute("UPDATE api_keys SET expires_at = 1000000000")
    file.close()
    with pytest.raises(openai.AuthenticationError, match="expired on 2001-09-09"):
        ask(guarded(), key)


def test_only_who_knows_the_secret_learns_that_a_key_was_revoked(guarded, create):
    key = create()
    keys_command("revoke", id_of(key))
    response = guarded().chat(headers=bearer(f"vrd_{id_of(key)}_guess"))
    assert "revoked" not in response.error["message"]


def test_keys_of_the_environment_work_beside_them_without_limits(guarded, create, upstream, monkeypatch):
    monkeypatch.setenv("KEY_OF_CI", "sk-ci")
    upstream.on(draft=Say("hi"))
    proxy = guarded(auth={"client_keys_env": ["KEY_OF_CI"]})
    for key in ("sk-ci", create()):
        ask(proxy, key)
    found = proxy.request("GET", "/v1/usage", headers=bearer("sk-ci")).json
    assert [(line["key_id"], line["requests"]) for line in found["data"]] == [("env:KEY_OF_CI", 1)]


def test_a_model_that_a_key_may_not_use_is_not_there_for_it(guarded, create, upstream):
    upstream.on(draft=Say("hi"))
    upstream.models = ["m1", "m2", "n1"]
    proxy, key = guarded(), create(model=["m*", "other/n1"])
    assert ask(proxy, key, "m1").choices
    assert {model.id for model in proxy.client_with(key).models.list().data} == set(listed("m1", "m2"))
    for name in ("n1", "up/n1", "n2", "n1+cove"):
        with pytest.raises(openai.NotFoundError) as refused:
            ask(proxy, key, name)
        assert refused.value.code == "model_not_found"
        assert "mean 'n1" not in refused.value.message
    assert proxy.request("GET", "/v1/models/n1", headers=bearer(key)).status == 404
    assert len(upstream.chats) == 1


def test_a_pattern_can_name_the_backend(guarded, create, upstream):
    upstream.on(draft=Say("hi"))
    assert ask(guarded(), create(model="up/m2"), "m2").choices


def test_a_strategy_that_a_key_may_not_use_is_refused_by_name(guarded, create, upstream):
    upstream.cove(WRONG, SYDNEY, final=RIGHT)
    proxy, key = guarded(), create(strategy="cove")
    assert ask(proxy, key, "m1+cove").choices[0].message.content == RIGHT
    asked = len(upstream.chats)
    for model, strategy in (("m1", "direct"), ("m1+rag", "rag"), ("m1+cove|rag", "rag")):
        with pytest.raises(openai.PermissionDeniedError, match=f"'{strategy}'; it may use: cove") as refused:
            ask(proxy, key, model)
        assert (refused.value.code, refused.value.param) == ("not_allowed", "strategy")
    assert len(upstream.chats) == asked
    ids = [model.id for model in proxy.client_with(key).models.list().data]
    assert ids == ["m1", "m1+cove", "m2", "m2+cove"]
    direct_only = [model.id for model in proxy.client_with(create(strategy="direct")).models.list().data]
    assert direct_only == ["m1", "m2"]


def test_many_requests_with_a_new_key_find_it_by_one_reading(guarded, create, upstream):
    upstream.on(draft=Say("hi"))
    proxy = guarded(auth={"refresh_s": 300})
    key = create()
    found: list[int] = []
    asks = [
        threading.Thread(target=lambda: found.append(proxy.chat(headers=bearer(key)).status))
        for _ in range(8)
    ]
    for each in asks:
        each.start()
    for each in asks:
        each.join()
    assert found == [200] * 8


def test_the_state_holds_a_hash_only_and_only_its_owner_reads_it(create, state):
    key = create()
    assert state.stat().st_mode & 0o077 == 0
    for file in state.parent.glob("state.sqlite*"):
        assert key.split("_")[2].encode() not in file.read_bytes()


def test_the_list_says_what_keys_may_do_never_what_they_are(create):
    key = create(model=["m1", "m[2]"], requests_per_minute=60, tokens_per_month=1_000_000, expires="90d")
    gone = create(name="bob", admin=True)
    keys_command("revoke", id_of(gone))
    text = keys_command("list").stdout
    assert key not in text
    assert all(f" {id_of(each)} " in text for each in (key, gone))
    found = sorted(json.loads(keys_command("list", "--json").stdout), key=lambda each: each["name"])
    assert [(each["id"], each["name"], each["state"]) for each in found] == [
        (id_of(key), "alice", "active"),
        (id_of(gone), "bob", "revoked"),
    ]
    assert found[0]["models"] == ["m1", "m[2]"]
    assert (found[0]["requests_per_minute"], found[0]["tokens_per_minute"]) == (60, None)
    assert "digest" not in json.dumps(found)


def test_create_shows_the_key_once_on_its_own(state):
    result = keys_command("create", "--name", "carol")
    assert result.stdout.startswith("vrd_")
    assert result.stdout.count("\n") == 1
    assert "cannot be shown again" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["create"], "--name"),
        (["create", "--name", "a", "--requests-per-minute", "0"], "x>=1"),
        (["create", "--name", "a", "--expires", "soon"], "say 90d"),
        (["create", "--name", "a", "--expires", "2001-01-01"], "in the past"),
        (["revoke", "nobody77"], "Unknown key 'nobody77'"),
    ],
)
def test_what_cannot_be_done_is_said(arguments, words):
    result = keys_command(*arguments)
    assert result.exit_code != 0
    assert words in result.stderr
    assert "Traceback" not in result.output


def test_no_key_is_logged_or_told_at_any_level(guarded, create, upstream, caplog, capfd):
    caplog.set_level(logging.DEBUG)
    upstream.cove(WRONG, SYDNEY, final=RIGHT)
    key = create(requests_per_minute=2, strategy=["direct", "cove"])
    proxy = guarded()
    shown = [
        str(proxy.chat(model=model, headers=bearer(key)))
        for model in ("m1", "m1+cove", "m1+rag", "nonsense", "m1")
    ]
    keys_command("revoke", id_of(key))
    shown += [str(proxy.chat(headers=bearer(given))) for given in (key, key[:-1])]
    told = "".join(shown) + caplog.text + "".join(capfd.readouterr())
    assert key.split("_")[2][:-1] not in told
    assert "Traceback" not in told
