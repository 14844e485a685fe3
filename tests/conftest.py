"""What tests share: a scripted upstream, and the real proxy before it."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import hypothesis
import pytest

from veridical.middleware.config import Settings
from veridical.tests.proxy import Proxy, running_proxy
from veridical.tests.servers import Server, running_postgres, running_redis
from veridical.tests.upstream import Upstream, running_upstream

hypothesis.settings.register_profile("veridical", deadline=None, database=None)
hypothesis.settings.load_profile("veridical")

#: Run in an environment of their own, by `make test-clients`.
collect_ignore = ["clients"]
Serve = Callable[..., Proxy]


@pytest.fixture(scope="session")
def one_upstream() -> Iterator[Upstream]:
    with running_upstream() as upstream:
        yield upstream


@pytest.fixture
def upstream(one_upstream: Upstream) -> Upstream:
    """The scripted upstream, its script and log empty."""
    one_upstream.reset()
    return one_upstream


@pytest.fixture(scope="session")
def one_proxy(one_upstream: Upstream) -> Iterator[Proxy]:
    with running_proxy(settings_before(one_upstream)) as proxy:
        yield proxy


@pytest.fixture
def proxy(upstream: Upstream, one_proxy: Proxy) -> Proxy:
    """A proxy with default settings before the upstream, which serves `m1` and `m2`."""
    return one_proxy


@pytest.fixture
def serve(upstream: Upstream) -> Iterator[Serve]:
    """Starts a proxy with other settings: `backend` for the upstream's own, the rest at the top."""
    with ExitStack() as stack:
        yield lambda **settings: stack.enter_context(running_proxy(settings_before(upstream, **settings)))


@pytest.fixture(scope="session")
def postgres() -> Iterator[Server]:
    with running_postgres() as server:
        yield server


@pytest.fixture(scope="session")
def redis() -> Iterator[Server]:
    with running_redis() as server:
        yield server


def settings_before(
    upstream: Upstream, *, backend: dict[str, Any] | None = None, **settings: Any
) -> Settings:
    up = {"type": "http", "base_url": upstream.url, **(backend or {})}
    return Settings.model_validate({"backends": {"up": up}, **settings})
