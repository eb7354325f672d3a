"""Confidence sequences: the formula on exact cases, and what is promised of all looks together."""

from __future__ import annotations

import math

import numpy as np
import pytest

from tasks.sequential import Sums, Values, bounds, difference, p_value


def sample(total: float, n: float) -> Sums:
    return Sums(np.asarray(total, dtype=np.float64), np.asarray(n, dtype=np.float64))


def evidence(total: float, n: float, mean: float) -> float:
    return math.exp(float(sample(total, n).log_evidence()(np.asarray(mean))))


def running(numbers: Values) -> Sums:
    """The sums at each look [runs, looks] of numbers [runs, looks]."""
    n = np.broadcast_to(np.arange(1.0, numbers.shape[1] + 1), numbers.shape)
    return Sums(numbers.cumsum(axis=1), n)


def test_the_evidence_of_one_number_is_as_computed_by_hand() -> None:
    assert evidence(0, 1, 0.2) == pytest.approx(0.5 / 0.8)  # B(1/2, 3/2) / B(1/2, 1/2) = 1/2
    assert evidence(1, 1, 0.2) == pytest.approx(0.5 / 0.2)
    assert evidence(0, 0, 0.2) == pytest.approx(1.0)


@pytest.mark.parametrize("mean", [0.01, 0.3, 0.95])
def test_the_evidence_against_the_true_share_is_one_on_average(mean: float) -> None:
    """What Ville's inequality asks for, over all outcomes of 25 draws."""
    chances = [math.comb(25, s) * mean**s * (1 - mean) ** (25 - s) for s in range(26)]
    assert sum(c * evidence(s, 25, mean) for s, c in enumerate(chances)) == pytest.approx(1.0)


@pytest.mark.parametrize("middle", [0.2, 0.5, 0.9])
def test_the_evidence_against_the_true_mean_of_scores_is_at_most_one_on_average(middle: float) -> None:
    """Scores of 0, `middle` and 1, half of them the middle one: over all outcomes of two draws."""
    scores, chances = (0.0, middle, 1.0), (0.25, 0.5, 0.25)
    mean = sum(s * c for s, c in zip(scores, chances, strict=True))
    both = [(a + b, c * d) for a, c in zip(scores, chances, strict=True) for b, d in zip(scores, chances, strict=True)]
    assert sum(chance * evidence(total, 2, mean) for total, chance in both) < 1.0


def test_bounds_hold_at_every_look_where_intervals_for_one_look_do_not() -> None:
    """A rare event, 1,000 runs, a look after each of 400 numbers."""
    generator = np.random.default_rng(1)
    share, alpha = 0.03, 0.05
    seen = running((generator.random((1000, 400)) < share).astype(np.float64))
    low, high = bounds(seen, alpha)
    assert ((low > share) | (high < share)).any(axis=1).mean() <= alpha
    half = 1.96 * np.sqrt(seen.mean * (1 - seen.mean) / seen.n)  # Wald's, for one look
    assert (np.abs(seen.mean - share) > half)[:, 50:].any(axis=1).mean() > 0.3


def test_bounds_of_scores_hold_at_every_look() -> None:
    scores = np.random.default_rng(2).beta(2.0, 0.5, (500, 300))
    low, high = bounds(running(scores), 0.05)
    assert ((low > 0.8) | (high < 0.8)).any(axis=1).mean() <= 0.05


def test_bounds_come_together_and_enclose_what_was_seen() -> None:
    widths = []
    for n in (10, 100, 1000, 10_000):
        low, high = bounds(sample(n / 10, n), 0.05)
        assert 0 <= low < 0.1 < high <= 1
        widths.append(float(high - low))
    assert widths == sorted(widths, reverse=True)
    assert widths[-1] < 0.025


def test_the_ends_are_where_the_evidence_reaches_its_level() -> None:
    low, high = bounds(sample(7, 60), 0.01)
    assert evidence(7, 60, float(low)) == pytest.approx(100, rel=1e-6)
    assert evidence(7, 60, float(high)) == pytest.approx(100, rel=1e-6)


@pytest.mark.parametrize(("total", "n", "low", "high"), [(0, 0, 0.0, 1.0), (0, 50, 0.0, None), (50, 50, None, 1.0)])
def test_samples_without_an_event_or_without_anything(
    total: float, n: float, low: float | None, high: float | None
) -> None:
    found = bounds(sample(total, n), 0.05)
    for end, wanted in zip(found, (low, high), strict=True):
        assert float(end) == wanted if wanted is not None else 0.05 < end < 0.95


def test_many_samples_at_once_are_as_each_alone() -> None:
    totals, counts = np.array([[0.0, 3.5], [9.0, 0.0]]), np.array([[4.0, 20.0], [9.0, 0.0]])
    together = bounds(Sums(totals, counts), 0.02)
    for place in np.ndindex(totals.shape):
        alone = bounds(sample(totals[place], counts[place]), 0.02)
        assert [float(end[place]) for end in together] == [float(end) for end in alone]


def test_a_difference_is_of_the_first_less_the_second() -> None:
    low, high = difference(sample(300, 1000), sample(1000, 10_000), 0.05)
    assert 0.1 < low < 0.2 < high < 0.3
    other_low, other_high = difference(sample(1000, 10_000), sample(300, 1000), 0.05)
    assert (float(other_low), float(other_high)) == (pytest.approx(-high), pytest.approx(-low))


@pytest.mark.parametrize("margin", [0.0, 0.05, 0.2])
@pytest.mark.parametrize(("total", "n"), [(0, 30), (3, 30), (10, 30), (30, 30), (12.7, 30), (60, 300)])
def test_the_p_value_is_the_alpha_at_which_the_difference_clears_the_margin(
    total: float, n: float, margin: float
) -> None:
    canary, production = sample(total, n), sample(6, 570)
    p = float(p_value(canary, production, margin))
    assert 0 < p <= 1
    for alpha in (p * 0.99, p * 1.01):
        if alpha < 1:
            low, _ = difference(canary, production, alpha)
            assert (low > margin) == (alpha > p)


def test_the_p_value_of_nothing_and_of_no_increase_is_one() -> None:
    assert p_value(sample(0, 0), sample(5, 100), 0.1) == 1.0
    assert p_value(sample(5, 100), sample(0, 0), 0.1) == 1.0
    assert p_value(sample(14, 100), sample(10, 100), 0.05) == 1.0
