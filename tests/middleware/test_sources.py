"""Sources of evidence made by configuration: caches, hybrids, rerankers, keys, and which is the default."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from veridical.middleware.assembly import Assembly
from veridical.middleware.config import Settings, load_settings
from veridical.middleware.domains import domains
from veridical.retrievers.rerank import CrossEncoderScore
from veridical.strategies.errors import ConfigError
from veridical.tests.answers import Say
from veridical.tests.conftest import Serve, settings_before
from veridical.tests.loopback import Handler, serving
from veridical.tests.mediawiki import MediaWiki
from veridical.tests.proxy import Proxy, running_proxy
from veridical.tests.upstream import Fact, Upstream

FAKE = "veridical.retrievers.testing:FakeRetriever"
KEYED = "veridical.tests.keyed:Keyed"
DEAD = {"type": "web", "url": "http://127.0.0.1:9/search", "cache": False}


def fake(*found: str, **more: Any) -> dict[str, Any]:
    """A source that finds the same for every query."""
    return {"type": "langchain", "retriever_class": FAKE, "kwargs": {"sources": found, **more}}


def hybrid(*names: str, **more: Any) -> dict[str, Any]:
    return {"type": "hybrid", "sources": names, **more}


@pytest.fixture(autouse=True)
def _answers(upstream: Upstream) -> None:
    upstream.on(**{"rag/answer": Say("It is so [1].")})


@pytest.fixture
def loopback() -> Iterator[Callable[[Handler], str]]:
    with serving() as start:
        yield start


class Searx:
    """A search server that takes its time."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    async def __call__(self, request: web.Request) -> web.StreamResponse:
        self.asked.append(request.query["q"])
        await asyncio.sleep(0.3)
        hit = {"url": "https://example.org/nile", "title": "Nile", "content": "The Nile flows to Cairo."}
        return web.json_response({"results": [hit]})


def trail(proxy: Proxy, model: str = "m1+rag", **more: Any) -> dict[str, Any]:
    """What the answer says about itself."""
    return proxy.ask("Which river?", model=model, **more).veridical


def ids(proxy: Proxy, source: str = "default") -> list[str]:
    return [each["id"] for each in trail(proxy, f"m1+rag(source={source},k=3)")["evidence"]]


# --- the cache


def test_wikipedia_is_asked_once_for_equal_requests_also_after_a_restart(
    upstream: Upstream, loopback: Callable[[Handler], str], tmp_path: Path
) -> None:
    wiki = MediaWiki()
    source = {
        "type": "wikipedia",
        "api_url": loopback(wiki) + "/w/api.php",
        "cache_file": str(tmp_path / "cache.sqlite"),
    }
    asked = []
    for _ in range(2):
        with running_proxy(settings_before(upstream, retrievers={"wiki": source})) as proxy:
            for _ in range(2):
                found = proxy.ask("What is Canberra ?", model="m1+rag").veridical["evidence"]
                assert found[0]["title"] == "Canberra"
                asked.append(len(wiki.asked))
    assert asked[0] > 0
    assert asked == [asked[0]] * 4


@pytest.mark.parametrize(("cache", "searches"), [(True, 1), (False, 3)])
def test_equal_searches_at_once_are_one_unless_the_cache_is_off(
    serve: Serve, loopback: Callable[[Handler], str], tmp_path: Path, cache: bool, searches: int
) -> None:
    searx = Searx()
    file = str(tmp_path / "folder" / "cache.sqlite")
    web = {"type": "web", "url": loopback(searx) + "/search", "cache": cache, "cache_file": file}
    assert len(trail(serve(retrievers={"web": web}), n=3)["retrievals"]) == 3
    assert len(searx.asked) == searches
    assert Path(file).exists() is cache


