"""What a report says of records made up for the purpose."""

from __future__ import annotations

import csv
import io
import json
import random
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import pytest
from click.testing import CliRunner

from veridical.evals.records import Record, RecordFile
from veridical.evals.report import write_report
from veridical.evals.report_cli import report

PAGES = ("report.md", "report.html", "report.csv", "summary.json")


def answers(strategy: str, scores: Sequence[float], **given: Any) -> list[Record]:
    """One record a score, for questions q0, q1, …"""
    common: dict[str, Any] = {"task": "quiz", "model": "small", "prompt_tokens": 90, "completion_tokens": 10}
    common |= {"calls": 1, "seconds": 1.0} | given
    return [
        Record(strategy=strategy, id=f"q{n}", scores={"em": score}, **common)
        for n, score in enumerate(scores)
    ]


def written(folder: Path, records: Iterable[Record], manifest: object = None) -> dict[str, Any]:
    """The summary of a report on these."""
    file = RecordFile(folder)
    folder.mkdir(parents=True, exist_ok=True)
    for record in records:
        file.append(record)
    if manifest is not None:
        (folder / "run.json").write_text(json.dumps(manifest))
    write_report(folder)
    found: dict[str, Any] = json.loads((folder / "summary.json").read_text())
    return found


def row(summary: dict[str, Any], strategy: str, metric: str = "em") -> dict[str, Any]:
    (found,) = (r for r in summary["rows"] if (r["strategy"], r["metric"]) == (strategy, metric))
    return dict(found)


HALF = [1.0] * 10 + [0.0] * 10
BETTER = [1.0] * 9 + [0.0] + [1.0] * 8 + [0.0] * 2


def test_differences_fixes_harms_and_costs(tmp_path: Path) -> None:
    cove = answers("cove", BETTER, calls=5, prompt_tokens=1000, completion_tokens=100)
    found = row(written(tmp_path, [*answers("direct", HALF), *cove]), "cove")
    assert (found["value"], found["difference"], found["compared_to"]) == (0.85, 0.35, "direct")
    assert (found["better"], found["worse"], found["test"]) == (8, 1, "McNemar")
    assert found["p"] == pytest.approx(2 * (1 + 9) / 2**9, abs=1e-6)
    assert (found["fix"], found["harm"], found["ceiling"]) == (0.8, 0.1, 0.9)
    assert found["difference_low"] < 0.35 < found["difference_high"]
    assert (found["calls"], found["tokens"], found["extra_tokens"]) == (5, 1100, 1000)
    assert found["gain"] == 0.35  # 35 points for 1,000 tokens more
    assert found["detectable"] == pytest.approx(2.8016 * 3 / 20, abs=1e-4)


def test_a_strategy_against_itself_differs_in_nothing(tmp_path: Path) -> None:
    found = row(written(tmp_path, [*answers("direct", HALF), *answers("same", HALF)]), "same")
    assert (found["difference"], found["difference_low"], found["difference_high"]) == (0, 0, 0)
    assert (found["p"], found["p_holm"], found["fix"], found["harm"]) == (1, 1, 0, 0)
    assert found["detectable"] is None  # nothing changed: no spread to judge by
    assert "answers that changed in score: none; trust p" in (tmp_path / "report.md").read_text()


def test_only_questions_that_both_answered_are_compared(tmp_path: Path) -> None:
    lost = answers("cok", [0, 0, 0])[2].model_copy(update={"graded": False, "scores": {}, "error": "timeout"})
    summary = written(tmp_path, [*answers("direct", [1, 0, 1, 1]), *answers("cok", [1, 1]), lost])
    found = row(summary, "cok")
    assert (found["n"], found["paired_n"], found["asked"], found["ungraded"], found["missing"]) == (
        2,
        2,
        3,
        1,
        1,
    )
    assert (found["value"], found["difference"]) == (1.0, 0.5)
    page = (tmp_path / "report.md").read_text()
    assert "**Note:** cok: 1 of 3 answers are ungraded and not in its score." in page
    assert "| 66.7 |" in page  # its score if the lost answer were wrong


