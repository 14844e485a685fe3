"""Choosing a model and a strategy: who wins, what names mean, and what an unknown one gets."""

import openai
import pytest

from veridical.middleware import routing
from veridical.tests.answers import Fail, Say
from veridical.tests.proxy import wait_until
from veridical.tests.upstream import CANBERRA, SYDNEY

WRONG, RIGHT = "The capital of Australia is Sydney.", "The capital of Australia is Canberra."
VARIANTS = ("two_step", "factored", "joint", "factor_revise")


def strategy_of(answer) -> str:
    return answer.to_dict()["veridical"]["strategy"]


def expression(variant: str) -> str:
    return f"cove(variant={variant},max_questions=3)"


@pytest.mark.parametrize("strongest", range(5))
def test_the_strongest_naming_wins(serve, upstream, strongest):
    upstream.cove(WRONG, SYDNEY, final=RIGHT)
    asked = [expression(variant) for variant in VARIANTS]
    settings = {"default_strategy": "cove(max_questions=7)"}
    body = {"veridical": {"strategy": asked[0]}, "strategy": asked[1]}
    model, headers = f"m1+{asked[3]}", {"X-Veridical-Strategy": asked[2]}
    if strongest > 0:
        del body["veridical"]
    if strongest > 1:
        del body["strategy"]
    if strongest > 2:
        headers = {}
    if strongest > 3:
        model = "m1"
    answer = serve(**settings).ask(model=model, extra_headers=headers, **body)
    wanted = [*asked[:3], "cove(max_questions=3)", "cove(max_questions=7)"]
    assert strategy_of(answer) == wanted[strongest]


@pytest.mark.parametrize(
    "form",
    [
        "cove(variant=joint)",
        " cove ( variant = 'joint' , ) ",
        {"name": "cove", "options": {"variant": "joint"}},
        ["cove(variant=joint)"],
        [{"name": "cove", "options": {"variant": "joint", "max_questions": 5}}],
    ],
)
@pytest.mark.parametrize("where", ["veridical", "strategy"])
def test_a_strategy_is_named_by_expression_object_or_list(proxy, upstream, form, where):
    upstream.cove(WRONG, SYDNEY, final=RIGHT)
    body = {"strategy": form} if where == "strategy" else {"veridical": {"strategy": form}}
    assert strategy_of(proxy.ask(**body)) == "cove(variant=joint)"
    assert upstream.chats[0].body["model"] == "m1"


@pytest.mark.parametrize(
    ("body", "status", "param", "words"),
    [
        ({"model": "m1+coev"}, 404, "strategy", "'cove'"),
        ({"strategy": "Cove"}, 404, "strategy", "'cove'"),
        ({"veridical": {"strategy": "cover"}}, 404, "strategy", "'cove'"),
        ({"model": "m1+cove|nonsense"}, 404, "strategy", "nonsense"),
        ({"model": "m1+cove(varaint=joint)"}, 400, "strategy", "'variant'"),
        ({"model": "m1+cove(variant=jiont)"}, 400, "strategy", "joint"),
        ({"model": "m1+cove(max_questions=0)"}, 400, "strategy", "max_questions"),
        ({"model": "m1+cove(max_questions=99)"}, 400, "strategy", "max_questions"),
        ({"model": "m1+cove(max_questions=many)"}, 400, "strategy", "max_questions"),
        ({"model": "m1+cove("}, 400, "strategy", "character"),
        ({"model": "m1+"}, 400, "strategy", "name"),
        ({"strategy": ""}, 400, "strategy", "name"),
        ({"strategy": []}, 400, "strategy", "stages"),
        ({"strategy": ["cove"] * 20}, 400, "strategy", "stages"),
        ({"strategy": 5}, 400, "strategy", "expected"),
        ({"strategy": {"name": "cove", "variant": "joint"}}, 400, "strategy", "'variant'"),
        ({"strategy": "cove(" + "x" * 5000}, 400, "strategy", "longer"),
        ({"model": "m11"}, 404, "model", "'m1'"),
        ({"model": "m12+cove"}, 404, "model", "'m1+cove'"),
        ({"model": "dwon/m1"}, 404, "model", "dwon/m1"),
        ({"model": "x" * 10_000}, 404, "model", "xxx…"),
        ({"model": "+" * 100_000}, 404, "model", "+++…"),
    ],
)
def test_an_unknown_name_is_told_with_its_nearest(proxy, upstream, body, status, param, words):
    response = proxy.chat(**body)
    assert response.status == status
    assert (response.error["param"], response.error["type"]) == (param, "invalid_request_error")
    assert words in response.error["message"]
    assert len(response.error["message"]) < 400
    assert not upstream.chats


def test_the_sdk_knows_the_errors(proxy, upstream):
    with pytest.raises(openai.NotFoundError) as caught:
        proxy.ask(model="m11")
    assert caught.value.code == "model_not_found"
    with pytest.raises(openai.NotFoundError) as caught:
        proxy.ask(model="m1+coev")
    assert caught.value.code == "strategy_not_found"


