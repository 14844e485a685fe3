"""The configuration: who overrides whom, what is refused and how, and the file that `init` writes."""

import tomllib
from pathlib import Path

import pytest

from veridical.middleware.config import Settings, load_settings, secret, setting_paths
from veridical.middleware.config_template import config_template
from veridical.strategies.errors import ConfigError


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def load(toml: str = "", **environment: str) -> Settings:
    Path("some.toml").write_text(toml, encoding="utf-8")
    return load_settings(Path("some.toml"), environment=environment)


def test_nothing_is_needed():
    settings = load_settings(environment={})
    assert settings == Settings()
    assert settings.backends["local"].type == "local"
    assert settings.limits.max_calls == 128


def test_flag_over_environment_over_file_over_default():
    Path("veridical.toml").write_text("[server]\nport = 1\nhost = 'a'\nmax_n = 2\n[budget]\nmax_calls = 9")
    environment = {
        "VERIDICAL_SERVER_PORT": "2",
        "VERIDICAL_SERVER_HOST": "b",
        "VERIDICAL_BUDGET_MAX_CALLS": "7",
    }
    settings = load_settings(environment=environment, overrides={"server": {"port": 3}})
    assert (settings.server.port, settings.server.host, settings.server.max_n) == (3, "b", 2)
    assert (settings.budget.max_calls, settings.budget.deadline_s) == (7, 300.0)


def test_short_names_of_the_environment():
    settings = load(VERIDICAL_PORT="9", VERIDICAL_HOST="h", VERIDICAL_LOCAL_MODEL="m.gguf")
    assert (settings.server.port, settings.server.host) == (9, "h")
    assert settings.backends["local"].model == "m.gguf"
    assert load(VERIDICAL_DEFAULT_STRATEGY="cove").default_strategy == "cove"


def test_the_embedded_engines_variable_adds_no_engine():
    upstream = "[backends.up]\nbase_url = 'http://127.0.0.1:9/v1/'"
    settings = load(upstream, VERIDICAL_LOCAL_MODEL="m.gguf")
    assert list(settings.backends) == ["up"]
    assert settings.backends["up"].base_url == "http://127.0.0.1:9/v1"
    flag = {"backends": {"upstream": {"type": "http", "base_url": "http://127.0.0.1:9"}}}
    environment = {"VERIDICAL_LOCAL_MODEL": "m.gguf"}
    assert list(load_settings(environment=environment, overrides=flag).backends) == ["upstream"]


def test_a_backend_named_by_a_flag_stands_alone():
    Path("veridical.toml").write_text(config_template(), encoding="utf-8")
    flag = {"backends": {"upstream": {"type": "http", "base_url": "http://127.0.0.1:9"}}}
    assert list(load_settings(environment={}, overrides=flag).backends) == ["upstream"]


@pytest.mark.parametrize(
    ("toml", "words"),
    [
        ("prot = 1", "unknown key 'prot'"),
        ("[sever]\nport = 1", "Did you mean 'server'"),
        ("[retrievers.x]\ntype = 'index'\npth = 'x'\npath = 'x'", "'retrievers.x.pth'. Did you mean 'path'"),
        ("[server]\nprot = 1", "'server.prot'. Did you mean 'port'"),
        ("[budget]\nmaxcalls = 1", "Did you mean 'max_calls'"),
        ("[backends.local]\nslot = 1", "'backends.local.slot'. Did you mean 'slots'"),
        ("[backends.http]\nbase_ulr = 'x'\nbase_url = 'http://x'", "Did you mean 'base_url'"),
        ("[backends.x]\ntype = 'vlm'", "backends.x"),
        ("[backends.x]\ntype = 'http'", "backends.x.base_url: Field required"),
        ("[backends.x]\nbase_url = 'ftp://x'", "must begin with http"),
        ("[backends.x]\nbase_url = 'http://x'\napi_key = 'sk-1'", "Did you mean 'api_key_env'?"),
        ("backends = 5", "backends"),
        ("backends = []", "backends"),
        ("backends.x = 5", "backends"),
        ("server = 5", "server"),
        ("[server]\nport = 70000", "server.port"),
        ("[server]\nport = 'http'", "server.port"),
        ("[server]\nlog_level = 'loud'", "server.log_level"),
        ("[budget]\ndeadline_s = 0", "budget.deadline_s"),
        ("[server", "is not TOML"),
    ],
)
def test_what_does_not_fit_is_named(toml, words):
    with pytest.raises(ConfigError) as caught:
        load(toml)
    assert words in caught.value.message
    assert "some.toml" in caught.value.message
    assert "\n" not in caught.value.message
    assert "sk-1" not in caught.value.message


