"""Comparison of two systems on the same rows, where better refers to a significant difference."""

from __future__ import annotations

import numpy as np
import pytest

from tasks.gate.comparison import compare
from tests.support.eval_rows import SETTINGS


def test_a_comparison_has_both_means_and_what_is_between_them() -> None:
    candidate, other = np.array([1.0, 0.5, 0.0, 0.5] * 10), np.array([0.5, 0.5, 0.0, 0.0] * 10)
    comparison = compare(candidate, other, "incumbent", "label tool", SETTINGS)
    assert (comparison.against, comparison.slice, comparison.n) == ("incumbent", "label tool", 40)
    assert (comparison.candidate, comparison.other) == (0.5, 0.25)
    assert comparison.difference == pytest.approx(0.25)
    assert comparison.low < comparison.difference < comparison.high


def test_better_is_an_interval_above_0() -> None:
    one_won = np.array([1.0] + [0.0] * 39)
    assert not compare(one_won, np.zeros(40), "incumbent", "", SETTINGS).better
    assert compare(np.ones(40) * 0.5, np.zeros(40), "incumbent", "", SETTINGS).better
