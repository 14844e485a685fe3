"""/metrics: servers that are balanced, and the cache."""

import threading
from concurrent.futures import ThreadPoolExecutor

from veridical.tests.answers import Fail, Held, Say
from veridical.tests.observing.conftest import scraped
from veridical.tests.proxy import wait_until
from veridical.tests.upstream import running_upstream


def test_a_servers_load_queue_and_failures_are_told(serve, upstream):
    release = threading.Event()
    with running_upstream() as broken:
        broken.on(draft=Fail(500))
        upstream.on(draft=Held(Say("late"), release))
        gpu = {"type": "http", "base_url": [broken.url, upstream.url], "max_concurrency": 1}
        gpu |= {"weights": [100, 1], "balance": "weighted", "breaker_failures": 1, "models": ["m1"]}
        proxy = serve(backends={"gpu": gpu})
        with ThreadPoolExecutor(2) as pool:
            asked = [pool.submit(proxy.chat) for _ in range(2)]
            wait_until(lambda: scraped(proxy, running=2).value("veridical_server_queued") == 1)
            seen = scraped(proxy, running=2)
            assert seen.value("veridical_server_in_flight", server="gpu#2") == 1
            assert seen.value("veridical_server_state", server="gpu#1", state="open") == 1
            assert seen.value("veridical_server_failures_total", server="gpu#1") == 1
            assert seen.value("veridical_server_opened_total", server="gpu#1") == 1
            release.set()
            assert [each.result().status for each in asked] == [200, 200]
        assert scraped(proxy).value("veridical_server_calls_total", server="gpu#2") == 2
        assert scraped(proxy).value("veridical_server_in_flight") == 0


def test_what_the_cache_does_is_told(serve, upstream):
    upstream.on(draft=Say("Hello."))
    proxy = serve(cache={"kind": "memory"})
    for _ in range(3):
        assert proxy.chat(temperature=0).status == 200
    seen = scraped(proxy)
    told = {
        name: seen.value(f"veridical_cache_{name}_total") for name in ("hits", "misses", "stores", "errors")
    }
    assert told == {"hits": 2, "misses": 1, "stores": 1, "errors": 0}


def test_without_a_cache_there_are_no_figures_of_one(serve):
    assert scraped(serve()).samples("veridical_cache_hits_total") == []
