"""The command line, mostly as a real process: serve, ask, strategies, init, check-config."""

import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from click.testing import CliRunner

from veridical.__main__ import main
from veridical.middleware.config import Settings, load_settings
from veridical.tests.answers import Fail, Say
from veridical.tests.proxy import Proxy, listed, wait_until
from veridical.tests.upstream import SYDNEY

WRONG, RIGHT = "The capital of Australia is Sydney.", "The capital of Australia is [Canberra]."


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in [name for name in os.environ if name.startswith("VERIDICAL_")]:
        monkeypatch.delenv(name)


def run(*arguments: str, **environment: str):
    return CliRunner().invoke(main, arguments, env=environment)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]


def answers(proxy: Proxy) -> bool:
    try:
        return proxy.request("GET", "/health").status == 200
    except (ConnectionError, http.client.HTTPException):
        return False


@contextmanager
def process(*arguments: str, **environment: str):
    """`python -m veridical …` with its output on file."""
    with (
        Path("out").open("wb") as out,
        subprocess.Popen(
            [sys.executable, "-m", "veridical", *arguments],
            stdout=out,
            stderr=subprocess.STDOUT,
            env={**os.environ, **environment},
        ) as child,
    ):
        try:
            yield child
        finally:
            child.kill()


def test_serve_needs_only_the_url_of_an_upstream(upstream):
    upstream.cove(WRONG, SYDNEY, final=RIGHT)
    proxy = Proxy(free_port())
    flags = ("--base-url", upstream.url, "--api-key-env", "MY_KEY", "--port", str(proxy.port))
    with process("serve", *flags, MY_KEY="sk-mine") as child, closing(proxy):
        wait_until(lambda: answers(proxy), 20)
        assert [model.id for model in proxy.client.models.list().data] == listed("m1", "m2")
        assert proxy.ask(model="m2+cove").choices[0].message.content == RIGHT
        assert proxy.chat().headers.get("server") is None
        assert {exchange.headers["authorization"] for exchange in upstream.log} == {"Bearer sk-mine"}
        child.send_signal(signal.SIGTERM)
        assert child.wait(10) in (0, -signal.SIGTERM)
    assert "Traceback" not in Path("out").read_text()
    assert "sk-mine" not in Path("out").read_text()


@pytest.mark.parametrize(
    ("toml", "words"),
    [
        ("[server]\nprot = 1", "Did you mean 'port'"),
        ("default_strategy = 'coev'", "Did you mean 'cove'"),
        ("advertise = ['cove(x=1)']", "no option 'x'"),
        ("[auth]\nclient_keys_env = ['NOT_SET']", "NOT_SET"),
        ("[backends.up]\nbase_url = 'http://x'\napi_key_env = 'NOT_SET'", "NOT_SET"),
        ("[roles]\nverifer = 'local'", "Did you mean 'verifier'"),
        ("[roles]\nexaminer = 'locl'", "Did you mean 'local'"),
    ],
)
@pytest.mark.parametrize("command", ["serve", "check-config"])
def test_a_bad_configuration_is_one_line_and_exit_1(toml, words, command):
    Path("veridical.toml").write_text(toml)
    result = run(command)
    assert result.exit_code == 1
    assert words in result.stderr
    assert result.stderr.startswith("veridical: ")
    assert result.stderr.count("\n") == 1


def test_check_config_says_what_the_configuration_means():
    Path("my.toml").write_text("[backends.up]\nbase_url = 'http://127.0.0.1:9'\n[server]\nport = 81")
    result = run("check-config", "--config", "my.toml")
    assert result.exit_code == 0
    assert "backend up: http" in result.stdout
    assert "127.0.0.1:81" in result.stdout
    assert run("check-config", VERIDICAL_CONFIG="my.toml").stdout == result.stdout
    assert run("check-config", "--config", "nowhere.toml").exit_code == 1


