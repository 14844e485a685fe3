"""Plug-ins as third parties ship them: installed by pip, found by the server; a broken one harms nobody."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import openai
import pytest

from veridical.tests.answers import Exchange, Say
from veridical.tests.proxy import Proxy, wait_until
from veridical.tests.upstream import Upstream

ROOT = Path(__file__).parent.parent
LONG = "The capital of Australia is the city of Canberra, " + "which has a lake and " * 5 + "a hill."
CONFIG = """
advertise = ["cove", "shorten(words=5)"]

[backends.up]
base_url = "{url}"

[pipelines]
brief = "rag|shorten(words=5)"

[retrievers.terms]
type = "plugin"
retriever = "glossary"
kwargs = {{ path = "{glossary}" }}

[retrievers.bad]
type = "plugin"
retriever = "broken_source"
"""
BROKEN = """
[veridical.strategies]
broken = no_such_module_of_theirs:Strategy
exits = veridical_exits:Strategy
odd = json:JSONDecoder
cove = json:loads

[veridical.retrievers]
broken_source = no_such_module_of_theirs:Retriever

[veridical.tools]
broken_tool = no_such_module_of_theirs:Tool
odd_tool = json:JSONDecoder
"""


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for site-packages with the example, installed by pip, and a package that is broken."""
    home = tmp_path_factory.mktemp("plugins")
    shutil.copytree(ROOT / "examples/plugin", home / "source")
    target = home / "packages"
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", "install", "--no-deps"]
    done = subprocess.run([*pip, "--target", target, home / "source"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    broken = target / "veridical_broken-1.0.dist-info"
    broken.mkdir()
    (broken / "METADATA").write_text("Metadata-Version: 2.1\nName: veridical-broken\nVersion: 1.0\n")
    (broken / "entry_points.txt").write_text(BROKEN)
    (target / "veridical_exits.py").write_text("raise SystemExit('bye')\n")
    return target


@pytest.fixture
def environment(packages: Path) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("VERIDICAL")}
    paths = [str(packages), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {**kept, "PYTHONPATH": os.pathsep.join(paths)}


@pytest.fixture
def server(environment: dict[str, str], upstream: Upstream, tmp_path: Path) -> Iterator[tuple[Proxy, Path]]:
    """`veridical serve` with those packages, and its log so far."""
    glossary, config, out = tmp_path / "glossary.toml", tmp_path / "veridical.toml", tmp_path / "log"
    glossary.write_text('Canberra = "A city on a lake."\nlake = "Water."\n')
    config.write_text(CONFIG.format(url=upstream.url, glossary=glossary))
    command = [sys.executable, "-m", "veridical", "serve", "--port", "0", "--config", config]
    with (
        out.open("w") as log,
        subprocess.Popen(command, cwd=tmp_path, env=environment, stderr=log) as child,
    ):
        try:
            listening = re.compile(r"http://[\d.]+:(\d+)")
            wait_until(lambda: listening.search(out.read_text()) or child.poll() is not None, 60)
            found = listening.search(out.read_text())
            assert found, out.read_text()
            proxy = Proxy(int(found[1]))
            yield proxy, out
            proxy.close()
        finally:
            child.terminate()


@pytest.mark.timeout(300)
def test_an_installed_plug_in_is_used_and_broken_ones_are_named(
    server: tuple[Proxy, Path], upstream: Upstream
) -> None:
    proxy, log = server
    upstream.on(draft=answered, **{"rag/answer": answered})
    wait_until(lambda: "'veridical-broken' offers a strategy 'cove'" in log.read_text(), 20)
    listed = {model.id for model in proxy.client.models.list()}
    assert {"m1+cove", "m1+shorten(words=5)"} <= listed

    short = proxy.ask(model="m1+shorten(words=5)")
    assert short.choices[0].message.content == "Canberra."
    assert (short.veridical["calls"], short.veridical["strategy"]) == (2, "shorten(words=5)")

    grounded = proxy.ask("What is Canberra?", strategy="brief")
    assert [each["id"] for each in grounded.veridical["evidence"]] == ["Canberra"]
    assert grounded.veridical["strategy"] == "rag|shorten(words=5)"
    assert "A city on a lake." in upstream.chats[-2].prompt

    upstream.on(draft=Say("CANBERRA!"), **{"critic/detoxify": Say("Canberra.")})
    calm = proxy.ask(strategy="critic(tool=shouting)")
    assert calm.choices[0].message.content == "Canberra."
    assert "shouting: 100 % in the draft" in calm.veridical["notes"][0]

    upstream.on(draft=answered)
    for name, words in (
        ("broken", "no_such_module_of_theirs"),
        ("exits", "bye"),
        ("odd", "is not a Strategy class"),
        ("critic(tool=broken_tool)", "no_such_module_of_theirs"),
        ("critic(tool=odd_tool)", "is no Searcher"),
    ):
        with pytest.raises(openai.InternalServerError, match="veridical-broken") as refused:
            proxy.ask(strategy=name)
        assert words in refused.value.message
    with pytest.raises(openai.InternalServerError, match="veridical-broken"):
        proxy.ask(strategy="rag(source=bad)")
    assert proxy.ask().choices[0].message.content == LONG
    upstream.cove("Canberra.")  # our own strategy keeps its name
    assert proxy.ask(strategy="cove").veridical["strategy"] == "cove"


def answered(exchange: Exchange) -> Say:
    return Say("Canberra." if "in one sentence" in exchange.prompt else LONG)


def test_the_command_line_lists_what_works_and_names_what_does_not(environment: dict[str, str]) -> None:
    command = [sys.executable, "-m", "veridical", "strategies", "--json"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    names = [each["name"] for each in json.loads(done.stdout)]
    assert "shorten" in names
    assert not {"broken", "exits", "odd"} & set(names)
    assert names.count("cove") == 1
    for name in ("broken", "exits", "odd", "cove"):
        assert re.search(f"'veridical-broken'.*'{name}'", done.stderr)
