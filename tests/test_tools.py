"""Tools by name: ours, configured ones and plug-ins; and a scoring service on the net."""

from __future__ import annotations

import asyncio
import json
from importlib.metadata import EntryPoint
from typing import Any

import pytest

from veridical.middleware.config import load_settings
from veridical.strategies import plugins
from veridical.strategies.errors import ConfigError, InvalidRequest
from veridical.strategies.tools import registry
from veridical.strategies.tools.base import Execution, Interpreter, Searcher
from veridical.strategies.tools.registry import BUILT_IN, make_tool, tool_class
from veridical.strategies.tools.toxicity import ToxicityClassifier
from veridical.tests.answers import Say
from veridical.tests.conftest import Serve
from veridical.tests.proxy import Proxy
from veridical.tests.upstream import Upstream


class Twelve(Interpreter):
    """A plug-in's interpreter: every program gives 12."""

    async def run(self, code: str) -> Execution:
        return Execution(answer="12")


class Unfinished(Searcher):
    """A plug-in's searcher that cannot search."""


class NeedsArguments(Interpreter):
    """A plug-in's interpreter that cannot be made as plug-ins are."""

    def __init__(self, url: str) -> None:
        self.url = url

    async def run(self, code: str) -> Execution:
        return Execution()


@pytest.fixture
def offer(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Pretends that a distribution offers these tools."""

    def offering(**tools: str) -> None:
        known = registry.CATALOGUE
        points = [EntryPoint(name, value, known.group) for name, value in tools.items()]
        monkeypatch.setattr(plugins, "entry_points", lambda group: points)
        monkeypatch.setattr(registry, "CATALOGUE", plugins.Catalogue(known.group, known.what, known.ours))

    return offering


@pytest.mark.parametrize("name", BUILT_IN)
def test_every_tool_of_ours_can_be_made(name: str) -> None:
    assert isinstance(make_tool(name), tool_class(name))


def test_an_unknown_tool_is_refused_with_those_that_there_are() -> None:
    with pytest.raises(InvalidRequest, match="no tool 'serch'; it has: mine, python, search, toxicity"):
        make_tool("serch", ["mine"])


def test_a_plugin_is_used_by_its_name(offer: Any, proxy: Proxy, upstream: Upstream) -> None:
    offer(twelve=f"{__name__}:Twelve")
    steps = {
        "critic/program": Say("a"),
        "critic/program_critique": Say(json.dumps({"check": "Fine.", "verdict": "right"})),
        "critic/result": Say("There are 12."),
    }
    upstream.on(draft=Say("10"), **steps)
    answer = proxy.ask(model="m1+critic(tool=twelve)")
    assert answer.choices[0].message.content == "There are 12."
    assert answer.veridical["evidence"][0]["retriever"] == "twelve"


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("no_such_module_at_all:X", "no_such_module_at_all"),
        ("json:loads", "no Searcher, Interpreter or Scorer"),
        (f"{__name__}:Unfinished", "no Searcher, Interpreter or Scorer"),
        (f"{__name__}:NeedsArguments", "cannot be made"),
    ],
)
def test_a_broken_plugin_is_named_and_the_server_goes_on(
    offer: Any, proxy: Proxy, upstream: Upstream, value: str, words: str
) -> None:
    offer(broken=value)
    upstream.on(draft=Say("10"))
    response = proxy.chat(model="m1+critic(tool=broken)")
    assert response.status == 500
    assert "broken" in response.error["message"]
    assert words in response.error["message"]
    assert upstream.chats == []
    assert proxy.chat(model="m1").status == 200
    assert isinstance(make_tool("search"), tool_class("search"))


def test_a_plugin_may_not_take_our_name(offer: Any) -> None:
    offer(python="json:loads")
    assert "that name is taken" in registry.CATALOGUE.clashes["python"]
    assert isinstance(make_tool("python"), tool_class("python"))
    assert tool_class("python").__module__ == "veridical.strategies.tools.python"


def test_of_two_plugins_of_one_name_neither_is_trusted(monkeypatch: pytest.MonkeyPatch, offer: Any) -> None:
    offer()
    group = registry.CATALOGUE.group
    twice = [EntryPoint("twelve", f"{__name__}:{name}", group) for name in ("Twelve", "Unfinished")]
    monkeypatch.setattr(plugins, "entry_points", lambda group: twice)
    with pytest.raises(ConfigError, match="that name is taken"):
        make_tool("twelve")


def test_a_tool_that_is_not_installed_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, serve: Serve, upstream: Upstream
) -> None:
    monkeypatch.setattr("importlib.metadata.files", lambda name: [])
    response = serve().chat(model="m1+critic(tool=python)")
    assert (response.status, response.error["param"]) == (400, "strategy")
    assert "veridical[python-tool]" in response.error["message"]
    assert upstream.chats == []
    with pytest.raises(ConfigError, match="python-tool"):
        serve(tools={"python": {"type": "python"}})


@pytest.mark.parametrize(
    ("toml", "words"),
    [
        ("[tools.python]\ntype = 'python'\nsecond = 1", "Did you mean 'seconds'"),
        ("[tools.x]\ntype = 'scoring'\nurl = 'ftp://x'", "must begin with http"),
        ("[tools.x]\ntype = 'toxicity'\nthreshold = 2", "less than 1"),
    ],
)
def test_a_wrong_setting_is_named(tmp_path: Any, toml: str, words: str) -> None:
    file = tmp_path / "veridical.toml"
    file.write_text(toml)
    with pytest.raises(ConfigError, match=words):
        load_settings(file, environment={})


class TestClassifier:
    """The trained classifier itself: what it sees, and what its page says that it does not."""

    def score(self, text: str) -> float:
        return asyncio.run(ToxicityClassifier().score(text)).overall

    def test_it_tells_insults_from_plain_words(self) -> None:
        assert self.score("You are a stupid idiot and everybody hates you.") > 0.9
        assert self.score("Canberra is the capital of Australia.") < 0.1
        assert self.score("") == self.score("  \n") == 0

    def test_one_insult_is_not_thinned_out(self) -> None:
        polite = "Canberra is the capital of Australia. " * 20
        assert self.score(f"{polite}You are a stupid idiot. {polite}") > 0.9

    def test_it_does_not_see_hostility_in_plain_words(self) -> None:
        assert self.score("People like you should not be allowed to vote, go back home.") < 0.3


INSULT, KIND = "You stupid idiot, it is Canberra.", "It is Canberra."


def test_the_classifier_through_the_proxy(proxy: Proxy, upstream: Upstream) -> None:
    upstream.on(draft=Say(INSULT), **{"critic/detoxify": Say(KIND)})
    answer = proxy.ask(model="m1+critic(tool=toxicity)")
    assert answer.choices[0].message.content == KIND
    assert answer.veridical["status"] == "verified"
    assert "in the draft" in answer.veridical["notes"][0]


def perspective(toxicity: float) -> dict[str, Any]:
    return {
        "attributeScores": {
            "TOXICITY": {"summaryScore": {"value": toxicity}},
            "INSULT": {"summaryScore": {"value": toxicity / 2}},
            "IDENTITY_ATTACK": {"summaryScore": {"value": 0.9 * toxicity}},
        }
    }


class TestScoringService:
    @pytest.fixture
    def ask(self, serve: Serve, upstream: Upstream, monkeypatch: pytest.MonkeyPatch) -> Any:
        """Asks for a rewritten answer, scored by the upstream at /score."""

        def asking(service: Any, **tool: Any) -> Any:
            monkeypatch.setenv("SCORE_KEY", "sk-score")
            upstream.serve_at("/v1/score", service)
            upstream.on(draft=Say(INSULT), **{"critic/detoxify": Say(KIND)})
            found = {"type": "scoring", "url": f"{upstream.url}/score", "api_key_env": "SCORE_KEY", **tool}
            return serve(tools={"net": found}).ask(model="m1+critic(tool=net)").to_dict()

        return asking

    @pytest.mark.parametrize(
        ("api", "header", "shape"),
        [
            ("perspective", "x-goog-api-key", perspective),
            ("moderations", "authorization", lambda s: {"results": [{"category_scores": {"hate": s}}]}),
        ],
    )
    def test_an_answer_is_scored_and_rewritten(
        self, ask: Any, upstream: Upstream, api: str, header: str, shape: Any
    ) -> None:
        answer = ask(lambda raw: (200, shape(0.8 if b"idiot" in raw else 0.02)), api=api)
        assert answer["choices"][0]["message"]["content"] == KIND
        assert answer["veridical"]["notes"] == ["net: 80 % in the draft, 2 % in the answer."]
        scored = [exchange for exchange in upstream.log if exchange.path == "/v1/score"]
        assert "sk-score" in scored[0].headers[header]
        assert INSULT.encode() in scored[0].raw
        if api == "perspective":
            assert "80 % identity attack" not in upstream.asked("critic/detoxify")[0].prompt
            assert "80 % toxicity" in upstream.asked("critic/detoxify")[0].prompt

    @pytest.mark.parametrize(
        "service",
        [
            lambda raw: (403, {"error": "sk-score is bad"}),
            lambda raw: (302, {}),
            lambda raw: (200, {}),
            lambda raw: (200, {"attributeScores": {"TOXICITY": {"summaryScore": {"value": "high"}}}}),
            lambda raw: (200, perspective(7)),
            lambda raw: (200, {"attributeScores": {"INSULT": {"summaryScore": {"value": 0.5}}}}),
        ],
    )
    def test_a_service_that_fails_leaves_the_draft_marked(self, ask: Any, service: Any) -> None:
        answer = ask(service)
        assert answer["choices"][0]["message"]["content"] == INSULT
        assert answer["veridical"]["status"] == "degraded"
        (note,) = answer["veridical"]["notes"]
        assert note.startswith("tool_failed: The scoring service")
        assert "sk-score" not in json.dumps(answer)
