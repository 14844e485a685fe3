"""What `veridical check-config` finds without a network: sources that would fail, missing programs."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from veridical.__main__ import main
from veridical.retrievers.index import build

UPSTREAM = "[backends.up]\nbase_url = 'http://127.0.0.1:9'\n"
FAKE = "veridical.retrievers.testing:FakeRetriever"


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))


def check(toml: str, **environment: str) -> Result:
    Path("some.toml").write_text(UPSTREAM + toml)
    return CliRunner().invoke(main, ["check-config", "--config", "some.toml"], env=environment)


def test_sound_sources_are_listed_with_what_they_are_made_of() -> None:
    Path("pages.jsonl").write_text(json.dumps({"id": "nile", "text": "The Nile flows through Cairo."}))
    build("pages.jsonl", "index")
    result = check(
        "[retrievers.pages]\ntype = 'index'\npath = '~/index'\n"
        "[retrievers.wiki]\ntype = 'wikipedia'\n"
        f"[retrievers.mine]\ntype = 'langchain'\nretriever_class = '{FAKE}'\nkwargs = {{ name_env = 'X' }}\n"
        "[retrievers.default]\ntype = 'hybrid'\nsources = ['pages', 'wiki']\n",
        X="set",
    )
    assert (result.exit_code, result.stderr) == (0, "")
    for line in (
        "source pages: index",
        "source default: hybrid of pages, wiki",
        "default source: default",
        "The configuration is sound.",
    ):
        assert line in result.stdout.splitlines()
    assert not Path(".cache").exists()


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("type = 'index'\npath = 'nowhere'", "retrievers.x: No index in nowhere"),
        ("type = 'langchain'\nretriever_class = 'no_such:Thing'", "Cannot import no_such:Thing"),
        (
            f"type = 'langchain'\nretriever_class = '{FAKE}'\nkwargs.a = [{{ import = 'no_such:Inner' }}]",
            "Cannot import no_such:Inner",
        ),
        (f"type = 'langchain'\nretriever_class = '{FAKE}'\nkwargs = {{ k_env = 'GONE' }}", "GONE is not set"),
        ("type = 'hybrid'\nsources = ['y']", "there is no [retrievers.y]"),
        ("type = 'hybrid'\nsources = []", "retrievers.x.sources"),
        ("type = 'hybrid'\nsources = ['y', 'z']\nweights = [1]", "1 weights for 2 sources"),
        ("type = 'hybrid'\nsources = ['y', 'y']", "a source is named twice"),
        ("type = 'web'\nurl = 'searx.example/search'", "retrievers.x.url"),
        ("type = 'wikipedia'\napi_url = 'http://wiki.example/api.php'", "retrievers.x.api_url"),
        ("type = 'wikipedia'\nlanguage = 'EN!'", "retrievers.x.language"),
    ],
)
def test_a_source_that_would_fail_is_named(source: str, words: str) -> None:
    result = check(f"[retrievers.x]\n{source}")
    assert result.exit_code == 1
    assert words in result.stderr
    assert result.stderr.startswith("veridical: ")
    assert "sound" not in result.stdout


@pytest.mark.parametrize(
    ("kind", "module", "extra"),
    [
        ("type = 'wikipedia'", "wikipedia", "wikipedia"),
        ("type = 'wikidata'", "Stemmer", "bm25"),
        ("type = 'rerank'\nsource = 'web'\nmodel = 'm'", "sentence_transformers", "dense"),
    ],
)
def test_an_extra_that_is_not_installed_is_named(
    monkeypatch: pytest.MonkeyPatch, kind: str, module: str, extra: str
) -> None:
    monkeypatch.setattr(
        "veridical.middleware.checking.find_spec", lambda name: None if name == module else name
    )
    result = check(f"[retrievers.x]\n{kind}\n[retrievers.web]\ntype = 'web'\nurl = 'http://127.0.0.1:9/'")
    assert result.exit_code == 1
    assert f"retrievers.x: it needs an extra: pip install 'veridical[{extra}]'" in result.stderr


def test_a_cache_that_cannot_be_written_is_a_warning() -> None:
    Path("file").write_text("")
    for file in ("file/cache.sqlite", "."):
        result = check(f"[retrievers.wiki]\ntype = 'wikipedia'\ncache_file = '{file}'")
        assert result.exit_code == 0
        assert f"warning: retrievers.wiki: {file} cannot be written" in result.stderr


def test_an_engine_that_cannot_be_run_is_a_warning() -> None:
    Path("plain").write_text("no program")
    Path("bin").mkdir()
    Path("bin/engine").write_text("#!/bin/sh\n")
    Path("bin/engine").chmod(0o755)
    for command in ("no-such-engine", "./plain", "/no/such/python"):
        result = check(f"[backends.big]\ntype = 'vllm'\nmodel = 'm'\ncommand = ['{command}', '-m', 'x']")
        assert result.exit_code == 0
        assert f"warning: backends.big: '{command}' is not found, or may not be run." in result.stderr
    for more in ("command = ['./bin/engine']", "command = ['engine']\nenv = { PATH = 'bin' }"):
        assert check(f"[backends.big]\ntype = 'vllm'\nmodel = 'm'\n{more}").stderr == ""
