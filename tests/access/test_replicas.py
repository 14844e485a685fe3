"""Two processes that share PostgreSQL and Redis: one set of keys, limits, budgets and usage."""

import json
import os
import secrets
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pytest

from veridical.tests.access.conftest import bearer, id_of, keys_command
from veridical.tests.answers import Held, Say
from veridical.tests.processes import started
from veridical.tests.proxy import wait_until
from veridical.tests.servers import listens
from veridical.tests.upstream import SYDNEY

WRONG, RIGHT = "The capital of Australia is Sydney.", "The capital of Australia is Canberra."


pytestmark = pytest.mark.timeout(600)


@pytest.fixture
def replicas(upstream, shared, tmp_path):
    with ExitStack() as stack:
        arguments = ("--keys", "--base-url", upstream.url)
        found = [stack.enter_context(started(tmp_path, *arguments)) for _ in range(2)]
        wait_until(lambda: all(listens(each.proxy.port) for each in found), 240)
        yield found


@pytest.fixture
def fleet(replicas):
    return [each.proxy for each in replicas]


def let_in(fleet, key, upstream, *, count, passing, **fields):
    """How many of `count` requests at once, dealt out over the fleet, are let in; those that should be
    are answered when all others have been refused."""
    release = threading.Event()
    upstream.on(draft=Held(Say("hi", prompt_tokens=6, completion_tokens=94), release))
    with ThreadPoolExecutor(count) as pool:
        asks = [fleet[i % len(fleet)].chat for i in range(count)]
        chats = [pool.submit(ask, headers=bearer(key), **fields) for ask in asks]
        try:
            wait_until(lambda: sum(chat.done() for chat in chats) >= count - passing, 15)
        finally:
            release.set()
        found = Counter(chat.result().status for chat in chats)
    assert found.keys() <= {200, 429}
    return found[200]


def test_a_fleet_shares_keys_limits_budgets_and_usage(fleet, replicas, create, upstream):
    upstream.cove(WRONG, SYDNEY, final=RIGHT)
    key = create()
    for proxy in fleet:
        assert proxy.chat(headers=bearer(key)).status == 200
        assert proxy.chat(model="m1+cove", stream=True, headers=bearer(key)).status == 200
    calls = len(upstream.chats)

    def everywhere():
        found = [proxy.request("GET", "/v1/usage", headers=bearer(key)).json["total"] for proxy in fleet]
        return [(total["requests"], total["calls"]) for total in found] == [(4, calls)] * 2

    wait_until(everywhere, 30)

    assert let_in(fleet, create(requests_per_minute=3), upstream, count=16, passing=3) == 3
    asked = {"max_tokens": 94, "count": 16, "passing": 3}  # 100 tokens each
    assert let_in(fleet, create(tokens_per_minute=300), upstream, **asked) == 3
    spender = create(tokens_per_month=300)
    assert let_in(fleet, spender, upstream, **asked) == 3
    codes = {proxy.chat(headers=bearer(spender)).error["code"] for proxy in fleet}
    assert codes == {"insufficient_quota"}

    revoked_at = time.monotonic()
    assert keys_command("revoke", id_of(key)).exit_code == 0
    wait_until(lambda: {proxy.chat(headers=bearer(key)).status for proxy in fleet} == {401}, 20)
    assert time.monotonic() - revoked_at < 15  # 2 s by the settings; the rest is a busy machine
    told = "".join(each.log.read_text() for each in replicas)
    assert "pg-secret" not in told
    assert "Redis is down" not in told


def test_a_key_is_shown_and_listed_from_the_shared_database(shared, create):
    name = secrets.token_hex(4)
    key = create(name=name)
    listed = json.loads(keys_command("list", "--json").stdout)
    assert [each["id"] for each in listed if each["name"] == name] == [id_of(key)]
    assert not list(Path().glob("*.sqlite"))


def test_while_the_database_is_down_known_keys_work_and_unknown_ones_wait(
    guarded, create, upstream, postgres, shared, caplog
):
    upstream.on(draft=Say("hi"))
    key, urls = create(), {"database_url_env": "STATE_URL", "redis_url_env": "LIMITS_URL", "flush_s": 0.1}
    proxy = guarded(state=urls)
    assert proxy.chat(headers=bearer(key)).status == 200
    postgres.stop()
    try:
        wait_until(lambda: "those known last stay valid" in caplog.text, 60)
        assert proxy.chat(headers=bearer(key)).status == 200
        unknown = proxy.chat(headers=bearer("vrd_unknown7_00"))
        assert (unknown.status, unknown.error["code"]) == (503, "state_unavailable")
        assert proxy.chat(headers=bearer("sk-no-key-of-ours")).status == 401
    finally:
        postgres.start()
    wait_until(lambda: "the keys can be read again" in caplog.text, 60)
    wait_until(lambda: proxy.request("GET", "/v1/usage", headers=bearer(key)).status == 200, 60)
    total = proxy.request("GET", "/v1/usage", headers=bearer(key)).json["total"]
    assert total["requests"] == 2
    assert "pg-secret" not in caplog.text
    assert os.environ["STATE_URL"] not in caplog.text