def test_a_file_that_is_not_there_or_no_text():
    with pytest.raises(ConfigError, match="Cannot read"):
        load_settings(Path("nowhere.toml"), environment={})
    Path("bytes.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match="not TOML"):
        load_settings(Path("bytes.toml"), environment={})


def test_variables_of_clients_are_theirs_and_an_unknown_one_is_told(capsys):
    clients = {"VERIDICAL_BASE_URL": "http://x", "VERIDICAL_API_KEY": "sk", "VERIDICAL_CONFIG": "f"}
    assert load(**clients) == Settings()
    assert capsys.readouterr().err == ""
    assert load(VERIDICAL_SERVER_PROT="sk-secret") == Settings()
    told = capsys.readouterr().err
    assert "VERIDICAL_SERVER_PROT" in told
    assert "'VERIDICAL_SERVER_PORT'" in told
    assert "sk-secret" not in told


def test_a_variable_that_the_configuration_names_is_no_unknown_setting(capsys):
    load("[auth]\nclient_keys_env = ['VERIDICAL_CLIENT_KEY']", VERIDICAL_CLIENT_KEY="sk")
    load(VERIDICAL_STATE_REDIS_URL_ENV="VERIDICAL_REDIS_URL", VERIDICAL_REDIS_URL="redis://x")
    assert capsys.readouterr().err == ""


def test_a_secret_may_lie_in_a_file_that_is_named(capsys, monkeypatch):
    file = Path("secret")
    monkeypatch.setenv("VERIDICAL_UP_KEY_FILE", str(file))
    with pytest.raises(ConfigError, match="that VERIDICAL_UP_KEY_FILE names cannot be read"):
        secret("VERIDICAL_UP_KEY")
    file.write_text("sk-from-a-file\n")
    assert secret("VERIDICAL_UP_KEY") == "sk-from-a-file"
    load(
        '[backends.up]\nbase_url="http://u/v1"\napi_key_env="VERIDICAL_UP_KEY"',
        VERIDICAL_UP_KEY_FILE="secret",
    )
    assert not capsys.readouterr().err
    monkeypatch.setenv("VERIDICAL_UP_KEY", "sk-of-the-variable")
    assert secret("VERIDICAL_UP_KEY") == "sk-of-the-variable"
    file.write_bytes(b"\xff\xfe")
    monkeypatch.delenv("VERIDICAL_UP_KEY")
    with pytest.raises(ConfigError, match="it is no text"):
        secret("VERIDICAL_UP_KEY")


def test_every_scalar_setting_has_its_variable():
    defaults = Settings()
    for path in setting_paths():
        value = defaults
        for key in path:
            value = getattr(value, key)
        variable = "_".join(("VERIDICAL", *path)).upper()
        loaded = load(**{variable: "http://x.example" if value is None else str(value)})
        assert (loaded == defaults) is (value is not None)


def test_the_written_template_loads_and_equals_the_defaults():
    assert load(config_template()) == Settings()


def test_the_template_with_every_line_live_is_sound():
    text = config_template().replace('"MODEL"', '"m1"')
    lines = [line.removeprefix("# ") for line in text.splitlines()]
    live = [line for line in lines if "…" not in line and (line.startswith("[") or " = " in line)]
    live = [line for line in live if not line.startswith(("Names", "Models for", "Path of", "Command"))]
    kept = [line for line in live if line.split(" = ")[0].isidentifier() or line.startswith("[")]
    settings = Settings.model_validate(tomllib.loads("\n".join(kept)))
    assert settings.server == Settings().server
    assert {backend.type for backend in settings.backends.values()} == {"local", "http", "vllm", "langchain"}
    kinds = {retriever.type for retriever in settings.retrievers.values()}
    assert kinds == {"index", "wikipedia", "hybrid", "rerank", "langchain"}
