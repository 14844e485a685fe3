"""FActScore's steps: sentences, facts, passages, abstentions, human labels."""

import os
from pathlib import Path

import pytest

from veridical.evals.agreement import Pair, agreement
from veridical.evals.atomic import abstains, cleaned, sentences_of
from veridical.evals.factscore import some
from veridical.evals.knowledge import Knowledge, Page, packed
from veridical.evals.labels import balanced, facts, human_scores
from veridical.tests.evals.conftest import write

SHARED = Path(os.environ.get("VERIDICAL_DATA") or Path(__file__).parents[3] / "shared/data")


@pytest.mark.parametrize(
    ("response", "abstention"),
    [
        ("I'm sorry, I do not know this person.", True),
        ("I’m sorry, but there is no such person.", True),
        ("Could you provide more information?", True),
        ("", True),
        ("She was sorry for it all her life.", False),
        ("Born in 1911, she apologised later.", False),
    ],
)
def test_abstentions_are_told_by_their_words(response, abstention):
    assert abstains(response) is abstention


def test_sentences_are_taken_line_by_line_with_initials_whole():
    text = "J. K. Marrow was born in 1911. He lived.\n- He wrote\n2. He died"
    assert sentences_of(text) == ["J. K. Marrow was born in 1911.", "He lived.", "He wrote", "He died"]


def test_facts_are_cleaned_as_the_released_code_does():
    sentence = "Brandvik, born in 1911, climbed 40 peaks in the 1930s."
    found = [
        "Brandvik was born in 1911.",
        "brandvik was born in 1911",  # again
        "Brandvik climbed",  # the start of another
        "Brandvik climbed 40 peaks.",
        "Brandvik climbed in 1936.",  # a number that the sentence has not
        "Brandvik climbed in the 1930s.",
        "",
    ]
    assert cleaned(found, sentence, sentence) == [found[0], found[3], found[5]]


def test_where_cleaning_would_leave_nothing_the_facts_stay():
    assert cleaned(["It was 1912.", "It was 1912."], "It was then.", "") == ["It was 1912."]


def test_names_from_nowhere_are_the_judges_own():
    found = ["Ottoline Brandvik climbed.", "He met Ann.", "He is in Orsk."]
    assert cleaned(found, "He met her.", "Pell Marrow. Ann sang. He met her in Orsk.") == found[1:]
    assert cleaned(found[:1], "He met her.", "Pell Marrow") == []


def test_a_choice_of_facts_depends_on_the_seed_alone():
    found = [f"fact {n}" for n in range(20)]
    assert some(found, 8, "0:x") == some(found, 8, "0:x")
    assert some(found, 8, "0:x") != some(found, 8, "1:x")
    assert len(set(some(found, 8, "0:x"))) == 8
    assert some(found, 0, "0:x") == some(found, 20, "0:x") == found


def test_passages_are_whole_sentences_of_bounded_length():
    text = "One two three. Four five six. Seven eight nine ten eleven twelve."
    assert packed(text, 6) == ["One two three. Four five six.", "Seven eight nine ten eleven twelve."]
    assert packed("a b c d e", 2) == ["a b", "c d", "e"]
    assert packed("", 5) == []


def test_the_best_passage_stands_last():
    page = Page(["He was born in Orsk.", "He taught chemistry.", "He died in Tarnhelm of a fall."])
    assert page.best("Pell Marrow died of a fall in Tarnhelm", 2)[-1] == page.passages[2]
    assert len(page.best("Pell Marrow died", 2)) == 2
    assert len(page.best("zzz unknown words", 2)) == 2
    assert Page(["only"]).best("x", 5) == ["only"]


def test_only_the_entitys_own_page_is_knowledge(tmp_path):
    rows = [
        {"entity": "X", "title": "X", "text": "X was a chemist.", "is_entity_page": True},
        {"entity": "X", "title": "Y", "text": "Y was not.", "is_entity_page": False},
        {"entity": "Z", "title": "W", "text": "W.", "is_entity_page": False},
    ]
    write(tmp_path / "factscore/wiki_passages.jsonl.gz", rows)
    knowledge = Knowledge.read(str(tmp_path), 256)
    assert set(knowledge.texts) == {"X"}
    assert list(knowledge.page("X").passages) == ["X was a chemist."]


def sentence(human, model=1):
    made = None if human is None else [{"text": f"f{n}", "label": label} for n, label in enumerate(human)]
    return {"text": "s", "human-atomic-facts": made, "model-atomic-facts": [{"text": "m"}] * model}


def test_human_scores_by_hand(tmp_path):
    rows = [
        {"topic": "X", "annotations": [sentence(["S", "NS", "IR"]), sentence(None, model=2)]},  # 1 of 5
        {"topic": "Y", "annotations": [sentence(["S"])]},
        {"topic": "Z", "annotations": None},  # abstained: left out
    ]
    for system in ("ChatGPT", "InstructGPT", "PerplexityAI"):
        write(tmp_path / f"factscore/labeled/{system}.jsonl", rows)
    for each in human_scores(str(tmp_path)):
        assert (each.score, each.responses, each.entities, each.facts) == (pytest.approx(0.6), 2, 3, 3.0)
    found = facts(str(tmp_path), {"X"})
    assert [(fact.system, fact.supported) for fact in found[:2]] == [("ChatGPT", True), ("ChatGPT", False)]
    assert len(found) == 6  # irrelevant facts are no labels
    assert len(balanced(found, 3, 0)) == 3


@pytest.mark.skipif(
    not (SHARED / "factscore/labeled").is_dir(),
    reason="FActScore's human labels are not here: set VERIDICAL_DATA to recompute the published scores",
)
def test_human_scores_of_the_published_labels():
    found = {each.system: round(100 * each.score, 1) for each in human_scores(str(SHARED))}
    assert found == {
        "ChatGPT": pytest.approx(58.3, abs=0.1),
        "InstructGPT": pytest.approx(44.2, abs=0.1),
        "PerplexityAI": pytest.approx(74.0, abs=0.1),
    }


def test_agreement_by_hand():
    pairs = [Pair(True, True, "p"), Pair(True, False, "p"), Pair(False, False, "q"), Pair(False, True, "q")]
    found = agreement([*pairs, Pair(True, True, "p"), Pair(True, True, "q")])
    # 4 of 6 agree; people say true 4/6, the judge 4/6: chance 5/9, kappa (2/3 - 5/9) / (4/9) = 1/4
    assert (found.n, found.accuracy, found.kappa) == (6, pytest.approx(2 / 3), pytest.approx(1 / 4))
    assert found.errors == {"p": pytest.approx(-1 / 3), "q": pytest.approx(1 / 3)}
    assert agreement([Pair(True, True)]).kappa is None
    with pytest.raises(ValueError, match="no pairs"):
        agreement([])
