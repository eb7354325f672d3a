"""A comparison is of the same rows, and better is better beyond doubt."""

from __future__ import annotations

import numpy as np
import pytest

from tasks.gate.comparison import compare
from tests.support.eval_rows import SETTINGS


def test_a_comparison_has_both_means_and_what_is_between_them() -> None:
    ours, theirs = np.array([1.0, 0.5, 0.0, 0.5] * 10), np.array([0.5, 0.5, 0.0, 0.0] * 10)
    found = compare(ours, theirs, "incumbent", "label tool", SETTINGS)
    assert (found.against, found.slice, found.n) == ("incumbent", "label tool", 40)
    assert (found.candidate, found.other) == (0.5, 0.25)
    assert found.difference == pytest.approx(0.25)
    assert found.low < found.difference < found.high


def test_better_is_an_interval_above_0() -> None:
    one_won = np.array([1.0] + [0.0] * 39)
    assert not compare(one_won, np.zeros(40), "incumbent", "", SETTINGS).better
    assert compare(np.ones(40) * 0.5, np.zeros(40), "incumbent", "", SETTINGS).better