def test_init_writes_the_defaults_and_overwrites_only_when_told():
    assert run("init").exit_code == 0
    assert load_settings(Path("veridical.toml"), environment={}) == Settings()
    again = run("init")
    assert (again.exit_code, "--force" in again.stderr) == (1, True)
    assert run("init", "--force").exit_code == 0
    assert run("init", "--output", "other.toml").exit_code == 0
    assert Path("other.toml").read_text() == Path("veridical.toml").read_text()
    assert run("init", "--output", "no/such/folder.toml").exit_code == 1


def test_strategies_as_json_and_as_text():
    found = json.loads(run("strategies", "--json").stdout)
    assert [set(each) for each in found] == [{"name", "options", "paper", "calls", "depth"}] * len(found)
    by_name = {each["name"]: each for each in found}
    assert {"direct", "cove"} <= by_name.keys()
    options = {option["name"]: option for option in by_name["cove"]["options"]}
    assert options["variant"]["default"] == "factor_revise"
    assert set(options["variant"]["choices"]) == {"joint", "two_step", "factored", "factor_revise"}
    assert all(option["description"] for option in options.values())
    debate = {option["name"]: option["choices"] for option in by_name["debate"]["options"]}
    assert (debate["summarise"], debate["temperature"]) == (["shared", "each", None], None)
    text = run("strategies").stdout
    assert "2309.11495" in text
    assert "max_questions=5" in text


def test_ask_prints_the_answer_the_checks_and_the_cost(proxy, upstream):
    upstream.cove(WRONG, SYDNEY, final=RIGHT)
    result = run("ask", "Capital?", "--strategy", "cove", "--model", "m2", "--url", proxy.url, COLUMNS="200")
    assert result.exit_code == 0
    assert RIGHT in result.stdout
    for words in ("refuted", SYDNEY.question, SYDNEY.answer, "5 calls (depth 5)", "35 + 15 tokens"):
        assert words in result.stdout
    assert re.search(r"cove: verified · .*\d s", result.stdout)
    assert "Planning checks" in result.stderr
    assert upstream.chats[0].body["model"] == "m2"


def test_ask_takes_the_first_model_and_the_clients_variables(serve, upstream, monkeypatch):
    monkeypatch.setenv("KEY_OF_CLIENTS", "sk-1")
    proxy = serve(auth={"client_keys_env": ["KEY_OF_CLIENTS"]})
    upstream.on(draft=Say("hi there"))
    result = run("ask", "Hello?", VERIDICAL_BASE_URL=proxy.url, VERIDICAL_API_KEY="sk-1")
    assert (result.exit_code, "hi there" in result.stdout) == (0, True)
    assert upstream.chats[0].body["model"] == "m1"
    refused = run("ask", "Hello?", "--url", proxy.url.removesuffix("/v1") + "/")  # an address is enough
    assert (refused.exit_code, "401" in refused.stderr) == (1, True)


def test_ask_full_prints_every_step(proxy, upstream):
    upstream.cove(WRONG, SYDNEY, final=RIGHT)
    result = run("ask", "Capital?", "--strategy", "cove", "--trace", "full", "--url", proxy.url)
    assert '"step": "cove/plan"' in result.stdout


@pytest.mark.parametrize("model", [[], ["--model", "m1"]])
def test_ask_says_in_one_line_what_is_wrong(upstream, proxy, model):
    def told(url: str, *arguments: str) -> str:
        result = run("ask", "Hello?", "--url", url, *model, *arguments)
        assert result.exit_code == 1
        assert result.exception is None or isinstance(result.exception, SystemExit)
        return next(line for line in result.stderr.splitlines() if line.startswith("veridical: "))

    assert "No server answers" in told("http://127.0.0.1:9/v1")
    assert "Did you mean 'cove'" in told(proxy.url, "--strategy", "coev")
    upstream.on(draft=Fail(401, "who are you"))
    assert "401: who are you" in told(proxy.url)
    assert "404" in told(upstream.url.replace("/v1", "/nowhere"))
    assert told("nonsense://")


def test_help_and_version():
    text = run("--help").stdout
    assert all(command in text for command in ("serve", "ask", "strategies", "init", "check-config"))
    assert re.search(r"\d+\.\d+", run("--version").stdout)
