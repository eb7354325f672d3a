"""Confidence sequences: always-valid intervals for the difference of two samples' means of numbers in [0, 1].

Peeking at a p-value after every interval and stopping at the first "significant" one inflates the
false-positive rate far beyond 1 in 20 (optional stopping). Here the error is counted over all analyses
together: with probability at least 1 - alpha an interval contains the true difference at *every* analysis.

The evidence against a mean m is a likelihood ratio, mixed over all alternatives by Jeffreys' prior
Beta(1/2, 1/2) (Robbins, Statistical methods related to the law of the iterated logarithm, 1970; the
mixture sequential probability ratio test of Johari et al., Always Valid Inference, 2022):

    E(m) = B(total + 1/2, n - total + 1/2) / B(1/2, 1/2) / (m^total (1 - m)^(n - total))

If m is the mean, E(m) is a martingale that starts at 1, and so is the product of two samples' ones
at their means, in whatever order and proportion they come. It ever reaches 1 / alpha with probability at
most alpha (Ville, 1939). The evidence against a *difference* is the least product of all pairs of
means that differ by it (as in universal inference: Wasserman, Ramdas and Balakrishnan, 2020), hence
never more than that of the true pair. Numbers between 0 and 1 make it a supermartingale, for the
ratio of a single number x is convex in x; so one formula serves fractions and scores (sub-Bernoulli in
Howard et al., Time-uniform, nonparametric, nonasymptotic confidence sequences, 2021). It is exact
for any n; nothing is approximated by a normal distribution.

The assumption is that each number has the same mean, conditional on those before it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import betaln, xlogy

Values = NDArray[np.float64]
_PRIOR = 0.5
_STEPS = 40
"""Bisection steps on an interval of at most 2, down to 2e-12."""


@dataclass(frozen=True)
class Sums:
    """The sums of samples of numbers in [0, 1]: arrays [...] of one shape, with one sample for each index."""

    total: Values
    """Sum of the numbers [...]."""
    n: Values
    """Count of the numbers [...]."""

    @classmethod
    def of(cls, numbers: Values) -> Sums:
        """The sums of one sample [n], as arrays []."""
        return cls(np.asarray(numbers.sum(), dtype=np.float64), np.asarray(numbers.size, dtype=np.float64))

    @property
    def rest(self) -> Values:
        """`n` less `total` [...], at least 0: a sum of ones may come out above `n` by its last bit."""
        return np.maximum(self.n - self.total, 0.0)

    @property
    def mean(self) -> Values:
        """The mean [...]; 1/2 for an empty sample, of which nothing is known."""
        return np.divide(self.total, self.n, out=np.full(self.n.shape, 0.5), where=self.n > 0)

    def log_evidence(self, mean: Values) -> Values:
        """The natural logarithm of the evidence against a mean in [0, 1] [...]."""
        mixed = betaln(self.total + _PRIOR, self.rest + _PRIOR) - betaln(_PRIOR, _PRIOR)
        return mixed - xlogy(self.total, mean) - xlogy(self.rest, 1.0 - mean)

    def slope(self, mean: Values) -> Values:
        """The derivative of the log-likelihood by the mean [...]."""
        return self.total / mean - self.rest / (1.0 - mean)


def log_evidence(first: Sums, second: Sums, increase: Values) -> Values:
    """The natural logarithm of the evidence against "`first`'s mean is `second`'s plus `increase`" [...].

    The log-likelihood is concave in the two means, so bisection finds its maximum on the line, and the evidence
    only grows from the observed increase outward.
    """
    low, high = np.maximum(0.0, -increase), np.minimum(1.0, 1.0 - increase)

    def shifted(mean: Values) -> Values:
        return np.clip(mean + increase, 0.0, 1.0)

    def rises(mean: Values) -> NDArray[np.bool_]:
        return first.slope(shifted(mean)) + second.slope(mean) > 0

    with np.errstate(divide="ignore", invalid="ignore"):  # at 0 and 1
        likeliest = _edge(rises, low, high)
    return first.log_evidence(shifted(likeliest)) + second.log_evidence(likeliest)


def difference(first: Sums, second: Sums, alpha: float) -> tuple[Values, Values]:
    """The confidence sequence of `first`'s mean less `second`'s: its low and high end [...], in [-1, 1].

    With probability at least 1 - `alpha` the difference is between them at every analysis.
    """
    observed = first.mean - second.mean

    def excluded(increase: Values) -> NDArray[np.bool_]:
        return log_evidence(first, second, increase) >= -np.log(alpha)

    low = _edge(excluded, np.full_like(observed, -1.0), observed)
    return low, _edge(excluded, np.full_like(observed, 1.0), observed)


def p_value(first: Sums, second: Sums, margin: float) -> Values:
    """The always-valid p-value [...] of "`first`'s mean exceeds `second`'s by no more than `margin`".

    It is the least alpha at which `difference` lies above `margin`, to the precision of its ends.
    """
    observed = first.mean - second.mean
    evidence = log_evidence(first, second, np.full_like(observed, margin))
    return np.where(observed > margin, np.exp(-np.maximum(evidence, 0.0)), 1.0)


def _edge(outside: Callable[[Values], NDArray[np.bool_]], start: Values, end: Values) -> Values:
    """The last point from `start` toward `end` [...] that is `outside`, found by bisection; else `start`."""
    near, far = np.asarray(start), np.asarray(end)
    for _ in range(_STEPS):
        middle = (near + far) / 2
        still_outside = outside(middle)
        near, far = np.where(still_outside, middle, near), np.where(still_outside, far, middle)
    return near
