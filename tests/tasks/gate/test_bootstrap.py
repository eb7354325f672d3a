"""Bootstrap intervals and p-values agree with known results of simple cases."""

from __future__ import annotations

import numpy as np
import pytest

from tasks.gate.bootstrap import draws, holm, interval, means, p_of_loss, with_doubt
from tests.support.eval_rows import SETTINGS


def test_means_are_those_of_the_drawn_rows() -> None:
    values = np.random.default_rng(3).random((4, 11))
    indices = draws(11, 50, seed=5)
    assert means(values, 50, seed=5) == pytest.approx(values[:, indices].mean(axis=-1))


def test_the_interval_agrees_with_the_normal_approximation() -> None:
    values = np.random.default_rng(4).normal(0.1, 0.3, 200)
    low, high = interval(values, SETTINGS)
    half = 1.96 * values.std(ddof=1) / np.sqrt(len(values))
    assert low == pytest.approx(values.mean() - half, abs=0.006)
    assert high == pytest.approx(values.mean() + half, abs=0.006)


def test_rows_that_never_differ_are_not_taken_for_certain() -> None:
    assert interval(np.zeros(40), SETTINGS) == (0.0, 0.0)
    low, high = interval(with_doubt(np.zeros(40)), SETTINGS)
    assert -0.1 < low < -0.04
    assert 0.04 < high < 0.1
    assert with_doubt(np.zeros((3, 5))).shape == (3, 7)


def test_a_loss_beyond_doubt_has_a_small_p_value_and_one_within_the_limit_a_large_one() -> None:
    lost, kept = -np.ones(8), np.zeros(8)
    assert p_of_loss(lost, 0.25, 999, seed=1) == pytest.approx(1 / 1000)
    assert p_of_loss(kept, 0.25, 999, seed=1) == 1.0
    at_the_limit = -np.array([1.0, 0.0, 0.0, 0.0] * 10)
    assert 0.4 < p_of_loss(at_the_limit, 0.25, 999, seed=1) < 0.7


def test_holm_goes_on_to_the_next_level_only_after_a_rejection() -> None:
    # Levels 0.05 / 4, / 3, / 2, / 1, from the smallest p-value on.
    assert holm([0.01, 0.04, 0.03, 0.005], 0.05) == [True, False, False, True]
    assert holm([0.02, 0.02, 0.02, 0.02], 0.05) == [False] * 4
    assert holm([0.012, 0.016, 0.024, 0.05], 0.05) == [True] * 4
    assert holm([], 0.05) == []


def test_holm_rarely_rejects_any_of_many_true_hypotheses() -> None:
    p_values = np.random.default_rng(8).random((2000, 40))
    assert np.mean([any(holm(list(row), 0.05)) for row in p_values]) < 0.065