def test_a_name_that_holds_a_plus_is_first_a_model(serve, upstream):
    upstream.models = ["a+b", "a", "org/c+cove", "org/c"]
    upstream.cove(RIGHT, CANBERRA)
    proxy = serve()
    for name, model, strategy in [
        ("a+b", "a+b", None),
        ("a+b+cove", "a+b", "cove"),
        ("a+cove", "a", "cove"),
        ("org/c+cove", "org/c+cove", None),
        ("org/c+cove+cove", "org/c+cove", "cove"),
        ("up/org/c", "org/c", None),
        ("up/a+b+cove(variant=factored)", "a+b", "cove(variant=factored)"),
    ]:
        upstream.log.clear()
        answer = proxy.ask(model=name).to_dict()
        assert answer.get("veridical", {}).get("strategy") == strategy
        assert {exchange.body["model"] for exchange in upstream.chats} == {model}


def test_two_backends_share_names_and_each_can_be_asked(serve, upstream):
    upstream.on(draft=Say("hi"))
    other = {"type": "http", "base_url": upstream.url, "models": ["m1", "only"]}
    first = {"type": "http", "base_url": upstream.url, "models": {"m1": "real-1", "big": "m2"}}
    proxy = serve(backends={"one": first, "two": other})
    wanted = {"m1": ("one", "real-1"), "two/m1": ("two", "m1"), "only": ("two", "only"), "big": ("one", "m2")}
    for name, (backend, model) in wanted.items():
        response = proxy.chat(model=name)
        assert response.headers["x-veridical-backend"] == backend
        assert upstream.chats[-1].body["model"] == model
    assert not [exchange for exchange in upstream.log if exchange.path == "/v1/models"]


def test_an_alias_reaches_every_call(serve, upstream):
    upstream.cove(WRONG, SYDNEY, final=RIGHT)
    proxy = serve(backend={"models": {"mine": "theirs"}})
    answer = proxy.ask(model="mine+cove")
    assert answer.model == "mine+cove"
    assert {exchange.body["model"] for exchange in upstream.chats} == {"theirs"}


def test_a_role_has_a_model_of_its_own(serve, upstream):
    upstream.cove(WRONG, SYDNEY, final=RIGHT)
    serve(roles={"verifier": "m2"}).ask(model="m1+cove")
    models = {exchange.step: exchange.body["model"] for exchange in upstream.chats}
    assert models == {"draft": "m1", "plan": "m1", "check": "m2", "cross_check": "m2", "revise": "m1"}


def lists(upstream) -> int:
    return sum(exchange.path == "/v1/models" for exchange in upstream.log)


def test_the_model_list_is_read_on_first_need_and_again_for_an_unknown_name(serve, upstream, monkeypatch):
    proxy = serve()
    upstream.on(draft=Say("hi"))
    assert lists(upstream) == 0
    assert (proxy.chat().status, proxy.chat().status, lists(upstream)) == (200, 200, 1)
    upstream.models = ["m1", "new"]
    assert (proxy.chat(model="new").status, lists(upstream)) == (404, 1)
    monkeypatch.setattr(routing, "REREAD_S", 0.0)
    assert (proxy.chat(model="new").status, lists(upstream)) == (200, 2)
    monkeypatch.setattr(routing, "REREAD_S", 10.0)
    assert (proxy.chat(model="newer").status, proxy.chat(model="newest").status) == (404, 404)
    assert lists(upstream) == 2


def test_a_list_that_is_slow_to_come_again_holds_up_no_known_name(serve, upstream, monkeypatch):
    proxy = serve()
    upstream.on(draft=Say("hi"))
    assert proxy.chat().status == 200
    monkeypatch.setattr(routing, "REREAD_S", 0.0)
    upstream.models_delay = 20.0
    with proxy.open(model="unknown"):
        wait_until(lambda: lists(upstream) == 2)
        assert proxy.chat().status == 200


def test_a_backend_without_a_list_needs_its_names_in_the_configuration(serve, upstream):
    upstream.models = None
    upstream.on(draft=Say("hi"))
    response = serve().chat()
    assert response.status == 404
    assert "'models'" in response.error["message"]
    assert serve(backend={"models": ["m1"]}).chat().status == 200


def test_a_backend_that_cannot_be_asked_is_no_unknown_model(serve, upstream):
    gone = {"type": "http", "base_url": "http://127.0.0.1:9/v1"}
    up = {"type": "http", "base_url": upstream.url}
    proxy = serve(backends={"gone": gone, "up": up})
    upstream.on(draft=Say("hi"))
    assert proxy.chat(model="m1").status == 200
    assert proxy.chat(model="m3").status == 502


def test_the_list_of_a_backend_that_wants_a_key_is_each_clients_own(serve, upstream):
    proxy = serve()
    upstream.on(draft=Say("hi"))
    upstream.keys = {"Bearer sk-a": ["m1"], "Bearer sk-b": ["m2"]}
    refused = Fail(401)
    for key, model, status in [("sk-a", "m1", 200), ("sk-b", "m2", 200), ("sk-b", "m1", 404)]:
        assert proxy.chat(model=model, headers={"Authorization": f"Bearer {key}"}).status == status
    assert proxy.chat(headers={"Authorization": "Bearer sk-c"}).status == refused.status
