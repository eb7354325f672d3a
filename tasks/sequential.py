"""Evidence that stays true however often it is looked at: means of numbers in [0, 1], and how two of them differ.

Whoever looks at a running comparison after every interval and stops at the first "significant" one
is wrong far more often than 1 in 20. Here the error is counted over all looks together: with
probability at least 1 - alpha an interval holds the true value at *every* look, whenever one stops.

The evidence against a mean m is a likelihood ratio, mixed over all alternatives by Jeffreys' prior
Beta(1/2, 1/2) (Robbins, Statistical methods related to the law of the iterated logarithm, 1970; the
mixture sequential probability ratio test of Johari et al., Always Valid Inference, 2022):

    E(m) = B(total + 1/2, n - total + 1/2) / B(1/2, 1/2) / (m^total (1 - m)^(n - total))

If m is the mean, E(m) is a martingale that starts at 1, so it ever reaches 1 / alpha with probability
at most alpha (Ville, 1939). Numbers between 0 and 1 make it a supermartingale, for the ratio of a
single number x is convex in x; so one formula serves shares and scores (sub-Bernoulli in Howard et
al., Time-uniform, nonparametric, nonasymptotic confidence sequences, 2021). It is exact for any n:
nothing is approximated by a normal distribution, which is what fails for few and rare events.

It asks of the numbers that each has the same mean, given those before it.
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
"""Halvings of an interval of at most 1: to 1e-12."""


@dataclass(frozen=True)
class Sums:
    """`n` numbers in [0, 1] that add up to `total`. Both are arrays [...] of one shape: a sample for each place."""

    total: Values
    n: Values

    @classmethod
    def of(cls, numbers: Values) -> Sums:
        """The sums of one sample [n], as arrays [] of a single place."""
        return cls(np.asarray(numbers.sum(), dtype=np.float64), np.asarray(numbers.size, dtype=np.float64))

    @property
    def mean(self) -> Values:
        """[...]; 1/2 for an empty sample, of which nothing is known."""
        return np.divide(self.total, self.n, out=np.full(self.n.shape, 0.5), where=self.n > 0)

    def log_evidence(self) -> Callable[[Values], Values]:
        """The natural logarithm of the evidence against a mean, as a function of the mean [...]."""
        rest = np.maximum(self.n - self.total, 0.0)  # a sum of ones may come out above n by its last bit
        mixed = betaln(self.total + _PRIOR, rest + _PRIOR) - betaln(_PRIOR, _PRIOR)
        return lambda mean: mixed - xlogy(self.total, mean) - xlogy(rest, 1.0 - mean)


def bounds(sample: Sums, alpha: float) -> tuple[Values, Values]:
    """The confidence sequence of a mean: its low and high end [...], in [0, 1].

    With probability at least 1 - `alpha` the mean is between them at every look.
    """
    evidence = sample.log_evidence()
    mean = sample.mean
    low, high = (_edge(lambda at: evidence(at) >= -np.log(alpha), end, mean) for end in (0.0, 1.0))
    return low, high


def difference(first: Sums, second: Sums, alpha: float) -> tuple[Values, Values]:
    """The confidence sequence of `first`'s mean less `second`'s: its low and high end [...], in [-1, 1].

    Each mean gets half of `alpha`. Nothing is asked of how many of each there are, or in what order
    they come, so shares of traffic may be unequal and may change on the way.
    """
    (low, high), (other_low, other_high) = bounds(first, alpha / 2), bounds(second, alpha / 2)
    return low - other_high, high - other_low


def p_value(first: Sums, second: Sums, margin: float) -> Values:
    """The always-valid p-value [...] of "`first`'s mean exceeds `second`'s by no more than `margin`".

    It is the least alpha at which `difference` lies above `margin` (to the precision of its ends):
    for any x, either `first`'s mean is at most x + margin or `second`'s is above x, and the x that
    both samples speak against most decides.
    """
    evidence, other = first.log_evidence(), second.log_evidence()
    left, right = second.mean, np.maximum(first.mean - margin, second.mean)

    def against_first(at: Values) -> Values:
        return evidence(np.minimum(at + margin, 1.0))

    at = _edge(lambda x: other(x) < against_first(x), left, right)
    weaker = np.minimum(other(at), against_first(at))
    return np.where(right > left, np.minimum(1.0, 2.0 * np.exp(-weaker)), 1.0)


def _edge(outside: Callable[[Values], NDArray[np.bool_]], start: Values | float, end: Values) -> Values:
    """The last point from `start` towards `end` [...] that is `outside`, as far as halving finds it; else `start`."""
    near, far = np.broadcast_to(np.asarray(start, dtype=np.float64), end.shape), end
    for _ in range(_STEPS):
        middle = (near + far) / 2
        found = outside(middle)
        near, far = np.where(found, middle, near), np.where(found, far, middle)
    return near
