"""Where questions come from: files in the data sets' own layouts, or the hub; what is missing is told."""

import gzip
import json
import sys
from types import SimpleNamespace

import pytest

from veridical.evals import (
    choices,
    factscore,
    fever,
    halueval,
    hotpotqa,
    medmcqa,
    openbookqa,
    popqa,
    simpleqa,
    triviaqa,
    truthfulqa_gen,
    truthfulqa_mc,
)
from veridical.evals.catalogue import TASKS, entry
from veridical.evals.data import DataMissing, Source, identifier, parsed, read
from veridical.tests.evals.conftest import HOTPOT, write


def only(task):
    (sample,) = task.dataset
    return sample


def test_rows_of_every_kind_of_file_are_the_same():
    rows = [{"question": "Où?", "answer": "a,b"}]
    csv = 'question,answer\nOù?,"a,b"\n'.encode()
    jsonl = json.dumps(rows[0]).encode() + b"\n\n"
    assert parsed("x.csv", csv) == parsed("x.csv", b"\xef\xbb\xbf" + csv) == rows
    assert parsed("x.jsonl", jsonl) == parsed("x.jsonl.gz", gzip.compress(jsonl)) == rows
    assert parsed("x.json", json.dumps(rows).encode()) == rows


def test_a_line_separator_within_a_string_ends_no_row():
    assert parsed("x.jsonl", '{"a": "b\u2028c"}\n'.encode()) == [{"a": "b\u2028c"}]


def test_the_variable_stands_for_the_option_and_the_option_wins(data, tmp_path, monkeypatch):
    source = Source(("hotpotqa/dev_distractor.jsonl",))
    monkeypatch.setenv("VERIDICAL_DATA", str(data))
    found = read(source)
    assert len(found.rows) == 3
    assert (found.origin, len(found.sha256)) == ("hotpotqa/dev_distractor.jsonl.gz", 64)
    with pytest.raises(DataMissing, match="--data DIR or VERIDICAL_DATA"):
        read(source, str(tmp_path))


def test_without_a_folder_the_official_hub_is_asked(monkeypatch):
    monkeypatch.delenv("VERIDICAL_DATA", raising=False)
    asked = []

    def load(name, config, split):
        asked.append((name, config, split))
        return HOTPOT

    monkeypatch.setitem(sys.modules, "datasets", SimpleNamespace(load_dataset=load))
    assert len(hotpotqa.hotpotqa().dataset) == 3
    assert asked == [("hotpotqa/hotpot_qa", "distractor", "validation")]


def test_without_folder_library_or_network_both_ways_are_named(monkeypatch):
    monkeypatch.delenv("VERIDICAL_DATA", raising=False)
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(
        DataMissing, match=r"hotpotqa/dev_distractor.jsonl .*VERIDICAL_DATA.*veridical\[hub\]"
    ):
        hotpotqa.hotpotqa()

    def fail(*_, **__):
        raise ConnectionError("no network")

    monkeypatch.setitem(sys.modules, "datasets", SimpleNamespace(load_dataset=fail))
    with pytest.raises(DataMissing, match="hotpotqa/hotpot_qa distractor split validation cannot be loaded"):
        hotpotqa.hotpotqa()
    with pytest.raises(DataMissing, match="no official hub id"):
        truthfulqa_mc.truthfulqa_mc()


def test_hotpotqa_reads_the_hubs_layout_and_the_official_files(data, tmp_path):
    ours = only_id(hotpotqa.hotpotqa(data=str(data)), "q1")
    official = {
        **HOTPOT[0],
        "_id": "q1",
        "supporting_facts": [["Page 1", 0], ["Other page 1", 0]],
        "context": [["Page 1", ["Fact of page 1."]], ["Other page 1", ["More.", " And more."]]],
    }
    del official["id"]
    write(tmp_path / "other/hotpotqa/hotpot_dev_distractor_v1.json", [official])
    theirs = only(hotpotqa.hotpotqa(setting="distractor", data=str(tmp_path / "other")))
    assert theirs.id == ours.id
    assert theirs.metadata["gold_titles"] == ours.metadata["gold_titles"] == ["Other page 1", "Page 1"]
    assert "Other page 1: More. And more." in theirs.input
    simple = {name: HOTPOT[0][name] for name in ("question", "answer", "type")}
    write(tmp_path / "third/hotpotqa/dev_simplified.json", [simple, simple])
    assert only(hotpotqa.hotpotqa(data=str(tmp_path / "third"))).id == identifier(simple["question"])


def only_id(task, name):
    return next(sample for sample in task.dataset if sample.id == name)


def test_triviaqa_reads_aliases_from_the_sample_and_the_official_layout(tmp_path):
    write(tmp_path / "triviaqa/triviaqa_sample.jsonl", [{"id": 1, "question": "Q?", "answers": ["A", "B"]}])
    assert only(triviaqa.triviaqa(data=str(tmp_path))).target == ["A", "B"]
    answer = {"aliases": ["A b"], "normalized_aliases": ["a b"], "value": "A b", "HumanAnswers": ["c"]}
    found = triviaqa._sample({"question_id": "t1", "question": "Q?", "answer": answer})
    assert (found.id, found.target) == ("t1", ["a b", "A b", "c"])


