"""Tests of confidence sequences of a difference: the formula on exact cases, and the coverage over all analyses."""

from __future__ import annotations

import math

import numpy as np
import pytest

from tasks.rollout.confidence_sequences import Sums, Values, difference, log_evidence, p_value


def sample(total: float, n: float) -> Sums:
    return Sums(np.asarray(total, dtype=np.float64), np.asarray(n, dtype=np.float64))


def evidence(total: float, n: float, mean: float) -> float:
    return math.exp(float(sample(total, n).log_evidence(np.asarray(mean))))


def running(numbers: Values) -> Sums:
    """The sums at each analysis [runs, analyses] of numbers [runs, analyses]."""
    n = np.broadcast_to(np.arange(1.0, numbers.shape[1] + 1), numbers.shape)
    return Sums(numbers.cumsum(axis=1), n)


def missed(first: Sums, second: Sums, increase: float, alpha: float) -> float:
    """The fraction of runs in which the true increase is outside of the sequence at any analysis."""
    least = log_evidence(first, second, np.full(first.n.shape, increase))
    return float((least >= -np.log(alpha)).any(axis=1).mean())


def test_the_evidence_of_one_number_is_as_computed_by_hand() -> None:
    assert evidence(0, 1, 0.2) == pytest.approx(0.5 / 0.8)  # B(1/2, 3/2) / B(1/2, 1/2) = 1/2
    assert evidence(1, 1, 0.2) == pytest.approx(0.5 / 0.2)
    assert evidence(0, 0, 0.2) == pytest.approx(1.0)


@pytest.mark.parametrize("mean", [0.01, 0.3, 0.95])
def test_the_evidence_against_the_true_share_is_one_on_average(mean: float) -> None:
    """This is the condition of Ville's inequality, here over all outcomes of 25 draws."""
    chances = [math.comb(25, s) * mean**s * (1 - mean) ** (25 - s) for s in range(26)]
    assert sum(c * evidence(s, 25, mean) for s, c in enumerate(chances)) == pytest.approx(1.0)


@pytest.mark.parametrize("middle", [0.2, 0.5, 0.9])
def test_the_evidence_against_the_true_mean_of_scores_is_at_most_one_on_average(middle: float) -> None:
    """Scores of 0, `middle` and 1, half of them the middle one: over all outcomes of two draws."""
    scores, chances = (0.0, middle, 1.0), (0.25, 0.5, 0.25)
    mean = sum(s * c for s, c in zip(scores, chances, strict=True))
    both = [(a + b, c * d) for a, c in zip(scores, chances, strict=True) for b, d in zip(scores, chances, strict=True)]
    assert sum(chance * evidence(total, 2, mean) for total, chance in both) < 1.0


@pytest.mark.parametrize("increase", [-0.3, 0.0, 0.02, 0.15, 0.6])
@pytest.mark.parametrize(("total", "n"), [(0, 30), (3, 30), (12.5, 30), (30, 30), (0, 0)])
def test_the_evidence_against_an_increase_is_the_least_of_all_pairs_of_means(
    total: float, n: float, increase: float
) -> None:
    first, second = sample(total, n), sample(6, 200)
    means = np.linspace(max(0.0, -increase), min(1.0, 1.0 - increase), 20_001)
    pairs = first.log_evidence(np.clip(means + increase, 0, 1)) + second.log_evidence(means)
    least = float(log_evidence(first, second, np.asarray(increase)))
    assert least <= pairs.min() + 1e-9
    assert least == pytest.approx(pairs.min(), abs=1e-2)


@pytest.mark.parametrize("share", [0.03, 0.5])
def test_an_increase_is_held_at_every_look_where_intervals_for_one_look_do_not(share: float) -> None:
    """An increase of 0 and of 10 points, 19 numbers of the second sample to one of the first, 200 analyses."""
    generator = np.random.default_rng(1)
    for increase in (0.0, 0.1):
        first = running((generator.random((500, 200)) < share + increase).astype(np.float64))
        n = np.broadcast_to(np.full(200, 19).cumsum(), (500, 200)).astype(np.float64)
        second = Sums(generator.binomial(19, share, (500, 200)).cumsum(axis=1) * 1.0, n)
        assert missed(first, second, increase, 0.05) <= 0.05
        variance = sum(s.mean * (1 - s.mean) / s.n for s in (first, second))
        outside = np.abs(first.mean - second.mean - increase) > 1.96 * np.sqrt(variance)  # Wald's, for one analysis
        assert outside[:, 30:].any(axis=1).mean() > 0.2


def test_an_increase_of_scores_is_held_at_every_look() -> None:
    generator = np.random.default_rng(2)
    first, second = (running(generator.beta(a, 0.5, (500, 200))) for a in (1.5, 2.0))
    assert missed(first, second, 0.75 - 0.8, 0.05) <= 0.05


def test_sequences_come_together_and_enclose_what_was_seen() -> None:
    widths = []
    for n in (10, 100, 1000, 10_000):
        low, high = difference(sample(n * 0.3, n), sample(n, n * 10), 0.05)
        assert -1 <= low < 0.2 < high <= 1
        widths.append(float(high - low))
    assert widths == sorted(widths, reverse=True)
    assert widths[-1] < 0.05


def test_the_ends_are_where_the_evidence_reaches_its_level() -> None:
    first, second = sample(7, 60), sample(30, 900)
    for end in difference(first, second, 0.01):
        assert float(log_evidence(first, second, end)) == pytest.approx(math.log(100), abs=1e-6)


def test_of_nothing_nothing_is_known() -> None:
    assert [float(end) for end in difference(sample(0, 0), sample(0, 0), 0.05)] == [-1.0, 1.0]
    low, high = difference(sample(0, 0), sample(5, 500), 0.05)
    assert low < -0.01 and high > 0.97


def test_samples_of_zeros_and_ones_alone_have_ends_too() -> None:
    low, high = difference(sample(0, 50), sample(0, 950), 0.05)
    assert -0.02 < low < 0 < high < 0.2
    low, high = difference(sample(50, 50), sample(0, 950), 0.05)
    assert 0.8 < low < high == 1.0


def test_many_samples_in_one_call_are_as_each_alone() -> None:
    totals, counts = np.array([[0.0, 3.5], [9.0, 0.0]]), np.array([[4.0, 20.0], [9.0, 0.0]])
    others = Sums(totals[::-1] * 2, counts[::-1] * 3)
    together = difference(Sums(totals, counts), others, 0.02)
    for index in np.ndindex(totals.shape):
        alone = difference(sample(totals[index], counts[index]), sample(others.total[index], others.n[index]), 0.02)
        assert [float(end[index]) for end in together] == pytest.approx([float(end) for end in alone], abs=1e-9)


def test_a_difference_is_of_the_first_less_the_second() -> None:
    low, high = difference(sample(300, 1000), sample(1000, 10_000), 0.05)
    other_low, other_high = difference(sample(1000, 10_000), sample(300, 1000), 0.05)
    assert 0.1 < low < 0.2 < high < 0.3
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