def test_degraded_and_abstained_answers_are_counted(tmp_path: Path) -> None:
    states = ("verified", "degraded", "abstained", "abstained")
    records = [
        r.model_copy(update={"status": s})
        for r, s in zip(answers("direct", [1, 0, 0, 0]), states, strict=True)
    ]
    found = row(written(tmp_path, records), "direct")
    assert (found["degraded"], found["abstained"], found["unparsable"]) == (1, 2, 0)


def test_the_same_records_in_any_order_give_the_same_bytes(tmp_path: Path) -> None:
    draws = random.Random(3)
    records = [
        record
        for name in ("direct", "cove", "self_consistency(n=5)")
        for record in answers(
            name, [round(draws.random(), 2) for _ in range(30)], confidence=0.5, tags=("x",)
        )
    ]
    records += answers("debate", [float(draws.random() < 0.5) for _ in range(30)], calls=5, confidence=0.7)
    written(tmp_path / "a", records, {"seed": 1})
    draws.shuffle(records)
    written(tmp_path / "b", records, {"seed": 1})
    names = [*PAGES, *(str(p.relative_to(tmp_path / "a")) for p in (tmp_path / "a/plots").iterdir())]
    assert len(names) > len(PAGES)
    for name in names:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes(), name


@pytest.mark.parametrize(
    ("manifest", "first"),
    [
        (None, "# Evaluation report"),
        ({"runs": [{"judge": "big"}]}, "**These scores rest on a judge that was never validated: big.**"),
        (
            {"judge": {"model": "big", "prompt_hash": "9f"}},
            "**These scores rest on a judge that was never validated: big (prompt hash 9f).**",
        ),
    ],
)
def test_the_first_line_says_whether_the_judge_was_validated(
    tmp_path: Path, manifest: object, first: str
) -> None:
    written(tmp_path, answers("direct", HALF), manifest)
    assert (tmp_path / "report.md").read_text().splitlines()[0] == first
    body = ET.parse(tmp_path / "report.html").getroot().find("body")
    assert body is not None
    assert "".join(body[0].itertext()) == first.strip("*# ")


def test_a_validated_judge_is_named_with_its_agreement(tmp_path: Path) -> None:
    validation = {
        "judge": {"model": "big", "prompt_hash": "9f"},
        "judge_validation": {"agreement": 0.832, "n": 150},
    }
    used = {"judge": {"model": "big", "prompt_hash": "9f"}}
    summary = written(tmp_path, answers("direct", HALF), {"runs": [validation, used, used]})
    assert summary["judge"] == "Validated judge big (prompt hash 9f): 83.2% agreement on 150 labels."
    assert summary["judge"] in (tmp_path / "report.md").read_text()


def test_another_judges_validation_does_not_count(tmp_path: Path) -> None:
    validation = {
        "judge": {"model": "big", "prompt_hash": "9f"},
        "judge_validation": {"agreement": 0.8, "n": 9},
    }
    used = {"judge": {"model": "big", "prompt_hash": "new"}}
    summary = written(tmp_path, answers("direct", HALF), {"runs": [validation, used]})
    assert summary["judge"].endswith("a judge that was never validated: big (prompt hash new).")


def test_validating_a_judge_is_not_grading(tmp_path: Path) -> None:
    validation = {"judge": "big", "judge_validation": {"agreement": 0.8, "n": 9}}
    assert written(tmp_path, answers("direct", HALF), {"runs": [validation]})["judge"] is None


def test_holm_counts_every_comparison_of_a_task(tmp_path: Path) -> None:
    records = [
        record
        for setting in ("closed", "open")
        for name, scores in (("direct", HALF), ("cove", BETTER), ("cok", HALF))
        for record in answers(name, scores, setting=setting)
    ]
    rows = [r for r in written(tmp_path, records)["rows"] if r["strategy"] == "cove"]
    assert [r["setting"] for r in rows] == ["closed", "open"]
    assert [r["p_holm"] for r in rows] == pytest.approx([4 * rows[0]["p"]] * 2, abs=1e-5)


