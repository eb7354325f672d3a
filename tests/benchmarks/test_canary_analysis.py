"""The guard's error rates by simulation, and that what is simulated is what the guard says."""

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
    """The worst that may not be called a breach; and with the margins as they are, no healthy may be said."""
    tolerated = worse(SETTINGS.margins.model_dump())
    looks = simulate(tolerated, USUAL, Traffic(weight, looks=50, per_look=200), SETTINGS, runs=300, seed=2)
    assert ever(looks.breach) <= SETTINGS.alpha
    assert ever(looks.healthy) <= SETTINGS.alpha


def test_of_customers_who_ask_five_times_alike_a_fifth_is_counted() -> None:
    once = simulate(USUAL, USUAL, Traffic(0.5, looks=20, per_look=200), SETTINGS, runs=20, seed=6)
    five = simulate(USUAL, USUAL, Traffic(0.5, looks=20, per_look=1000, per_customer=5), SETTINGS, runs=20, seed=6)
    assert (once.breach == five.breach).all() and (once.healthy == five.healthy).all()


@pytest.mark.parametrize(("weight", "per_look", "median", "most"), [(0.05, 200, 4500, 8000), (0.25, 50, 1000, 1800)])
def test_ten_points_more_errors_are_found_out(weight: float, per_look: int, median: int, most: int) -> None:
    traffic = Traffic(weight, looks=60, per_look=per_look)
    looks = simulate(worse({"errors": 0.1}), USUAL, traffic, SETTINGS, runs=200, seed=3)
    found = requests_until(looks.breach, per_look)
    assert found[0] is not None and found[0] <= median
    assert found[1] is not None and found[1] <= most


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
    tried = int(np.random.default_rng(seed).binomial(400, weight, size=(1, 1))[0, 0])
    return tried, 400 - tried


@pytest.mark.parametrize("errors", [0.0, 1.0])
def test_a_simulated_look_is_what_the_guard_says_of_the_same_numbers(errors: float) -> None:
    """Rates of 0 and 1 leave nothing to chance but who got how many."""
    rates = dict.fromkeys(MEASURES, 0.0)
    settings = wide(SETTINGS)
    looks = simulate(rates | {"errors": errors}, rates, Traffic(0.25, 1, 400), settings, runs=1, seed=5)
    n, others = simulated_totals(0.25, 5)
    found = [
        compare_metric(m, np.full(n, errors if m == "errors" else 0.0), np.zeros(others), settings) for m in MEASURES
    ]
    assert bool(looks.breach[0, 0]) == any(m.outcome == "breach" for m in found) == (errors == 1.0)
    assert bool(looks.healthy[0, 0]) == all(m.outcome == "within" for m in found) == (errors == 0.0)


def wide(settings: CanaryAnalysisSettings) -> CanaryAnalysisSettings:
    """With margins that 100 requests are enough for."""
    return settings.model_copy(update={"margins": settings.margins.model_copy(update=dict.fromkeys(MEASURES, 0.3))})
