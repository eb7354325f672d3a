"""Error rates of the gate, measured by simulation with the default settings against their documented bounds."""

from __future__ import annotations

import numpy as np
import pytest

from tasks.core.paths import PARAMS
from tasks.core.settings import load_settings
from tasks.gate.bootstrap import interval, with_doubt
from tasks.gate.error_rates import AGREEMENTS, EVALUATIONS, MEAN, error_rates, simulate, slice_rates
from tasks.gate.verdict import decide_gate
from tests.conftest import ROOT
from tests.support.eval_rows import evaluation

SETTINGS = load_settings(ROOT / PARAMS).gate
ROWS = (SETTINGS.min_rows, 154)
"""The fewest rows that are judged, and the rows of the default data."""


@pytest.mark.parametrize("shift", [-0.05, 0.0, 0.1])
@pytest.mark.parametrize("agreement", AGREEMENTS)
def test_simulated_systems_differ_by_the_shift_in_truth(shift: float, agreement: float) -> None:
    candidate, incumbent = simulate((EVALUATIONS, 400), shift, agreement, seed=3)
    assert incumbent.mean() == pytest.approx(MEAN, abs=0.005)
    assert (candidate - incumbent).mean() == pytest.approx(shift, abs=0.005)
    assert candidate.min() >= 0
    assert candidate.max() <= 1


@pytest.mark.parametrize("n", ROWS)
@pytest.mark.parametrize("agreement", AGREEMENTS)
def test_equal_systems_are_rarely_called_better(n: int, agreement: float) -> None:
    assert error_rates(n, 0.0, agreement, SETTINGS).better <= 0.05


@pytest.mark.parametrize("n", ROWS)
@pytest.mark.parametrize("agreement", AGREEMENTS)
def test_a_candidate_that_is_5_points_worse_rarely_passes(n: int, agreement: float) -> None:
    assert error_rates(n, -0.05, agreement, SETTINGS).passed <= 0.05


def test_a_candidate_that_is_10_points_better_mostly_passes() -> None:
    assert error_rates(154, 0.1, 0.7, SETTINGS).passed >= 0.9


def test_slices_rarely_fail_equal_systems_and_see_one_that_was_lost() -> None:
    rates = slice_rates(20, 20, 0.7, SETTINGS)
    assert rates.alarms <= 0.05
    assert rates.caught_good >= 0.9


def test_the_simulation_asks_what_the_gate_asks() -> None:
    candidate, incumbent = simulate((3, 154), -0.05, 0.7, seed=5)
    for candidate_row, incumbent_row in zip(candidate, incumbent, strict=True):
        rows = evaluation(154, base=np.zeros(154), incumbent=incumbent_row, candidate=candidate_row)
        [comparison] = [c for c in decide_gate(rows, {}, SETTINGS.model_copy(update={"limits": {}})).comparisons
                   if c.against == "incumbent" and not c.slice]  # fmt: skip
        order = np.argsort([f"row-{i}" for i in range(154)])
        differences = (candidate_row - incumbent_row)[order]
        assert (comparison.low, comparison.high) == interval(with_doubt(differences), SETTINGS)
