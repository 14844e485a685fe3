"""Several scripted upstreams, and proxies before them."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from typing import Any

import pytest

from veridical.middleware.config import Settings
from veridical.tests.proxy import Proxy, running_proxy
from veridical.tests.upstream import Upstream, running_upstream

NOWHERE = "http://127.0.0.1:9/v1"


@pytest.fixture(scope="session")
def three_upstreams() -> Iterator[list[Upstream]]:
    with ExitStack() as stack:
        yield [stack.enter_context(running_upstream()) for _ in range(3)]


@pytest.fixture
def ups(three_upstreams: list[Upstream]) -> list[Upstream]:
    """Three upstreams, their scripts and logs empty."""
    for upstream in three_upstreams:
        upstream.reset()
    return three_upstreams


@pytest.fixture
def start() -> Iterator[Callable[..., Proxy]]:
    """Starts a proxy with these settings."""
    with ExitStack() as stack:
        yield lambda **settings: stack.enter_context(running_proxy(Settings.model_validate(settings)))


def pool(urls: Sequence[str], **settings: Any) -> dict[str, Any]:
    """Settings of one backend with several servers of the model m1."""
    return {"backends": {"gpu": {"type": "http", "base_url": list(urls), "models": ["m1"], **settings}}}