def test_choice_tasks_read_both_layouts_and_keep_the_right_option(tmp_path):
    ours = {"id": "x", "question": "Q?", "choices": {"A": "one", "B": "two"}, "answer": "B"}
    hub = {
        "id": "x",
        "question_stem": "Q?",
        "choices": {"label": ["A", "B"], "text": ["one", "two"]},
        "answerKey": "B",
    }
    medical = {"id": "x", "question": "Q?", "opa": "one", "opb": "two", "opc": "3", "opd": "4", "cop": 1}
    for sample in (openbookqa._sample(ours, 0), openbookqa._sample(hub, 0), medmcqa._sample(medical, 0)):
        assert f"{sample.target}) two" in sample.input
    assert openbookqa._sample(ours, 0).input == openbookqa._sample(hub, 0).input


def test_options_are_shuffled_by_question_and_seed():
    options = list("vwxyz")
    orders = {tuple(choices.shuffled(options, f"q{number}")) for number in range(20)}
    assert len(orders) > 10
    assert choices.shuffled(options, "q1") == choices.shuffled(options, "q1")
    assert choices.shuffled(options, "q1", 1) != choices.shuffled(options, "q1", 2)


def test_truthfulqa_is_asked_in_both_orders_as_one_group(tmp_path):
    row = {"Type": "Adversarial", "Category": "Myths", "Question": "Q?", "Best Answer": "yes, so"}
    write(tmp_path / "truthfulqa/TruthfulQA.csv", [{**row, "Best Incorrect Answer": "no"}])
    first, second = truthfulqa_mc.truthfulqa_mc(data=str(tmp_path)).dataset
    assert (first.target, second.target) == ("A", "B")
    assert "A) yes, so\nB) no" in first.input
    assert "A) no\nB) yes, so" in second.input
    assert first.metadata["group"] == second.metadata["group"]
    assert first.id != second.id


def test_truthfulqa_letters_hide_that_the_file_lists_the_truth_first(tmp_path):
    rows = [
        {"question": f"Q{n}?", "mc1_targets": {"t": 1, "f": 0, "g": 0}, "mc2_targets": {"t": 1, "f": 0}}
        for n in range(30)
    ]
    write(tmp_path / "truthfulqa/mc_task.json", rows)
    found = truthfulqa_mc.truthfulqa_mc(setting="letter", data=str(tmp_path)).dataset
    assert {sample.target for sample in found} == {"A", "B", "C"}
    assert all(f"{sample.target}) t" in sample.input for sample in found)


def test_truthfulqa_references_get_their_full_stop_and_the_hubs_columns_are_known():
    assert truthfulqa_gen.references("One; Two.;  ; three ") == ["One.", "Two.", "three."]
    hub = {
        "type": "a",
        "category": "b",
        "question": "Q?",
        "correct_answers": ["t"],
        "incorrect_answers": ["f"],
    }
    found = truthfulqa_gen._sample(hub).metadata
    assert (found["true"], found["false"]) == (["t."], ["f."])


def test_popqa_tells_subjects_apart_by_popularity():
    row = {"id": 7, "question": "Q?", "possible_answers": '["x", "y"]', "s_pop": 1381}
    found = popqa._sample(row)
    assert (found.target, found.metadata["tags"]) == (["x", "y"], ["views<10000"])


def test_halueval_asks_about_both_answers_of_a_pair():
    row = {"knowledge": "K.", "question": "Q?", "right_answer": "r", "hallucinated_answer": "h"}
    right, wrong = halueval._pair(row, "recognise", knowledge=False)
    assert (right.target, wrong.target) == ("no", "yes")
    assert right.metadata["group"] == wrong.metadata["group"]
    assert "K." not in right.input
    assert "K." in halueval._pair(row, "recognise", knowledge=True)[0].input


@pytest.mark.parametrize("name", TASKS)
def test_every_task_can_be_listed(name):
    found = entry(name).described()
    assert found["summary"]
    assert found["files"]
    assert "data" not in found["parameters"]
    assert "max_tokens" in found["parameters"]


def test_settings_name_what_is_not_the_default():
    assert entry("factscore").setting({"facts": 8, "passages": 5}) == "labeled,facts=8"
    assert entry("triviaqa").setting({}) == ""
    assert entry("truthfulqa_mc").setting({"primer": "/some/where/six.txt"}) == "binary,primer=six.txt"
    assert entry("truthfulqa_gen").judged({})
    assert not entry("truthfulqa_gen").judged({"setting": "similarity"})
    assert entry("simpleqa").judged({})
    assert not entry("hotpotqa").judged({})


def test_the_tasks_of_the_catalogue_are_those_imported_here():
    assert {factscore, fever, simpleqa} <= {entry(name).module for name in TASKS}
