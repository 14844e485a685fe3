"""How much a server gets: places, turns, pauses that it asks for, and the breaker, as clients see them."""

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass

import pytest

from veridical.middleware.balancing.pool import Pool, Target
from veridical.middleware.balancing.replica import Replica
from veridical.middleware.balancing.settings import CapacitySection
from veridical.strategies.testing import ScriptedBackend
from veridical.tests.answers import Answer, Fail, Held, Say
from veridical.tests.balancing.conftest import NOWHERE, pool
from veridical.tests.proxy import RESPONSES, wait_until
from veridical.tests.upstream import Fact


@dataclass(frozen=True)
class Counted(Answer):
    """Says something, and counts how often it is asked at once."""

    text: str
    at_once: list[int]
    most: list[int]
    index: int

    async def give(self, exchange, out):
        self.at_once[self.index] += 1
        self.most[self.index] = max(self.most[self.index], self.at_once[self.index])
        await Say(self.text, delay=0.02).give(exchange, out)
        self.at_once[self.index] -= 1


def words_of(exchange):
    return exchange.body["messages"][-1]["content"]


@contextmanager
def workers(count):
    """Threads that send requests."""
    with ThreadPoolExecutor(count) as threads:
        yield threads


def saying(proxy, text, **more):
    return proxy.chat(messages=[{"role": "user", "content": text}], **more)


def one(up, **settings):
    return pool([up.url], max_concurrency=1, **settings)


def test_no_more_than_its_limit_are_at_a_server_at_once(start, ups):
    proxy = start(**pool([up.url for up in ups[:2]], max_concurrency=2))
    at_once, most = [0, 0], [0, 0]
    for index, up in enumerate(ups[:2]):
        up.on(draft=Counted("hi", at_once, most, index))
    with workers(12) as threads:
        found = list(threads.map(lambda n: proxy.chat(stream=bool(n % 2)).status, range(36)))
    assert set(found) == {200}
    assert most == [2, 2]


def test_one_clients_burst_does_not_keep_another_waiting(start, ups, monkeypatch):
    for name in ("ONE", "TWO"):
        monkeypatch.setenv(name, f"sk-{name}")
    auth = {"client_keys_env": ["ONE", "TWO"]}
    proxy, release = start(**one(ups[0]), auth=auth), threading.Event()
    key_one, key_two = {"Authorization": "Bearer sk-ONE"}, {"Authorization": "Bearer sk-TWO"}
    ups[0].on(draft=lambda exchange: Held(Say("hi"), release) if words_of(exchange) == "first" else Say("hi"))
    with workers(12) as threads:
        burst = [threads.submit(saying, proxy, "first", headers=key_one)]
        wait_until(lambda: ups[0].chats)
        burst += [threads.submit(saying, proxy, f"burst {n}", headers=key_one) for n in range(6)]
        wait_until(lambda: waiting(proxy) == 6)
        other = threads.submit(saying, proxy, "other", headers=key_two)
        wait_until(lambda: waiting(proxy) == 7)
        release.set()
        assert {each.result().status for each in (*burst, other)} == {200}
    order = [words_of(exchange) for exchange in ups[0].chats]
    assert order.index("other") <= 2


def test_a_strategys_fan_out_takes_turns_with_other_requests(start, ups):
    facts = [Fact(f"Fact {n}.", f"Question {n}?", "Yes.") for n in range(5)]
    proxy, release = start(**one(ups[0])), threading.Event()
    ups[0].cove("A draft.", *facts, final="An answer.")
    check = ups[0].script["check"]
    ups[0].on(check=lambda exchange: Held(check(exchange), release))
    with workers(2) as threads:
        fanned = threads.submit(proxy.chat, model="m1+cove")
        wait_until(lambda: waiting(proxy) == 4)
        other = threads.submit(saying, proxy, "other", model="m1")
        wait_until(lambda: waiting(proxy) == 5)
        release.set()
        assert {fanned.result().status, other.result().status} == {200}
    order = [words_of(exchange) for exchange in ups[0].chats]
    assert order[2:].index("other") <= 2