def test_equal_calls_controls_stand_beside_each_strategy(tmp_path: Path) -> None:
    arms = [
        *answers("direct", HALF),
        *answers("self_consistency(n=4)", HALF, calls=4, variant="from pool"),
        *answers("self_consistency(n=8)", BETTER, calls=8, variant="from pool"),
        *answers("cove", BETTER, calls=4),
        *answers("debate", BETTER, calls=12),
        *answers("rag", BETTER, calls=1),
    ]
    (bench,) = written(tmp_path, arms)["benches"]
    found = {c["comparison"]["after"]: c for c in bench["controls"]}
    assert set(found) == {"cove", "debate"}  # rag makes one call: direct is its control
    assert found["cove"]["comparison"]["before"] == "self_consistency(n=4) (from pool)"
    assert (found["cove"]["equal"], found["cove"]["comparison"]["difference"]["value"]) == (True, 0.35)
    assert (found["debate"]["control_calls"], found["debate"]["equal"]) == (8, False)
    assert "(nearest, not equal)" in (tmp_path / "report.md").read_text()


def test_dominated_strategies_and_the_oracle(tmp_path: Path) -> None:
    arms = [
        *answers("direct", [1, 0, 0, 0]),
        *answers("rag", [1, 1, 0, 0], prompt_tokens=500),
        *answers("debate", [0, 0, 1, 0], prompt_tokens=900),
    ]
    summary = written(tmp_path, arms)
    assert [row(summary, name)["dominated_by"] for name in ("direct", "rag", "debate")] == [None, None, "rag"]
    oracle = summary["benches"][0]["oracle"]
    assert (oracle["score"]["value"], oracle["score"]["n"], oracle["baseline"]) == (0.75, 4, 0.25)


def test_strategies_are_placed_by_paired_differences(tmp_path: Path) -> None:
    # cove saw only the two easy questions and changed nothing: it is no better than direct.
    arms = [*answers("direct", [1, 1, 0, 0]), *answers("cove", [1, 1], prompt_tokens=900)]
    summary = written(tmp_path, arms)
    assert row(summary, "cove")["value"] == 1.0
    assert row(summary, "cove")["dominated_by"] == "direct"


def test_questions_of_one_group_are_one_cluster(tmp_path: Path) -> None:
    records = [
        Record(task="pairs", model="m", strategy=name, id=f"{n}{order}", group=str(n), scores=s)
        for name, letter in (("direct", "A"), ("cove", "B"))
        for n in range(10)
        for order in "AB"
        for s in ({"accuracy": float(letter == order), "said_a": float(letter == "A")},)
    ]
    summary = written(tmp_path, records)
    found = row(summary, "cove", "accuracy")
    assert (found["n"], found["clusters"], found["value"]) == (20, 10, 0.5)
    assert (found["test"], found["difference"], found["p"]) == ("sign flips", 0, 1)
    (direct, cove) = summary["benches"][0]["letters"]
    assert (direct["first"], direct["pairs"], direct["same"]) == (1.0, 10, 1.0)
    assert (cove["first"], cove["same"]) == (0.0, 1.0)
    assert {r["metric"] for r in summary["rows"]} == {"accuracy"}


def test_draws_of_one_question_are_averaged(tmp_path: Path) -> None:
    draws = [r for sample in range(2) for r in answers("direct", [sample, 1], sample=sample)]
    found = row(written(tmp_path, [*draws, *answers("cove", [1, 1])]), "cove")
    assert (found["paired_n"], found["difference"], found["test"]) == (2, 0.25, "sign flips")
    assert (found["fix"], found["harm"]) == (1.0, 0.0)


def test_tags_are_reported_apart(tmp_path: Path) -> None:
    def tagged(strategy: str, scores: list[float]) -> list[Record]:
        found = answers(strategy, scores)
        return [
            r.model_copy(update={"tags": ("dev", "bridge" if n < 2 else "yes/no")})
            for n, r in enumerate(found)
        ]

    summary = written(tmp_path, [*tagged("direct", [0, 0, 1, 1]), *tagged("cove", [1, 1, 1, 0])])
    found = {(t["tag"], t["label"]): t for t in summary["benches"][0]["tags"]}
    assert {tag for tag, _ in found} == {"bridge", "yes/no"}  # "dev" stands on all questions
    assert found["bridge", "cove"]["difference"]["value"] == 1.0
    assert found["yes/no", "cove"]["difference"]["value"] == -0.5


