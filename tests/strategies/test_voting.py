"""Votes: which words count as the same, what an answer comes down to, who wins."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from veridical.strategies.voting import conclusion, majority, normalised, plurality


@pytest.mark.parametrize(
    "same",
    [
        ("The Beatles.", "the beatles", "Beatles", " BEATLES! "),
        ("1,000", "1000", "1000.0", "1000."),
        ("seven", "7", "07", "Seven."),
        ("-5", "−5"),
        ("U.S.", "US", "u.s"),
        ("don't", "don’t", "dont"),
        ("x-ray", "X ray"),
        ("(A)", "a", "A."),
        ("５", "5"),
    ],
)
def test_what_does_not_change_an_answer_is_not_counted(same: tuple[str, ...]) -> None:
    assert len({normalised(answer) for answer in same}) == 1


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("5", "-5"),
        ("3.5", "35"),
        ("1,5", "15"),
        ("10%", "10"),
        ("$5", "5"),
        ("Orléans", "Orleans"),
        ("C++", "C"),
        ("A", "B"),
    ],
)
def test_what_changes_an_answer_stays(one: str, other: str) -> None:
    assert normalised(one) != normalised(other)


@given(st.text(max_size=40))
def test_normalising_twice_changes_nothing_more(text: str) -> None:
    once = normalised(text)
    assert normalised(once) == once


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("Paris", "Paris"),
        ("It lies on the Seine.\n\n**Answer:** Paris", "Paris"),
        ("So the answer is 7. That is what was asked.", "7."),
        ("First, answer: 3\nNo, wait.\nFinal answer: 4", "4"),
        (r"Hence $\boxed{12}$ apples.", "12"),
        ("The answer is J. K. Rowling. She wrote it.", "J. K. Rowling."),
        ("Nobody knows the answer", "Nobody knows the answer"),
        ("Answer:", "Answer:"),
    ],
)
def test_a_conclusion_is_what_follows_the_reasoning(text: str, said: str) -> None:
    assert conclusion(text) == said


def test_the_largest_group_wins_and_the_first_of_equal_ones() -> None:
    assert majority(["Rome", "Paris.", "the Paris", "Oslo"]) == (1, 0.5)
    assert majority(["Rome", "Paris", "Oslo"]) == (0, 1 / 3)
    assert majority(["Rome", "Paris", "paris", "ROME"]) == (0, 0.5)
    assert plurality([2, 1, 1]) == (1, 2 / 3)


def test_no_votes_have_no_winner() -> None:
    with pytest.raises(ValueError, match="nothing"):
        majority([])