def test_a_full_queue_and_a_turn_that_does_not_come_are_told_with_retry_after(start, ups):
    proxy, release = start(**one(ups[0], max_queue=1, queue_wait_s=0.3)), threading.Event()
    ups[0].on(draft=Held(Say("hi"), release))
    with workers(2) as threads:
        first = threads.submit(proxy.chat)
        wait_until(lambda: ups[0].chats)
        second = threads.submit(proxy.chat)
        wait_until(lambda: waiting(proxy) == 1)
        full = proxy.chat()
        assert (full.status, full.error["code"]) == (503, "backend_unavailable")
        assert int(full.headers["retry-after"]) >= 1
        assert second.result().error["message"].endswith("did not come in time.")
        release.set()
        assert first.result().status == 200
    assert len(ups[0].chats) == 1


def test_a_turn_that_comes_as_its_call_is_given_up_is_not_lost():
    async def scenario() -> int:
        replica = Replica("r", ScriptedBackend(), CapacitySection(max_concurrency=1))
        pool_ = Pool("p", [[Target(replica)]])
        held, _ = await pool_.attempt({}, nothing)
        waiting = [asyncio.create_task(pool_.attempt({}, nothing)) for _ in range(3)]
        await asyncio.sleep(0)
        waiting[0].cancel()
        held.end()  # the first one's turn, before it has heard that it is cancelled
        waiting[1].cancel()  # it has its turn, and has not taken it
        lease, _ = await waiting[2]
        assert replica.in_flight == 1
        lease.end()
        return replica.in_flight

    async def nothing(target: Target, tried: object) -> None:
        return None

    assert asyncio.run(scenario()) == 0


def test_the_deadline_ends_waiting_and_a_client_that_leaves_gives_its_turn_up(start, ups):
    proxy, release = start(**one(ups[0])), threading.Event()
    ups[0].on(draft=[Held(Say("hi"), release), Say("hi")])
    with workers(2) as threads:
        first = threads.submit(proxy.chat)
        wait_until(lambda: ups[0].chats)
        late = proxy.chat(veridical={"budget": {"deadline_s": 0.2}})
        assert (late.status, late.error["code"]) == (504, "deadline_exceeded")
        with proxy.open():
            wait_until(lambda: waiting(proxy) == 1)
        wait_until(lambda: waiting(proxy) == 0)
        last = threads.submit(proxy.chat)
        release.set()
        assert {first.result().status, last.result().status} == {200}
    wait_until(lambda: proxy.assembly.router.servers[0].in_flight == 0)
    assert len(ups[0].chats) == 2


def test_a_full_backend_overflows_to_its_fallback(start, ups):
    backends = {
        "small": {
            "type": "http",
            "base_url": ups[0].url,
            "models": ["m1"],
            "max_concurrency": 1,
            "max_queue": 0,
        },
        "big": {"type": "http", "base_url": ups[1].url, "models": ["m1"]},
    }
    proxy = start(backends=backends, models={"m": {"targets": ["small/m1"], "fallback": ["big/m1"]}})
    release = threading.Event()
    ups[0].on(draft=Held(Say("small"), release))
    ups[1].on(draft=Say("big"))
    with workers(1) as threads:
        first = threads.submit(proxy.chat, model="m")
        wait_until(lambda: ups[0].chats)
        assert proxy.chat(model="m").headers["x-veridical-backend"] == "big"
        release.set()
        assert first.result().headers["x-veridical-backend"] == "small"


def test_a_server_that_asks_for_a_pause_gets_it(start, ups):
    proxy = start(
        **pool([up.url for up in ups[:2]], weights=[100, 1], balance="weighted", api_key_env="PATH")
    )
    ups[0].on(draft=Fail(429, headers={"Retry-After": "30"}))
    ups[1].on(draft=Say("hi"))
    assert {proxy.chat().status for _ in range(5)} == {200}
    assert (len(ups[0].chats), len(ups[1].chats)) == (1, 5)
    ups[1].on(draft=Fail(429, headers={"Retry-After": "20"}))
    assert proxy.chat().status == 429
    storm = [proxy.chat() for _ in range(5)]
    assert {(each.status, each.error["code"]) for each in storm} == {(429, "rate_limit_exceeded")}
    assert all(15 <= int(each.headers["retry-after"]) <= 20 for each in storm)
    assert (len(ups[0].chats), len(ups[1].chats)) == (1, 6)


def test_one_clients_limit_at_a_server_is_not_anothers(start, ups):
    proxy = start(**pool([ups[0].url], max_concurrency=9))
    ups[0].on(draft=[Fail(429, headers={"Retry-After": "30"}), Say("hi")])
    ask = [proxy.chat(headers={"Authorization": f"Bearer {name}"}).status for name in "aab"]
    assert ask == [429, 429, 200]
    assert len(ups[0].chats) == 2


