"""What tests of the cache share: proxies that have one."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from veridical.middleware import assembly
from veridical.middleware.cache.cache import Cache, make_cache
from veridical.tests.conftest import Serve
from veridical.tests.proxy import Proxy

Cached = Callable[..., Proxy]


@pytest.fixture
def caches(monkeypatch: pytest.MonkeyPatch) -> list[Cache]:
    """The caches of the proxies of this test, as they are made."""
    made: list[Cache] = []

    def noting(*arguments: Any) -> Cache | None:
        cache = make_cache(*arguments)
        made.extend([cache] if cache else [])
        return cache

    monkeypatch.setattr(assembly, "make_cache", noting)
    return made


@pytest.fixture
def cached(serve: Serve) -> Cached:
    """Starts a proxy with a cache in memory, or as `cache` has it."""

    def start(cache: dict[str, Any] | None = None, **settings: Any) -> Proxy:
        return serve(cache={"kind": "memory", **(cache or {})}, **settings)

    return start


@pytest.fixture(params=["memory", "disk", "redis"])
def kind(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Each kind of store in turn, empty, as settings."""
    if request.param == "redis":
        monkeypatch.setenv("CACHE_REDIS", request.getfixturevalue("redis").url + f"?db={_database()}")
        return {"kind": "redis", "redis_url_env": "CACHE_REDIS"}
    return {"kind": request.param, "path": str(tmp_path / "cache" / "answers.sqlite")}


_used = iter(range(1, 16))


def _database() -> int:
    """A database of Redis that no test has used."""
    return next(_used)
