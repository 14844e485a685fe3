from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from veridical.retrievers.testing import write_jsonl
from veridical.tests.loopback import Handler, serving


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    return write_jsonl(tmp_path / "corpus.jsonl")


@pytest.fixture
def serve() -> Iterator[Callable[[Handler], str]]:
    """Serves every path with a handler on a loopback port; gives the address."""
    with serving() as start:
        yield start