def test_the_breaker_refuses_then_tries_once_and_closes(start, ups):
    proxy = start(**pool([ups[0].url], breaker_failures=2, breaker_open_s=0.4))
    ups[0].on(draft=[Fail(500), Fail(500), Say("well again")])
    assert [proxy.chat().status for _ in range(2)] == [500, 500]
    refused = proxy.chat()
    assert (refused.status, refused.error["code"]) == (503, "backend_unavailable")
    assert refused.headers["retry-after"] == "1"
    assert proxy.request("GET", "/ready").json["servers"] == {"gpu": "open"}
    wait_until(lambda: proxy.assembly.router.servers[0].breaker.state == "half_open")
    assert proxy.chat().status == 200
    assert proxy.assembly.router.servers[0].standing == {
        "state": "up",
        "in_flight": 0,
        "queued": 0,
        "calls": 3,
        "failures": 2,
        "rate_limited": 0,
        "opened": 1,
    }


def test_probes_find_a_server_that_is_down_and_one_that_is_back(start, ups):
    down = ups[1]
    down.services["/v1/models"] = lambda raw: (500, {})
    down.paths["/v1/alive"] = Fail(500)
    proxy = start(
        **pool(
            [ups[0].url, down.url], probe_s=0.05, probe_path="/alive", breaker_failures=2, breaker_open_s=60
        )
    )
    wait_until(lambda: proxy.assembly.router.servers[1].state == "open")
    assert proxy.assembly.router.servers[0].state == "up"  # whatever it answers below 500
    ups[0].on(draft=Say("hi"))
    assert {proxy.chat().headers["x-veridical-backend"] for _ in range(4)} == {"gpu#1"}
    down.paths["/v1/alive"] = Fail(401)
    wait_until(lambda: proxy.assembly.router.servers[1].state == "up")
    assert not down.chats


def test_what_one_server_keeps_is_asked_of_one_server(start, ups):
    proxy = start(**pool([up.url for up in ups[:2]], balance="weighted"))
    for up in ups[:2]:
        up.services["/v1/embeddings"] = lambda raw: (200, {"data": []})
        up.services["/v1/files/f1"] = lambda raw: (200, {"id": "f1"})
    for _ in range(4):
        assert proxy.request("POST", "/v1/embeddings", {"model": "m1", "input": "x"}).status == 200
        assert proxy.request("GET", "/v1/files/f1").status == 200
    assert [len(up.at("/v1/embeddings")) for up in ups[:2]] == [2, 2]
    assert [len(up.at("/v1/files/f1")) for up in ups[:2]] == [4, 0]
    response = proxy.request("GET", "/v1/files/f1", headers={"X-Veridical-Backend": "gpu#2"})
    assert response.headers["x-veridical-backend"] == "gpu#2"
    assert len(ups[1].at("/v1/files/f1")) == 1


@pytest.mark.parametrize("path", ["/v1/embeddings", "/v1/completions"])
def test_other_paths_are_moved_on_too(start, ups, path):
    proxy = start(**pool([NOWHERE, ups[0].url]))
    ups[0].services[path] = lambda raw: (200, {"data": []})
    assert {proxy.request("POST", path, {"model": "m1"}).status for _ in range(3)} == {200}


def waiting(proxy):
    return sum(len(server.queue) for server in proxy.assembly.router.servers)


def test_responses_are_relayed_to_the_server_that_keeps_them_or_translated(start, ups):
    ask = {"model": "m1", "input": "hello"}
    proxy = start(**pool([up.url for up in ups[:2]], balance="weighted"))
    for up in ups[:2]:
        up.services["/v1/responses"] = lambda raw: (200, {"id": "resp_theirs"})
    for _ in range(4):
        assert proxy.request("POST", RESPONSES, ask).json == {"id": "resp_theirs"}
        assert proxy.request("POST", RESPONSES, {**ask, "previous_response_id": "resp_theirs"}).status == 200
    assert [len(up.at(RESPONSES)) for up in ups[:2]] == [6, 2]

    proxy = start(**pool([ups[2].url, ups[0].url], balance="weighted"))
    ups[2].on(draft=Say("hi"))
    ups[0].on(draft=Say("hi"))
    told = [proxy.request("POST", RESPONSES, ask).json["output"][0]["content"][0]["text"] for _ in range(3)]
    assert told == ["hi"] * 3
    assert len(ups[2].at(RESPONSES)) == 1  # its 404 has told that not all of them have it
