"""`veridical eval compare`: two folders, or two strategies of one."""

from __future__ import annotations

import json
from pathlib import Path

from click.testing import CliRunner, Result

from veridical.evals.records import Record, RecordFile
from veridical.evals.report_cli import compare


def store(folder: Path, strategy: str, scores: str, *, model: str = "m", task: str = "quiz") -> Path:
    """One record a digit, for questions 0, 1, …"""
    for n, score in enumerate(scores):
        record = Record(task=task, model=model, strategy=strategy, id=str(n), scores={"em": float(score)})
        RecordFile(folder).append(record)
    return folder


def run(*words: object) -> Result:
    return CliRunner().invoke(compare, [str(word) for word in words])


def test_two_strategies_of_one_folder(tmp_path: Path) -> None:
    store(tmp_path, "direct", "11000000")
    store(tmp_path, "cove", "011111")
    (found,) = json.loads(run("direct", "cove", "--dir", tmp_path, "--json").output)
    result = found["comparison"]
    assert (result["difference"]["n"], result["old"], result["new"]) == (6, 0.333333, 0.833333)
    assert (result["better"], result["worse"], result["p"], result["p_holm"]) == (4, 1, 0.375, 0.375)
    table = run("direct", "cove", "--dir", tmp_path).output
    assert "quiz · m: A = direct, B = cove" in table
    assert "+50.0" in table


def test_two_folders_are_matched_by_strategy(tmp_path: Path) -> None:
    before, after = tmp_path / "a", tmp_path / "b"
    for name in ("direct", "cove", "cok"):
        store(before, name, "0011")
    store(after, "direct", "0011")
    store(after, "cove", "0111")
    store(after, "cove", "0111", task="another")
    found = json.loads(run(before, after, "--json").output)
    pairs = [(f["task"], f["comparison"]["after"], f["comparison"]["difference"]["value"]) for f in found]
    assert sorted(pairs) == [("quiz", "cove", 0.25), ("quiz", "direct", 0.0)]


def test_the_only_model_and_strategy_of_each_folder_are_compared(tmp_path: Path) -> None:
    before, after = (
        store(tmp_path / "a", "direct", "0011"),
        store(tmp_path / "b", "cove", "1111", model="big"),
    )
    (found,) = json.loads(run(before, after, "--json").output)
    assert found["model"] == "m → big"
    assert (found["comparison"]["before"], found["comparison"]["after"]) == ("direct", "cove")


def test_what_cannot_be_compared_is_said(tmp_path: Path) -> None:
    one, other = store(tmp_path / "a", "direct", "01"), store(tmp_path / "b", "direct", "01", task="another")
    assert "share no graded question" in run(one, other).stderr
    assert "no strategy 'cok'" in run("direct", "cok", "--dir", one).stderr
    assert "two strategies of one folder need --dir" in run("direct", "cok").stderr
    (tmp_path / "c").mkdir()
    assert f"there are no records in {tmp_path / 'c'}" in run(one, tmp_path / "c").stderr
