"""The documentation names every strategy, option, setting, endpoint and field there is."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import pydantic
import pytest

from veridical.evals.catalogue import TASKS, entry
from veridical.evals.cli import run
from veridical.evals.records import Record
from veridical.middleware import config
from veridical.middleware.access.commands import keys
from veridical.middleware.assembly import Assembly
from veridical.middleware.backend_config import HttpBackendSettings
from veridical.middleware.config import Settings, load_settings
from veridical.middleware.config_template import config_template
from veridical.middleware.protocol import BudgetRequest, CacheRequest, Controls
from veridical.middleware.routes import routed
from veridical.middleware.section import Section
from veridical.strategies.registry import BUILT_IN, strategy_class
from veridical.strategies.types import Status, Verdict

ROOT = Path(__file__).parent.parent
STRATEGIES = (ROOT / "docs/strategies.md").read_text()
CONFIGURATION = (ROOT / "docs/configuration.md").read_text()
API = (ROOT / "docs/api.md").read_text()
ACCESS = (ROOT / "docs/access.md").read_text()
README = (ROOT / "README.md").read_text()
EVALS = (ROOT / "docs/evals.md").read_text()


@pytest.mark.parametrize("name", BUILT_IN)
def test_every_strategy_and_option_has_its_place(name: str) -> None:
    section = STRATEGIES.partition(f"\n## {name}\n")[2].partition("\n## ")[0]
    assert section
    assert f"| `{name}`" in README
    for option in fields(strategy_class(name)):
        assert f"| `{option.name}` | " in section
        default = str(option.default).lower() if isinstance(option.default, bool | None) else option.default
        assert f"| {default} |" in section or f"| `{default}` |" in section


def test_the_readme_states_the_cost_of_each_strategy() -> None:
    assert "| 2Q + 3 (2Q + 2 if nothing is refuted) | 5 |" in README
    for line in ("Q + 3 | 4", "| 4 | 4 |", "| 3 | 3 |"):
        assert line in README


def sections(of: type[Section] = Section) -> list[type[Section]]:
    return [each for cls in of.__subclasses__() for each in (cls, *sections(cls))]


@pytest.mark.parametrize("section", sections())
def test_every_setting_is_documented(section: type[Section]) -> None:
    nested = {
        "server",
        "budget",
        "auth",
        "responses",
        "cache",
        "state",
        "observability",
        "roles",
        "pipelines",
        "backends",
        "models",
        "retrievers",
        "domains",
        "tools",
    }
    for key in section.model_fields:
        if key == "type" or (section is Settings and key in nested):
            continue
        assert f"`{key}`" in CONFIGURATION, f"{section.__name__}.{key}"


@pytest.mark.parametrize("model", [Controls, BudgetRequest, CacheRequest])
def test_every_request_field_is_documented(model: type[pydantic.BaseModel]) -> None:
    assert all(name in API for name in model.model_fields)


def test_every_option_of_keys_create_is_documented() -> None:
    options = [name for option in keys.commands["create"].params for name in option.opts]
    assert "--requests-per-minute" in options
    assert all(f"`{name}`" in ACCESS for name in options if name not in ("--config", "--json"))


def test_every_endpoint_status_and_verdict_is_documented(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOME_KEY", "sk")
    backend = HttpBackendSettings(base_url="http://127.0.0.1:9/v1")
    settings = Settings(backends={"x": backend}, auth=config.AuthSettings(client_keys_env=("SOME_KEY",)))
    app = routed(Assembly(settings))
    paths = {path.replace("{name:path}", "{name}") for path in app.openapi()["paths"]}
    assert "/v1/usage" in paths
    assert all(path in API for path in paths)
    assert all(f"`{status}`" in API for status in Status)
    assert all(f"`{verdict}`" in STRATEGIES for verdict in Verdict)


def test_the_configuration_that_init_writes_is_the_default_one(tmp_path: Path) -> None:
    file = tmp_path / "veridical.toml"
    file.write_text(config_template())
    assert load_settings(file, environment={}) == Settings()


def test_links_between_pages_lead_somewhere() -> None:
    for page in (ROOT / "README.md", *(ROOT / "docs").glob("*.md")):
        for target in (part.partition(")")[0] for part in page.read_text().split("](")[1:]):
            if "://" not in target:
                assert (page.parent / target.partition("#")[0]).exists(), f"{page.name}: {target}"


@pytest.mark.parametrize("name", TASKS)
def test_every_task_its_file_and_its_parameters_are_documented(name: str) -> None:
    task = entry(name).described()
    assert any(f"| `{name}` | `{file}`" in EVALS for file in task["files"])
    assert all(parameter in EVALS for parameter in task["parameters"])
    assert all(value in EVALS for choices in task["choices"].values() for value in choices)


def test_every_option_of_a_run_is_documented() -> None:
    options = {name for option in run.params for name in option.opts if name.startswith("-")}
    assert all(f"`{name}" in EVALS for name in options)


@pytest.mark.parametrize("name", Record.model_fields)
def test_every_field_of_a_record_is_documented(name: str) -> None:
    assert f"`{name}`" in EVALS
