"""`veridical eval --cache`: a strategy added to a finished matrix costs only what is its own."""

import pytest

from veridical.evals.endpoint import Endpoint
from veridical.evals.records import RecordFile
from veridical.evals.session import Asked, _keeping
from veridical.tests.upstream import SYDNEY

pytestmark = pytest.mark.timeout(600)


def test_a_strategy_added_later_makes_only_its_own_calls(run, out, upstream, serve):
    upstream.cove("Sydney", SYDNEY, final="Amber")
    proxy = serve(cache={"kind": "memory"})

    def ask(*strategies):
        words = [word for name in strategies for word in ("--strategy", name)]
        run("run", "hotpotqa", "--limit", 1, "--cache", *words, url=proxy.url)

    ask("direct")
    ask("direct", "cove(max_questions=2)")
    direct, cove = RecordFile(out)
    assert len(upstream.asked("draft")) == 1
    assert (direct.calls, direct.cached_calls, direct.status) == (1, 0, "direct")
    assert direct.seconds
    assert (cove.calls, cove.cached_calls, cove.seconds) == (len(upstream.chats), 1, None)
    assert cove.prompt_tokens == 7 * cove.calls
    (chat,) = upstream.asked("draft")
    assert not chat.body.keys() & {"veridical", "strategy"}


def test_only_a_cache_is_asked_for_its_account(upstream):
    plain = Endpoint(upstream.url).model("m1", connections=1)
    assert plain.config.extra_body is None


def test_a_configured_cache_stays_as_it_is(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = tmp_path / "proxy.toml"
    config.write_text('[cache]\nkind = "memory"\n')

    def asked(**fields):
        nothing = dict.fromkeys(("data", "model", "label", "base_url", "api_key_env", "config", "index"))
        numbers = {"wikipedia": False, "limit": None, "shuffle": False, "seed": 0, "max_connections": 1}
        return Asked(tasks=(), out=tmp_path, arguments=(), **{**nothing, **numbers, **fields})

    assert _keeping(asked(cache=True)) == {"VERIDICAL_CACHE_KIND": "disk"}
    assert _keeping(asked(cache=True, config=str(config))) == {}
    assert _keeping(asked()) == {}
