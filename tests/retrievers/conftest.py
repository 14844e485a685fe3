from pathlib import Path

import pytest

from veridical.retrievers.testing import write_jsonl


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    return write_jsonl(tmp_path / "corpus.jsonl")
