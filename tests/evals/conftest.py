"""Tiny files in the data sets' own formats, written for these tests, and an endpoint that answers them."""

import gzip
import json
from pathlib import Path

import pytest


def write(path: Path, rows: list[dict]) -> None:
    """Rows as .jsonl, .jsonl.gz or .json."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = "".join(json.dumps(row) + "\n" for row in rows).encode()
    whole = json.dumps(rows).encode() if path.name.endswith(".json") else lines
    path.write_bytes(gzip.compress(whole) if path.name.endswith(".gz") else whole)


def hotpot_row(number: int, question: str, answer: str, kind: str = "bridge") -> dict:
    titles = [f"Page {number}", f"Other page {number}"]
    return {
        "id": f"q{number}",
        "question": question,
        "answer": answer,
        "type": kind,
        "level": "hard",
        "supporting_facts": {"title": titles, "sent_id": [0, 0]},
        "context": {"title": titles, "sentences": [[f"Fact of page {number}."], ["More.", " And more."]]},
    }


HOTPOT = [
    hotpot_row(1, "Which river crosses Aville?", "the Amber"),
    hotpot_row(2, "Are Bton and Cham on one coast?", "yes", "comparison"),
    hotpot_row(3, "Who built the Dalen bridge?", "Erik Moe"),
]


@pytest.fixture
def data(tmp_path, monkeypatch) -> Path:
    """A data folder in the layout that the tasks read."""
    monkeypatch.delenv("VERIDICAL_DATA", raising=False)
    folder = tmp_path / "data"
    write(folder / "hotpotqa/dev_distractor.jsonl.gz", HOTPOT)
    return folder