def test_a_cache_that_cannot_be_written_stops_no_search(
    serve: Serve,
    loopback: Callable[[Handler], str],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    (tmp_path / "file").write_text("no folder")
    searx, file = Searx(), str(tmp_path / "file" / "cache.sqlite")
    proxy = serve(retrievers={"web": {"type": "web", "url": loopback(searx) + "/", "cache_file": file}})
    with caplog.at_level(logging.WARNING):
        assert [ids(proxy), ids(proxy)] == [["https://example.org/nile"]] * 2
    assert len(searx.asked) == 1
    assert "kept in memory" in caplog.text


def test_a_third_partys_answers_are_kept_only_when_asked(serve: Serve, tmp_path: Path) -> None:
    assert not Settings(retrievers={"x": fake("a")}).retrievers["x"].cache
    file = tmp_path / "cache.sqlite"
    kept = {**fake("a"), "cache": True, "cache_file": str(file)}
    assert ids(serve(retrievers={"x": kept})) == ["a"]
    assert file.exists()


# --- hybrids


def test_a_hybrid_fuses_by_weight(serve: Serve) -> None:
    parts = {"one": fake("a", "b"), "two": fake("c", "b")}
    proxy = serve(
        retrievers={**parts, "even": hybrid("one", "two"), "two_first": hybrid("one", "two", weights=[1, 3])}
    )
    assert ids(proxy, "even")[0] == "b"
    assert ids(proxy, "two_first") == ["b", "c", "a"]
    assert ids(proxy, "one") == ["a", "b"]


@pytest.mark.parametrize(
    ("part", "code"),
    [
        (DEAD, "retriever_unavailable"),
        ({"type": "index", "path": "no/such/folder"}, "index_missing"),
        (fake("x", delay=600.0), "retriever_timeout"),
        (fake(error={"import": "builtins:RuntimeError"}), "retriever_misconfigured"),
    ],
)
def test_a_hybrid_goes_on_without_a_part_and_says_so(serve: Serve, part: dict[str, Any], code: str) -> None:
    both = hybrid("good", "lost", timeout_s=0.5 if code == "retriever_timeout" else 10)
    proxy = serve(retrievers={"default": both, "good": fake("a"), "lost": part})
    told = trail(proxy)
    assert [each["id"] for each in told["evidence"]] == ["a"]
    (search,) = told["retrievals"]
    assert (search["source"], search["error"], search["failed"]) == ("default", None, {"lost": code})
    assert told["notes"] == [f"retrieval_failed: The source 'lost' failed and was left out ({code})."]
    assert told["status"] != "degraded"


def test_a_slow_part_is_left_out_by_its_own_limit(serve: Serve) -> None:
    slow = {**fake("x", delay=600.0), "timeout_s": 0.2}
    proxy = serve(retrievers={"default": hybrid("good", "slow"), "good": fake("a"), "slow": slow})
    assert trail(proxy)["retrievals"][0]["failed"] == {"slow": "retriever_timeout"}


def test_a_hybrid_whose_parts_all_fail_has_failed(serve: Serve, upstream: Upstream) -> None:
    proxy = serve(retrievers={"default": hybrid("one", "two"), "one": DEAD, "two": DEAD})
    assert proxy.chat(model="m1+rag").error["code"] == "retrieval_failed"
    upstream.cove("The Seine.", Fact("x", "y?"))
    told = trail(proxy, "m1+cove(execute_with=retrieval)")
    assert told["status"] == "degraded"
    assert "evidence" not in told
    (search,) = told["retrievals"]
    assert search["error"] == "retrieval_failed"
    assert search["failed"] == dict.fromkeys(("one", "two"), "retriever_unavailable")


# --- rerankers


def test_a_reranker_reorders_another_source(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    def load(model: str) -> Callable[[list[tuple[str, str]]], list[float]]:
        assert model == "some/cross-encoder"
        return lambda pairs: [float("Text of c." in text) for _, text in pairs]

    monkeypatch.setattr(CrossEncoderScore, "load", load)
    best = {"type": "rerank", "source": "both", "model": "some/cross-encoder"}
    parts = {"one": fake("a", "b", "c"), "lost": DEAD, "both": hybrid("one", "lost")}
    proxy = serve(retrievers={"default": best, **parts})
    told = trail(proxy, "m1+rag(k=2)")
    assert [(each["id"], each["score"]) for each in told["evidence"]] == [("c", 1.0), ("a", 0.0)]
    assert told["retrievals"][0]["failed"] == {"lost": "retriever_unavailable"}


def test_a_reranker_whose_source_cannot_be_opened_says_so(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(CrossEncoderScore, "load", lambda model: lambda pairs: [0.0] * len(pairs))
    best = {"type": "rerank", "source": "index", "model": "m"}
    proxy = serve(retrievers={"best": best, "index": {"type": "index", "path": "no/such/folder"}})
    assert "'index' cannot be opened: No index in" in proxy.chat(model="m1+rag").error["message"]


# --- what the default is, and what cannot be


@pytest.mark.parametrize(
    ("names", "default"), [(("a", "b"), "a"), (("b", "a"), "b"), (("a", "b", "default"), "default")]
)
def test_the_default_is_what_is_called_so_or_the_first(names: tuple[str, ...], default: str) -> None:
    settings = Settings(
        backends={"up": {"type": "http", "base_url": "http://x"}},
        retrievers={name: fake(name) for name in names},
    )
    assert Assembly(settings).sources["default"].name == default


def test_the_domain_of_all_knowledge_asks_no_source_twice() -> None:
    retrievers = {"a": fake("a"), "b": fake("b"), "default": hybrid("a", "b")}
    (general,) = domains(Settings(retrievers=retrievers)).values()
    assert general.sources.keys() == {"a", "b"}


@pytest.mark.parametrize(
    ("file", "flags", "default"),
    [
        ("", ["index", "wikipedia"], "default"),
        ("", ["wikipedia"], "wikipedia"),
        ("[retrievers.pages]\ntype = 'index'\npath = 'x'", ["wikipedia"], "wikipedia"),
        ("[retrievers.default]\ntype = 'index'\npath = 'x'", ["index", "wikipedia"], "default"),
    ],
)
def test_flags_make_the_default(tmp_path: Path, file: str, flags: list[str], default: str) -> None:
    kinds = {"index": {"type": "index", "path": "y"}, "wikipedia": {"type": "wikipedia"}}
    overrides = {
        "backends": {"up": {"type": "http", "base_url": "http://x"}},
        "retrievers": {name: kinds[name] for name in flags},
    }
    path = tmp_path / "some.toml"
    path.write_text(file)
    settings = load_settings(path, environment={}, overrides=overrides)
    assert Assembly(settings).sources["default"].name == default
    if default == "default":
        assert settings.retrievers["default"].type == ("index" if file else "hybrid")
    assert {*flags} <= settings.retrievers.keys()


@pytest.mark.parametrize(
    ("retrievers", "words"),
    [
        ({"a": hybrid("b")}, "retrievers.a is made of 'b', and there is no [retrievers.b]"),
        ({"a": hybrid("pagse"), "pages": fake()}, "Did you mean 'pages'?"),
        ({"a": hybrid("a")}, "retrievers.a is made of itself: a → a."),
        ({"a": hybrid("b"), "b": hybrid("c"), "c": hybrid("b")}, "retrievers.b is made of itself: b → c → b"),
        ({"a": {"type": "rerank", "source": "b", "model": "m"}}, "there is no [retrievers.b]"),
        ({"a": {**fake(), "kwargs": {"api_key_env": "NOT_SET_1"}}}, "variable NOT_SET_1 is not set"),
        ({"a": {**fake(), "kwargs": {"x": [{"kwargs": {"k_env": "NOT_SET_2"}}]}}}, "NOT_SET_2 is not set"),
        ({"a": {**fake(), "kwargs": {"k": "sk-1", "k_env": "HOME"}}}, "k and k_env are both given"),
        ({"a": {"type": "web", "url": "http://x", "api_key_env": "NOT_SET_3"}}, "NOT_SET_3 is not set"),
    ],
)
def test_what_cannot_be_is_told_at_the_start(retrievers: dict[str, Any], words: str) -> None:
    settings = Settings(backends={"up": {"type": "http", "base_url": "http://x"}}, retrievers=retrievers)
    with pytest.raises(ConfigError) as caught:
        Assembly(settings)
    assert words in caught.value.message
    assert "sk-1" not in caught.value.message


# --- keys of third parties


@pytest.fixture
def _keys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FIRST_KEY", "sk-first")
    monkeypatch.setenv("SECOND_KEY", "sk-second")


def keyed(path: str = KEYED, **kwargs: Any) -> dict[str, Any]:
    client = {"import": "veridical.tests.keyed:Client", "kwargs": {"api_key_env": "SECOND_KEY"}}
    kwargs = {"api_key_env": "FIRST_KEY", "client": client, **kwargs}
    return {"type": "langchain", "retriever_class": path, "kwargs": kwargs}


@pytest.mark.usefixtures("_keys")
def test_keys_come_from_the_environment_at_any_depth(serve: Serve) -> None:
    assert ids(serve(retrievers={"keyed": keyed()})) == ["keyed"]


@pytest.mark.usefixtures("_keys")
@pytest.mark.parametrize("source", [keyed(fails=True), keyed(KEYED + ".broken")])
def test_keys_are_told_to_nobody(
    serve: Serve, caplog: pytest.LogCaptureFixture, source: dict[str, Any]
) -> None:
    proxy = serve(retrievers={"default": hybrid("keyed", "good"), "keyed": source, "good": fake("a")})
    with caplog.at_level(logging.DEBUG):
        told = proxy.chat(model="m1+rag", veridical={"trace": "full"})
        alone = proxy.chat(model="m1+rag(source=keyed)")
    assert told.json["veridical"]["retrievals"][0]["failed"].keys() == {"keyed"}
    assert alone.error["code"] == "retrieval_failed"
    everything = told.raw.decode() + alone.raw.decode() + caplog.text
    assert "sk-first" not in everything
    assert "sk-second" not in everything
    assert "failed and is left out" in caplog.text
