"""Requests shared out among servers, and moved on from those that do not answer, on real sockets."""

import threading
from concurrent.futures import ThreadPoolExecutor

import openai
import pytest

from veridical.middleware.assembly import Assembly
from veridical.middleware.config import Settings
from veridical.strategies.errors import ConfigError
from veridical.tests.answers import Cut, Fail, Held, Pieces, Say, Whole, sse
from veridical.tests.balancing.conftest import NOWHERE, pool
from veridical.tests.proxy import wait_until
from veridical.tests.upstream import SYDNEY, running_upstream


def chunk(text, finish=None):
    return sse({"choices": [{"index": 0, "delta": {"content": text}, "finish_reason": finish}]})


def urls(ups):
    return [up.url for up in ups]


def test_weights_are_shares_and_the_answer_names_its_server(start, ups):
    proxy = start(**pool(urls(ups), weights=[2, 1, 1], balance="weighted"))
    for up in ups:
        up.on(draft=Say("hi"))
    named = [proxy.chat().headers["x-veridical-backend"] for _ in range(8)]
    assert [len(up.chats) for up in ups] == [4, 2, 2]
    assert {name: named.count(name) for name in named} == {"gpu#1": 4, "gpu#2": 2, "gpu#3": 2}


def test_the_least_busy_is_asked(start, ups):
    release = threading.Event()
    proxy = start(**pool(urls(ups[:2])))
    for up in ups:
        up.on(draft=[Held(Say("late"), release), Say("soon")])
    with ThreadPoolExecutor(1) as pool_:
        held = pool_.submit(proxy.chat)
        wait_until(lambda: ups[0].chats or ups[1].chats)
        busy, idle = (ups[0], ups[1]) if ups[0].chats else (ups[1], ups[0])
        idle.on(draft=Say("soon"))
        for _ in range(3):
            assert proxy.chat().status == 200
        assert (len(busy.chats), len(idle.chats)) == (1, 3)
        release.set()
        assert held.result().status == 200


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    "broken", [Fail(500), Fail(503), Fail(429), Pieces([Cut()]), Whole(b"", length=50)], ids=repr
)
def test_where_one_server_fails_the_next_answers_byte_for_byte(start, ups, stream, broken):
    proxy = start(**pool(urls(ups[:2]), weights=[100, 1], balance="weighted"))
    ups[0].on(draft=broken)
    whole = chunk("é") + chunk("", "stop") + b"data: [DONE]\n\n"
    ups[1].on(draft=Pieces([whole]) if stream else Whole(b'{"odd" : 1.50}'))
    response = proxy.chat(stream=stream)
    assert (response.status, response.raw) == (200, whole if stream else b'{"odd" : 1.50}')
    assert response.headers["x-veridical-backend"] == "gpu#2"
    assert (len(ups[0].chats), len(ups[1].chats)) == (1, 1)
    assert ups[0].chats[0].raw == ups[1].chats[0].raw


def test_silence_and_nobody_there_are_moved_on_from(start, ups):
    settings = pool([NOWHERE, *urls(ups[:2])], weights=[100, 10, 1], balance="weighted", read_timeout_s=0.3)
    proxy = start(**settings)
    ups[0].on(draft=Say("late", delay=5))
    ups[1].on(draft=Say("soon"))
    assert proxy.chat().json["choices"][0]["message"]["content"] == "soon"


@pytest.mark.parametrize("cut", [[chunk("half"), Cut()], [chunk("half"), 5.0]])
def test_a_stream_that_has_begun_is_never_asked_again(start, ups, cut):
    proxy = start(**pool(urls(ups[:2]), read_timeout_s=0.3))
    for up in ups[:2]:
        up.on(draft=Pieces(cut))
    response = proxy.chat(stream=True)
    assert response.events[0]["choices"][0]["delta"]["content"] == "half"
    assert response.events[-1]["error"]["code"] in ("backend_failed", "backend_timeout")
    assert len(ups[0].chats) + len(ups[1].chats) == 1


def test_what_is_refused_for_its_own_sake_is_asked_of_nobody_else(start, ups):
    proxy = start(**pool(urls(ups[:2])))
    for up in ups[:2]:
        up.on(draft=Fail(400, "no such field"))
    with pytest.raises(openai.BadRequestError, match="no such field"):
        proxy.ask()
    assert len(ups[0].chats) + len(ups[1].chats) == 1


