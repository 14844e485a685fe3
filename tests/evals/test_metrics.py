"""The official metrics against cases worked out by hand, one per rule of each script."""

import math

import pytest

from veridical.evals.metrics import (
    Overlap,
    contains,
    factscore,
    hotpot_answer,
    hotpot_normalised,
    joint,
    log_sum_exp,
    mc1,
    mc2,
    mc3,
    similarity,
    supporting_facts,
    trivia_answer,
    trivia_normalised,
)


@pytest.mark.parametrize(
    ("text", "normalised"),
    [
        ("The  Beatles!", "beatles"),
        ("a man, an owl and the sea", "man owl and sea"),
        ("jean-paul", "jeanpaul"),  # punctuation is deleted, no space put in its place
        ("A.N. Other", "other"),  # and only then articles go: "an"
        ("Théâtre “X”", "théâtre “x”"),  # ASCII punctuation only
    ],
)
def test_hotpot_normalises_in_the_official_order(text, normalised):
    assert hotpot_normalised(text) == normalised


def test_hotpot_f1_counts_the_bag_of_tokens():
    # 3 predicted tokens, 4 gold, 2 shared (one "new" only): P = 2/3, R = 2/4, F1 = 4/7
    found = hotpot_answer("new new york", "the new york times building")
    assert found.em == 0
    assert found.precision == pytest.approx(2 / 3)
    assert found.recall == pytest.approx(2 / 4)
    assert found.f1 == pytest.approx(4 / 7)
    assert hotpot_answer("The Cairo.", "cairo") == Overlap(1, 1, 1, 1)
    assert hotpot_answer("Lima", "Quito") == hotpot_answer("", "Quito") == Overlap(0, 0, 0, 0)


@pytest.mark.parametrize(
    ("prediction", "gold"),
    [("yes it is", "yes"), ("no", "yes"), ("no way", "no"), ("yes", "yes it is"), ("noanswer", "no answer")],
)
def test_hotpot_yes_and_no_are_all_or_nothing(prediction, gold):
    assert hotpot_answer(prediction, gold) == Overlap(0, 0, 0, 0)


def test_hotpot_yes_is_right_as_a_whole():
    assert hotpot_answer("Yes.", "yes") == Overlap(1, 1, 1, 1)
    assert hotpot_answer("I know", "know I").f1 == 1  # "know" is not "no"


def test_supporting_facts_are_sets():
    gold = [("P", 0), ("P", 2), ("Q", 1)]
    found = supporting_facts([("P", 0), ("P", 0), ("Q", 4)], gold)  # 1 of 2 distinct, of 3 gold
    assert (found.precision, found.recall) == (pytest.approx(1 / 2), pytest.approx(1 / 3))
    assert found.f1 == pytest.approx(2 / 5)
    assert found.em == 0
    assert supporting_facts(reversed(gold), gold) == Overlap(1, 1, 1, 1)
    assert supporting_facts([], gold) == Overlap(0, 0, 0, 0)


def test_joint_multiplies_precision_and_recall_not_f1():
    answer, facts = Overlap(0, 4 / 7, 2 / 3, 1 / 2), Overlap(0, 2 / 5, 1 / 2, 1 / 3)
    found = joint(answer, facts)  # P = 1/3, R = 1/6: F1 = 2/9, not 4/7 · 2/5
    assert (found.precision, found.recall) == (pytest.approx(1 / 3), pytest.approx(1 / 6))
    assert found.f1 == pytest.approx(2 / 9)
    assert joint(Overlap(1, 1, 1, 1), facts).em == 0
    assert joint(Overlap(1, 1, 1, 1), Overlap(0, 0, 0, 0)).f1 == 0


@pytest.mark.parametrize(
    ("text", "normalised"),
    [
        ("1_000_000", "1 000 000"),  # underscores first
        ("jean-paul", "jean paul"),  # punctuation becomes a space
        ("‘The’ rock´n`roll", "rock n roll"),
        ("A.N. Other", "n other"),  # "a n other": here the article is the letter
    ],
)
def test_trivia_normalises_in_its_own_way(text, normalised):
    assert trivia_normalised(text) == normalised


def test_trivia_takes_the_best_alias_for_each_figure():
    aliases = ["Sunset Blvd", "Sunset Boulevard"]
    assert trivia_answer("the sunset boulevard", aliases) == Overlap(1, 1, 1, 1)
    half = trivia_answer("Boulevard", aliases)
    assert half.em == 0
    assert half.f1 == pytest.approx(2 / 3)
    assert trivia_answer("yes it is", ["yes"]).f1 == pytest.approx(1 / 2)  # no rule for yes and no


def test_popqa_counts_a_mention_in_the_forms_of_its_script():
    assert contains("He was a Politician.", ["politician"]) == 1
    assert contains("HE WAS A POLITICIAN", ["politician"]) == 0
    assert contains("a polit", ["politician", ""]) == 0


def test_mc_scores_by_hand():
    true, false = [math.log(0.2), math.log(0.1)], [math.log(0.15), math.log(0.05)]
    assert mc1(true[:1], false) == 1
    assert mc2(true, false) == pytest.approx(0.3 / 0.5)
    assert mc3(true, false) == 1 / 2


def test_mc1_needs_a_strict_lead():
    assert mc1([-3.0], [-3.0, -9.0]) == 0
    assert mc1([-3.0 + 1e-9], [-3.0]) == 1


def test_mc2_of_long_options_does_not_underflow():
    assert math.exp(-2000) == 0
    assert mc2([-2000.0], [-2000.0 - math.log(3)]) == pytest.approx(3 / 4)
    assert log_sum_exp([-1000.0, -1000.0]) == pytest.approx(-1000 + math.log(2))


def test_similarity_is_the_lead_of_the_nearest_true_reference():
    scores = {"t1": 0.2, "t2": 0.6, "f1": 0.5, "f2": 0.1}
    found = similarity(scores.__getitem__, ["t1", "t2"], ["f1", "f2"])
    assert (found.best, found.diff, found.acc) == (0.6, pytest.approx(0.1), 1)
    assert similarity(scores.__getitem__, ["t1"], ["f1"]).acc == 0
    assert similarity(lambda _: 0.5, ["t1"], ["f1"]).acc == 0  # a tie leads nobody


def test_factscore_penalises_short_answers_alone():
    twelve = factscore([True] * 9 + [False] * 3)
    assert (twelve.score, twelve.precision, twelve.facts) == (0.75, 0.75, 12)
    assert factscore([True] * 10).score == 1  # at the border there is no penalty
    five = factscore([True, True, True, True, False])
    assert five.precision == 0.8
    assert five.score == pytest.approx(0.8 * math.exp(1 - 10 / 5))
    assert factscore([True, False], gamma=0).score == 0.5


def test_factscore_counts_all_facts_where_some_are_judged():
    found = factscore([True] * 6 + [False] * 2, facts=20)
    assert (found.score, found.facts) == (0.75, 20)
    assert factscore([True], facts=4).score == pytest.approx(math.exp(1 - 10 / 4))


def test_factscore_leaves_an_abstention_out():
    assert factscore([]) is None