def test_confidence_gets_a_reliability_diagram(tmp_path: Path) -> None:
    stated = [
        r.model_copy(update={"confidence": 0.9 if n < 10 else 0.3}) for n, r in enumerate(answers("sc", HALF))
    ]
    summary = written(tmp_path, [*answers("direct", HALF), *stated])
    found = summary["benches"][0]["calibration"]["sc"]
    assert (found["ece"], found["auroc"], found["accuracy_at"]["0.5"]) == (0.2, 1.0, 1.0)
    assert len(list((tmp_path / "plots").glob("*reliability.svg"))) == 1


def test_abstentions_are_answers_without_the_headline_score(tmp_path: Path) -> None:
    def facts(strategy: str, scores: Sequence[float | None]) -> list[Record]:
        told = [{"responded": 0.0} if s is None else {"factscore": s, "responded": 1.0} for s in scores]
        blank = answers(strategy, [0] * len(scores))
        return [r.model_copy(update={"scores": s}) for r, s in zip(blank, told, strict=True)]

    summary = written(tmp_path, [*facts("direct", [None, 0.5, 0.4]), *facts("cove", [0.9, 0.7, None])])
    assert row(summary, "cove", "factscore")["headline"] is True
    assert (row(summary, "cove", "factscore")["n"], row(summary, "cove", "factscore")["paired_n"]) == (2, 1)
    assert row(summary, "cove", "responded")["paired_n"] == 3
    assert row(summary, "cove", "factscore")["ungraded"] == 0


@pytest.mark.parametrize(
    ("records", "said"),
    [
        (answers("direct", HALF), "Only direct was run: there is nothing to compare it to."),
        (answers("cove", HALF), "There is no baseline here: scores only, no differences."),
        (
            [r.model_copy(update={"graded": False, "scores": {}}) for r in answers("direct", HALF)],
            "Nothing was graded.",
        ),
        ([*answers("direct", [1]), *answers("cove", [0])], "1 not told apart"),
    ],
)
def test_small_runs_are_reported_too(tmp_path: Path, records: list[Record], said: str) -> None:
    written(tmp_path, records)
    assert said in (tmp_path / "report.md").read_text()
    assert said in (tmp_path / "report.html").read_text()


def test_a_run_without_records_is_an_error(tmp_path: Path) -> None:
    result = CliRunner().invoke(report, [str(tmp_path)])
    assert (result.exit_code, result.stderr) == (1, f"veridical: there are no records in {tmp_path}\n")


def test_the_page_stands_alone_and_trusts_no_name(tmp_path: Path) -> None:
    name = "rag|<img src=//x.example onerror=y>*b*"
    records = [*answers("direct", HALF), *answers(name, BETTER, prompt_tokens=400, confidence=0.5)]
    written(tmp_path, records, {"reads_scorer_source": {name: True}, "command": "</pre><script>"})
    page = (tmp_path / "report.html").read_text()
    tags = {element.tag.rpartition("}")[2] for element in ET.fromstring(page).iter()}
    assert not tags & {"script", "img", "link", "iframe", "object", "image", "use"}
    assert "url(" not in page
    assert "://" not in page.replace('xmlns="http://www.w3.org/2000/svg"', "")
    assert page.count("<svg") == 3
    assert "reads the scorer&#39;s own source" in page
    markdown = (tmp_path / "report.md").read_text()
    assert "rag\\|\\<img src=//x.example onerror=y>\\*b\\*" in markdown
    for plot in (tmp_path / "plots").iterdir():
        assert f"](plots/{plot.name})" in markdown
        assert "style" in {element.tag.rpartition("}")[2] for element in ET.parse(plot).getroot()}


def test_the_table_holds_the_rows_of_the_summary(tmp_path: Path) -> None:
    summary = written(tmp_path, [*answers("direct", HALF), *answers("cove", BETTER)])
    rows = list(csv.DictReader(io.StringIO((tmp_path / "report.csv").read_text())))
    assert [set(r) for r in rows] == [set(r) for r in summary["rows"]]
    assert [float(r["value"]) for r in rows] == [r["value"] for r in summary["rows"]]


def test_the_command_says_what_it_found(tmp_path: Path) -> None:
    written(tmp_path, [*answers("direct", HALF), *answers("cove", BETTER)])
    result = CliRunner().invoke(report, [str(tmp_path)])
    assert result.exit_code == 0
    assert "Compared with direct by em: 1 (cove +35.0) better, none worse, 0 not told apart" in result.output
    assert "With n = 20 a difference below 42.0 points cannot be seen" in result.output
