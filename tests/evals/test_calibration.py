"""Reliability and selective prediction, by hand and on any order of the questions."""

from __future__ import annotations

import math
import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from veridical.evals import calibration
from veridical.evals.statistics import Array


def array(*values: float) -> Array:
    return np.array(values, dtype=float)


def test_the_calibration_error_of_one_confidence() -> None:
    confidence, correct = np.full(10, 0.9), array(*[1] * 7 + [0] * 3)
    assert calibration.expected_error(confidence, correct) == pytest.approx(0.2)
    (only,) = calibration.reliability(confidence, correct)  # equal confidences share a bin
    assert (only.n, only.confidence, only.accuracy) == (10, pytest.approx(0.9), pytest.approx(0.7))


def test_bins_hold_equal_numbers() -> None:
    confidence = np.linspace(0, 1, 40)
    assert [each.n for each in calibration.reliability(confidence, np.ones(40))] == [4] * 10


def test_auroc_counts_a_tie_half() -> None:
    # (.9, .5) right, (.5, .1) wrong: three pairs in order and one tie of four.
    assert calibration.auroc(array(0.9, 0.5, 0.5, 0.1), array(1, 1, 0, 0)) == pytest.approx(3.5 / 4)
    assert calibration.auroc(array(0.9, 0.5), array(1, 1)) is None


def test_the_area_under_the_risk_coverage_curve() -> None:
    # Right, right, wrong, right from the most confident down: risks 0, 0, 1/3, 1/4.
    correct = array(1, 1, 0, 1)
    assert calibration.aurc(array(0.9, 0.8, 0.7, 0.6), correct) == pytest.approx((1 / 3 + 1 / 4) / 4)
    assert calibration.aurc(np.full(4, 0.5), correct) == pytest.approx(0.25)  # no ranking: the error rate


def test_the_best_area_nears_its_formula() -> None:
    correct, error = array(*[1] * 700 + [0] * 300), 0.3
    best = calibration.aurc(correct, correct)
    assert best == pytest.approx(error + (1 - error) * math.log(1 - error), abs=0.001)


def test_selective_accuracy_keeps_the_most_confident() -> None:
    confidence, correct = array(0.9, 0.8, 0.7, 0.6), array(1, 0, 1, 0)
    assert calibration.selective_accuracy(confidence, correct, 0.5) == 0.5
    assert calibration.selective_accuracy(confidence, correct, 0.6) == pytest.approx(2 / 3)


def test_what_is_neither_right_nor_wrong_has_no_calibration() -> None:
    with pytest.raises(ValueError, match="right or wrong"):
        calibration.calibration(array(0.5), array(0.4), ["a"])


@settings(max_examples=15, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 8), st.booleans()), min_size=2, max_size=30), st.randoms())
def test_the_order_of_questions_changes_nothing(votes: list[tuple[int, bool]], order: random.Random) -> None:
    asked = [(count / 8, float(right), f"group {n % 7}") for n, (count, right) in enumerate(votes)]
    asked.sort()
    results = []
    for _ in range(2):
        confidence, correct, groups = zip(*asked, strict=True)
        results.append(calibration.calibration(array(*confidence), array(*correct), groups))
        order.shuffle(asked)
    first, second = results
    assert second.aurc == pytest.approx(first.aurc)
    assert second.ece == pytest.approx(first.ece)
    assert [b.n for b in second.bins] == [b.n for b in first.bins]
    assert second.accuracy_at == pytest.approx(first.accuracy_at)
