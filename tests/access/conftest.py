"""What tests of access share: keys made by the command, in a state of their own."""

import asyncio
import json
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from veridical.__main__ import main
from veridical.middleware.state.sqlite import SQLite
from veridical.tests.conftest import Serve
from veridical.tests.proxy import Proxy

Create = Callable[..., str]


def keys_command(*arguments: str) -> Any:
    """`veridical keys …`; its result."""
    return CliRunner().invoke(main, ["keys", *arguments])


@pytest.fixture(autouse=True)
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The state file of this test, also for commands."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("VERIDICAL_STATE_PATH", str(tmp_path / "state.sqlite"))
    return tmp_path / "state.sqlite"


@pytest.fixture
def create(state: Path) -> Create:
    """Makes a key by the command: options by their names, `models=["m1"]`; returns its text."""

    def run(**options: Any) -> str:
        arguments = []
        for name, value in {"name": "alice", **options}.items():
            flag = "--" + name.replace("_", "-")
            for each in value if isinstance(value, list) else [value]:
                arguments += [flag] if each is True else [flag, str(each)]
        result = keys_command("create", "--json", *arguments)
        assert result.exit_code == 0, result.output
        return str(json.loads(result.stdout)["key"])

    return run


@pytest.fixture
def guarded(serve: Serve, state: Path) -> Callable[..., Proxy]:
    """Starts a proxy that lets in only the keys of this test's state."""

    def start(*, auth: dict[str, Any] | None = None, **settings: Any) -> Proxy:
        kept = {"path": str(state), **settings.pop("state", {})}
        return serve(auth={"keys": True, "refresh_s": 0.2, **(auth or {})}, state=kept, **settings)

    return start


@pytest.fixture(params=["sqlite", "postgres"])
def connect(request: pytest.FixtureRequest, tmp_path: Any) -> Callable[[], Any]:
    """Gives another connection to one fresh database."""
    if request.param == "sqlite":
        return lambda: SQLite(tmp_path / "folder" / "state.sqlite")
    from veridical.middleware.state.postgres import PostgreSQL

    server, name = request.getfixturevalue("postgres"), f"db_{secrets.token_hex(6)}"

    async def make() -> None:
        import asyncpg

        admin = await asyncpg.connect(server.url)
        await admin.execute(f"CREATE DATABASE {name}")
        await admin.close()

    asyncio.run(make())
    return lambda: PostgreSQL(server.url.replace("/postgres", f"/{name}"))


@pytest.fixture
def shared(postgres, redis, monkeypatch):
    """The environment of a fleet: the command makes its keys there too."""
    monkeypatch.delenv("VERIDICAL_STATE_PATH")
    monkeypatch.setenv("STATE_URL", postgres.url)
    monkeypatch.setenv("LIMITS_URL", redis.url)
    monkeypatch.setenv("VERIDICAL_STATE_DATABASE_URL_ENV", "STATE_URL")
    monkeypatch.setenv("VERIDICAL_STATE_REDIS_URL_ENV", "LIMITS_URL")
    monkeypatch.setenv("VERIDICAL_STATE_FLUSH_S", "0.2")


async def opened(connect: Callable[[], Any]) -> Any:
    database = connect()
    await database.open()
    return database


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


def id_of(key: str) -> str:
    return key.split("_")[1]
