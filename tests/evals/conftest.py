"""Tiny files in the data sets' own formats, written for these tests, and an endpoint that answers them."""

import csv
import gzip
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from veridical.__main__ import main


def write(path: Path, rows: list[dict]) -> None:
    """Rows as .csv, .jsonl, .jsonl.gz or .json."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".csv":
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
        return
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


Run = Callable[..., Result]


def evaluate(*words: object, exit_code: int = 0) -> Result:
    """`veridical eval …` in this process."""
    result = CliRunner().invoke(main, ["eval", *map(str, words)])
    assert result.exit_code == exit_code, f"{result.output}{result.exception!r}"
    return result


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out"


@pytest.fixture
def run(upstream, data, out) -> Run:
    """`veridical eval COMMAND …` against the upstream itself."""

    def go(*words: object, url: str = upstream.url, exit_code: int = 0) -> Result:
        given = ("--base-url", url, "--data", data, "--out", out, "--model", "m1")
        result = evaluate(*words, *given, exit_code=exit_code)
        assert "given up" not in result.stderr
        return result

    return go


@pytest.fixture
def data(tmp_path, monkeypatch) -> Path:
    """A data folder in the layout that the tasks read."""
    monkeypatch.delenv("VERIDICAL_DATA", raising=False)
    folder = tmp_path / "data"
    write(folder / "hotpotqa/dev_distractor.jsonl.gz", HOTPOT)
    return folder
