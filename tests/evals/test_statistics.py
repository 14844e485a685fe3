"""Intervals, tests and corrections against values worked out by hand or known from elsewhere."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from veridical.evals import statistics

BITS = st.lists(st.sampled_from([0.0, 1.0]), min_size=2, max_size=40)
SHARES = st.lists(st.floats(0, 1), min_size=2, max_size=40)


def alone(n: int) -> list[str]:
    return [f"q{number}" for number in range(n)]


def array(*values: float) -> statistics.Array:
    return np.array(values, dtype=float)


def test_the_mean_of_independent_questions_has_students_interval() -> None:
    found = statistics.mean(array(0.2, 0.4, 0.9), alone(3))
    # s = 0.360555, s/√3 = 0.208167, t(2) = 4.302653
    assert found.value == pytest.approx(0.5)
    assert (found.low, found.high) == (pytest.approx(-0.395668, abs=1e-5), pytest.approx(1.395668, abs=1e-5))
    assert statistics.mean(array(0.2, 0.4, 0.9), alone(3), bounds=(0, 1)).high == 1


def test_equal_clusters_count_as_one_question_each() -> None:
    sums = statistics.cluster_sums(np.column_stack([array(1, 0, 1, 1, 0, 0), np.ones(6)]), list("aabbcc"))
    assert sums.tolist() == [[1, 2], [2, 2], [0, 2]]
    assert statistics.ratio_error(sums[:, 0], sums[:, 1]) == pytest.approx(
        0.5 / math.sqrt(3)
    )  # means ½, 1, 0


def test_the_cluster_robust_error_of_unequal_clusters() -> None:
    # Mean ½; residual sums +½ and -½; √(2/1 · (¼ + ¼)) / 4 = ¼.
    assert statistics.ratio_error(array(1, 1), array(1, 3)) == pytest.approx(0.25)


def test_one_cluster_gives_no_interval() -> None:
    assert statistics.score(array(0.1, 0.5), ["a", "a"]) == statistics.Estimate(0.3, None, None, 2, 1)
    assert statistics.score(array(0, 1), ["a", "a"]).low is None


@pytest.mark.parametrize(("hits", "n"), [(0, 10), (8, 10), (10, 10), (1, 1), (58, 200)])
def test_wilson_agrees_with_scipy(hits: int, n: int) -> None:
    theirs = stats.binomtest(hits, n).proportion_ci(method="wilson")
    assert statistics.wilson(hits / n, n) == pytest.approx((theirs.low, theirs.high))


def test_a_proportion_of_nothing_still_has_an_upper_bound() -> None:
    found = statistics.score(np.zeros(40), alone(40))
    assert found.low == 0
    assert found.high == pytest.approx(0.0876, abs=1e-4)


def test_questions_asked_twice_are_not_twice_the_evidence() -> None:
    once = array(*[1] * 30 + [0] * 70)
    single = statistics.score(once, alone(100))
    double = statistics.score(np.repeat(once, 2), [name for name in alone(100) for _ in range(2)])
    assert (double.n, double.clusters) == (200, 100)
    assert double.low == pytest.approx(single.low, abs=0.003)
    assert double.high == pytest.approx(single.high, abs=0.003)
    zeros = statistics.score(np.zeros(200), [name for name in alone(100) for _ in range(2)])
    assert zeros.high == pytest.approx(statistics.wilson(0, 100)[1])


def test_a_constant_letter_is_no_better_than_independent_questions() -> None:
    # Always "A", every question in both orders: each pair scores 1 + 0, the clusters do not vary at all.
    found = statistics.score(np.tile([1.0, 0.0], 50), [name for name in alone(50) for _ in range(2)])
    low, high = statistics.wilson(0.5, 100)
    assert found.low is not None
    assert found.low <= low
    assert found.high is not None
    assert found.high >= high


@given(BITS | SHARES, st.data())
def test_an_interval_holds_its_estimate(values: list[float], data: st.DataObject) -> None:
    groups = data.draw(st.lists(st.sampled_from("abcdefgh"), min_size=len(values), max_size=len(values)))
    found = statistics.score(array(*values), groups, bounds=(0, 1))
    if found.low is not None and found.high is not None:
        assert 0 <= found.low <= found.value + 1e-12
        assert found.value - 1e-12 <= found.high <= 1


def test_bootstrap_draws_agree_with_scipys() -> None:
    values = np.random.default_rng(7).gamma(0.5, size=60)
    draws = statistics.bootstrap_sums(np.column_stack([values, np.ones(60)]))
    ours = np.quantile(draws[:, 0] / draws[:, 1], (0.025, 0.975))
    theirs = stats.bootstrap((values,), np.mean, n_resamples=20_000, method="percentile", rng=3)
    assert (draws[:, 1] == 60).all()
    assert ours == pytest.approx(tuple(theirs.confidence_interval), abs=0.01)


def test_the_percentiles_are_expanded_in_small_samples() -> None:
    # G = 10: t(9) = 2.26216, times √(10/9) is 2.38452, and Φ(-2.38452) = 0.008551.
    draws = np.linspace(0, 1, 100_001)
    assert statistics.percentile_interval(draws, 10) == pytest.approx((0.008551, 0.991449), abs=1e-5)
    assert statistics.percentile_interval(draws, 100_000) == pytest.approx((0.025, 0.975), abs=1e-4)
    assert statistics.percentile_interval(draws, 1) is None


@pytest.mark.parametrize(
    ("worse", "better", "p"),
    [(0, 0, 1.0), (0, 5, 0.0625), (0, 6, 0.03125), (2, 10, 158 / 4096), (10, 2, 158 / 4096), (4, 4, 1.0)],
)
def test_mcnemar(worse: int, better: int, p: float) -> None:
    assert statistics.mcnemar(worse, better) == pytest.approx(p)


def test_sign_flips_are_exact_where_they_can_be() -> None:
    sums = np.column_stack([array(1, 2, 3, 0), array(1, -1, 0, 0)])
    # Of the eight patterns of three signs only +++ and --- reach 6; every one reaches 0.
    assert statistics.sign_flip(sums).tolist() == [0.25, 1.0]
    assert statistics.sign_flip(np.zeros((5, 2))).tolist() == [1.0, 1.0]


@settings(max_examples=25)
@given(st.integers(0, 6), st.integers(0, 6), st.integers(0, 5))
def test_mcnemar_is_the_sign_flip_test_of_right_and_wrong(worse: int, better: int, same: int) -> None:
    sums = array(*[-1] * worse + [1] * better + [0] * same).reshape(-1, 1)
    assert statistics.sign_flip(sums)[0] == pytest.approx(statistics.mcnemar(worse, better))


def test_random_sign_flips_agree_with_scipys_permutation_test() -> None:
    values = np.random.default_rng(1).normal(0.15, 1, size=80)
    theirs = stats.permutation_test(
        (values,), np.sum, permutation_type="samples", n_resamples=20_000, rng=5, vectorized=True
    )
    assert statistics.sign_flip(values.reshape(-1, 1))[0] == pytest.approx(theirs.pvalue, abs=0.02)


def test_no_random_p_is_zero() -> None:
    assert statistics.sign_flip(np.ones((100, 1)))[0] == pytest.approx(1 / 10_001)


def test_holm() -> None:
    # As R's p.adjust(c(.01, .04, .03, .005), "holm").
    assert statistics.holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert statistics.holm([0.6, 0.7]) == [1.0, 1.0]
    assert statistics.holm([]) == []


def test_the_detectable_difference_is_that_of_the_size_formula() -> None:
    # n = 7.85 q / δ²: a fifth discordant and δ = 5 points take about 630 questions.
    differences = array(*[1] * 63 + [-1] * 63 + [0] * 504)
    assert statistics.detectable_difference(differences, 630, binary=True) == pytest.approx(0.05, abs=1e-4)


def test_too_few_changes_are_never_called_enough() -> None:
    one = array(1, *[0] * 99)
    assert statistics.detectable_difference(one, 100, binary=True) == pytest.approx(0.06)
    assert statistics.detectable_difference(one, 100, binary=False) == pytest.approx(0.0280, abs=1e-4)
    assert statistics.detectable_difference(np.zeros(100), 100, binary=True) is None


def test_dominated_points() -> None:
    points = [(100, 0.3), (200, 0.5), (300, 0.5), (400, 0.2), (50, 0.1), (100, 0.3)]
    assert statistics.dominators(points) == [None, None, 1, 1, None, None]
