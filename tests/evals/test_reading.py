"""What counts as an answer, and what is unparsable."""

import pytest

from veridical.evals import fever, halueval, hotpotqa, triviaqa
from veridical.evals.reading import letter, short_answer


@pytest.mark.parametrize(
    ("reply", "said"),
    [
        ("B", "B"),
        ("(B)", "B"),
        ("**B**", "B"),
        ("B) Paris", "B"),
        ("b", None),
        ("The answer is B.", "B"),
        ("Answer: C", "C"),
        ("Option A is right", "A"),
        ("A. Paris", "A"),
        ("A cat sat on the mat", None),  # an article
        ("Because of D", None),
        ("A or B", None),
        ("I first thought A, but the answer is B", "B"),
        ("The answer is A.\nNo: the answer is B.", "B"),
        ("CORRECT", None),
        ("E", None),  # not among the letters
        ("", None),
        ("B [1]", "B"),
    ],
)
def test_a_letter_is_read_only_where_it_is_stated(reply, said):
    assert letter(reply, "ABCD") == said


@pytest.mark.parametrize(
    ("reply", "said"),
    [
        ("Paris", "Paris"),
        ("\n Answer: Paris\nIt is in France.", "Paris"),
        ("Final answer: Paris", "Paris"),
        ("Paris [1][2, 3].", "Paris."),
        ("  \n", None),
        ("[1]", None),
    ],
)
def test_a_short_answer_is_the_first_line_without_marks(reply, said):
    assert short_answer(reply) == said


@pytest.mark.parametrize(
    ("reply", "said"),
    [
        ("Supported.", "SUPPORTS"),
        ("The claim is REFUTED", "REFUTES"),
        ("not enough info", "NOT ENOUGH INFO"),
        ("There is not enough information.", "NOT ENOUGH INFO"),
        ("not supported", None),  # refuted, or not enough info?
        ("supported or refuted", None),
        ("maybe", None),
    ],
)
def test_a_label_is_read_only_where_it_is_the_only_one(reply, said):
    assert fever.vote(reply) == said


def test_yes_and_no_are_words_not_letters():
    assert halueval.vote("No, it is right.") == "no"
    assert halueval.vote("I do not know") is None
    assert halueval.vote("yes and no") is None


def test_votes_are_equal_where_the_metric_sees_no_difference():
    assert hotpotqa.vote("The Amber!") == hotpotqa.vote("amber") == "amber"
    assert triviaqa.vote("jean-paul") == triviaqa.vote("Jean Paul")
    assert hotpotqa.vote("") is None
