"""Tests of the canary analysis benchmark: simulated error rates, and agreement of the simulation with the analysis."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.canary_analysis import USUAL, Traffic, ever, requests_until, simulate, worse
from tasks.core.settings import CanaryAnalysisSettings, load_settings
from tasks.rollout.canary_analysis import MEASURES, compare_metric

SETTINGS = load_settings().canary_analysis
WEIGHTS = pytest.mark.parametrize("weight", [0.05, 0.25])


@WEIGHTS
def test_equal_packages_are_hardly_ever_a_breach_in_fifty_looks(weight: float) -> None:
    looks = simulate(USUAL, USUAL, Traffic(weight, looks=50, per_look=200), SETTINGS, runs=300, seed=1)
    assert ever(looks.breach) <= SETTINGS.alpha


@WEIGHTS
def test_a_canary_that_is_worse_by_just_the_margins_is_a_breach_in_at_most_alpha(weight: float) -> None:
    """This is the worst canary that must not be a breach; at exactly its margins it must not be healthy either."""
    tolerated = worse(SETTINGS.margins.model_dump())
    looks = simulate(tolerated, USUAL, Traffic(weight, looks=50, per_look=200), SETTINGS, runs=300, seed=2)
    assert ever(looks.breach) <= SETTINGS.alpha
    assert ever(looks.healthy) <= SETTINGS.alpha


def test_of_customers_with_five_equal_requests_a_fifth_is_counted() -> None:
    once = simulate(USUAL, USUAL, Traffic(0.5, looks=20, per_look=200), SETTINGS, runs=20, seed=6)
    five = simulate(USUAL, USUAL, Traffic(0.5, looks=20, per_look=1000, per_customer=5), SETTINGS, runs=20, seed=6)
    assert (once.breach == five.breach).all() and (once.healthy == five.healthy).all()


@pytest.mark.parametrize(("weight", "per_look", "median", "most"), [(0.05, 200, 4500, 8000), (0.25, 50, 1000, 1800)])
def test_ten_points_more_errors_are_found_out(weight: float, per_look: int, median: int, most: int) -> None:
    traffic = Traffic(weight, looks=60, per_look=per_look)
    looks = simulate(worse({"errors": 0.1}), USUAL, traffic, SETTINGS, runs=200, seed=3)
    requests = requests_until(looks.breach, per_look)
    assert requests[0] is not None and requests[0] <= median
    assert requests[1] is not None and requests[1] <= most


def test_an_equal_canary_becomes_healthy_with_enough_requests() -> None:
    rates = dict.fromkeys(MEASURES, 0.01)
    looks = simulate(rates, rates, Traffic(0.5, looks=20, per_look=1000), SETTINGS, runs=50, seed=4)
    assert not looks.healthy[:, 0].any()
    assert looks.healthy[:, -1].mean() > 0.9


def test_requests_are_counted_to_the_first_look_that_says_it() -> None:
    flags = np.zeros((10, 4), dtype=np.bool_)
    flags[:8, 2] = flags[:3, 3] = True
    assert requests_until(flags, 50) == (150, None)
    assert ever(flags) == 0.8


def simulated_totals(weight: float, seed: int) -> tuple[int, int]:
    """Requests of canary and production in the first draw of a simulation with this seed."""
    in_canary = int(np.random.default_rng(seed).binomial(400, weight, size=(1, 1))[0, 0])
    return in_canary, 400 - in_canary


@pytest.mark.parametrize("errors", [0.0, 1.0])
def test_a_simulated_outcome_is_that_of_the_analysis_of_the_same_numbers(errors: float) -> None:
    """With rates of 0 and 1, only the number of requests of each package is random."""
    rates = dict.fromkeys(MEASURES, 0.0)
    settings = wide(SETTINGS)
    looks = simulate(rates | {"errors": errors}, rates, Traffic(0.25, 1, 400), settings, runs=1, seed=5)
    n, others = simulated_totals(0.25, 5)
    comparisons = [
        compare_metric(m, np.full(n, errors if m == "errors" else 0.0), np.zeros(others), settings) for m in MEASURES
    ]
    assert bool(looks.breach[0, 0]) == any(m.outcome == "breach" for m in comparisons) == (errors == 1.0)
    assert bool(looks.healthy[0, 0]) == all(m.outcome == "within" for m in comparisons) == (errors == 0.0)


def wide(settings: CanaryAnalysisSettings) -> CanaryAnalysisSettings:
    """Settings with margins for which 100 requests are enough."""
    return settings.model_copy(update={"margins": settings.margins.model_copy(update=dict.fromkeys(MEASURES, 0.3))})