def test_when_all_fail_the_last_refusal_is_passed_on_as_it_is(start, ups):
    proxy = start(**pool(urls(ups), balance="weighted"))
    for up in ups:
        up.on(draft=Fail(503, body=b"overloaded, all of it", headers={"Retry-After": "0"}))
    response = proxy.chat()
    assert (response.status, response.raw) == (503, b"overloaded, all of it")
    assert [len(up.chats) for up in ups] == [1, 1, 1]


def test_a_model_of_ours_falls_back_in_order_under_the_names_there(start, ups):
    backends = {
        name: {"type": "http", "base_url": up.url, "models": {"ours": f"theirs-{name}"}}
        for name, up in zip(("a", "b", "c"), ups, strict=True)
    }
    chain = {"targets": ["a/ours"], "fallback": ["b/ours", "c/ours"]}
    proxy = start(backends=backends, models={"best": chain}, advertise=[])
    ups[0].on(draft=Fail(429, headers={"Retry-After": "60"}))
    ups[1].on(draft=Fail(502))
    ups[2].on(draft=Say("third"))
    response = proxy.chat(model="best")
    assert response.json["choices"][0]["message"]["content"] == "third"
    assert [up.chats[0].body["model"] for up in ups] == ["theirs-a", "theirs-b", "theirs-c"]
    assert response.headers["x-veridical-backend"] == "c"
    assert [model.id for model in proxy.client.models.list().data] == ["best", "ours"]


def test_a_backends_name_no_target_and_no_backend_are_found_at_the_start(ups):
    backends = {"a": {"type": "http", "base_url": ups[0].url, "models": ["m1"]}}
    for models, words in (
        ({"a": {"targets": ["a/m1"]}}, "a backend has this name"),
        ({"x": {"targets": ["b/m1"]}}, "no BACKEND/MODEL"),
        ({"x": {"targets": ["a/m2"]}}, "Did you mean 'm1'"),
    ):
        with pytest.raises(ConfigError, match=words):
            Assembly(Settings.model_validate({"backends": backends, "models": models}))


@pytest.mark.parametrize("stream", [False, True])
def test_every_call_of_a_strategy_can_be_moved_on(start, ups, stream):
    proxy = start(**pool([NOWHERE, *urls(ups[:2])], balance="weighted", affinity=False, breaker_failures=0))
    ups[0].on(**dict.fromkeys(("draft", "plan", "check", "revise"), Fail(500)))
    ups[1].cove("The capital is Sydney.", SYDNEY, final="The capital is Canberra.")
    response = proxy.chat(model="m1+cove", stream=stream)
    assert b"Canberra" in response.raw
    told = response.events[-2]["veridical"] if stream else response.json["veridical"]
    assert (told["status"], told["notes"]) == ("verified", [])
    assert response.headers["x-veridical-backend"] == "gpu#3"


@pytest.mark.parametrize("affinity", [True, False])
def test_the_calls_of_one_request_keep_to_one_server(start, ups, affinity):
    proxy = start(**pool(urls(ups[:2]), affinity=affinity))
    for up in ups[:2]:
        up.cove("The capital is Sydney.", SYDNEY, final="The capital is Canberra.")
    proxy.ask(model="m1+cove")
    asked = [len(up.chats) for up in ups[:2]]
    assert sum(asked) == 5
    assert (0 in asked) == affinity


def test_a_replica_that_is_killed_under_load_costs_no_request(start, ups):
    with running_upstream() as doomed:
        proxy = start(**pool([doomed.url, *urls(ups[:2])], breaker_failures=3, breaker_open_s=30))
        for up in (doomed, *ups[:2]):
            up.on(draft=Say("hi", delay=0.05))
        workers = ThreadPoolExecutor(8)
        answers = [workers.submit(proxy.chat, stream=bool(n % 2)) for n in range(40)]
        wait_until(lambda: len(doomed.chats) >= 4)
    with workers:
        answers += [workers.submit(proxy.chat, stream=bool(n % 2)) for n in range(40)]
        found = [answer.result() for answer in answers]
    assert {answer.status for answer in found} == {200}
    assert not any(b'"error"' in answer.raw for answer in found)
    states = proxy.request("GET", "/ready").json["servers"]
    assert states == {"gpu#1": "open", "gpu#2": "up", "gpu#3": "up"}
