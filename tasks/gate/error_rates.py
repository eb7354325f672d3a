"""Error rates of the gate, by simulation: how often it calls equal systems better or lets a worse one pass.

It judges no candidate. A simulated evaluation has rows like real ones: a tool call or a refusal is right or
wrong, an answer in words has a token F1. Rows are drawn with replacement from `QUALITIES`. For each drawn
row a system has the quality of that row with probability `agreement`, otherwise that of another row of the
same kind, each system independently: both have the same true quality, and they differ more, row by row, the
lower `agreement` is. A worse system loses some of its answers and a better one gets some right, so that its
true mean quality is off by exactly `shift`. The rules use the gate's own bootstrap, vectorized over all
evaluations.
"""

from __future__ import annotations

import numpy as np

from tasks.core.records import Record
from tasks.core.settings import GateSettings
from tasks.gate.bootstrap import Floats, means, middle, p_of_loss, with_doubt
from tasks.gate.slices import enough_resamples

EVALUATIONS = 1000
"""Number of simulated evaluations."""
GOOD = 0.9
"""Fraction of right answers of the incumbent in a good slice."""
AGREEMENTS = (0.0, 0.7, 0.95, 1.0)
"""From independent systems (rows of a kind are uncorrelated) to equal answers except for the changes by `shift`."""

# fmt: off
_WORDS = (
    0.06, 0.06, 0.07, 0.10, 0.11, 0.11, 0.14, 0.14, 0.15, 0.17, 0.17, 0.20, 0.22, 0.22, 0.24, 0.24, 0.24, 0.25,
    0.25, 0.25, 0.26, 0.29, 0.29, 0.29, 0.30, 0.32, 0.32, 0.33, 0.38, 0.39, 0.40, 0.40, 0.57, 0.67, 0.80,
)
# fmt: on
QUALITIES: dict[str, tuple[float, ...]] = {
    "call": (1.0,) * 37 + (0.0,) * 23,
    "refusal": (1.0,) * 20 + (0.0,) * 9,
    "words": (0.0,) * 30 + _WORDS,
}
"""The qualities of a released candidate on the 154 eval rows of the default data (2026-11-26), by kind of answer."""
_VALUES = np.array([value for values in QUALITIES.values() for value in values])
_SIZES = [len(values) for values in QUALITIES.values()]
_KIND_SIZE = np.repeat(_SIZES, _SIZES)
_KIND_START = np.repeat(np.cumsum(_SIZES) - _SIZES, _SIZES)
MEAN = float(_VALUES.mean())
"""The true quality of a system without a shift."""


class ErrorRates(Record):
    """Fractions of simulated evaluations by their result, for a candidate that is truly better by `shift`."""

    n: int
    """Number of rows of an evaluation."""
    shift: float
    """The candidate's true mean quality minus the incumbent's."""
    agreement: float
    """Probability that a system has the quality of the drawn row."""
    better: float
    """Fraction in which the candidate is called better than the incumbent."""
    passed: float
    """Fraction in which the candidate passes the rule against the incumbent."""
    failed: float
    """Fraction in which the candidate fails the rule against the incumbent."""


class SliceRates(Record):
    """Fractions of simulated evaluations in which slices fail: for two equal systems, and after one slice was lost."""

    slices: int
    """Number of slices."""
    n: int
    """Number of rows of each slice."""
    alarms: float
    """Fraction in which any slice fails while both systems are equal (false alarms)."""
    caught: float
    """Fraction in which the slice fails in which the candidate lost every row."""
    caught_good: float
    """The same where the incumbent answered `GOOD` of that slice right."""


def simulate(shape: tuple[int, ...], shift: float, agreement: float, seed: int) -> tuple[Floats, Floats]:
    """Qualities of candidate and incumbent on the same rows.

    Args:
        shape: shape of both results; the last dimension is rows.
        shift: the candidate's true mean quality minus the incumbent's, from -`MEAN` to 1 - `MEAN`.
        agreement: probability that a system has the quality of the drawn row.
        seed: seed of the random generator.
    """
    generator = np.random.default_rng(seed)
    row = generator.integers(len(_VALUES), size=shape)

    def qualities() -> Floats:
        other = _KIND_START[row] + (generator.random(shape) * _KIND_SIZE[row]).astype(np.int64)
        return np.where(generator.random(shape) < agreement, _VALUES[row], _VALUES[other])

    incumbent, candidate = qualities(), qualities()
    changed = generator.random(shape) < (shift / (1 - MEAN) if shift > 0 else -shift / MEAN)
    return np.where(changed, float(shift > 0), candidate), incumbent


def error_rates(n: int, shift: float, agreement: float, settings: GateSettings) -> ErrorRates:
    """Results of the rule against the incumbent in `EVALUATIONS` simulated evaluations.

    Args:
        n: number of rows of an evaluation.
        shift: the candidate's true mean quality minus the incumbent's.
        agreement: probability that a system has the quality of the drawn row.
        settings: the section `gate` of params.yaml.
    """
    candidate, incumbent = simulate((EVALUATIONS, n), shift, agreement, settings.seed + 1)
    resampled_means = means(with_doubt(candidate - incumbent), settings.resamples, settings.seed)
    low, high = middle(resampled_means, settings.confidence)
    return ErrorRates(
        n=n,
        shift=shift,
        agreement=agreement,
        better=float((low > 0).mean()),
        passed=float((low > -settings.non_inferiority_margin).mean()),
        failed=float((high < -settings.non_inferiority_margin).mean()),
    )


def slice_rates(slices: int, n: int, agreement: float, settings: GateSettings) -> SliceRates:
    """Results of the rule for labels over `slices` slices of `n` rows each.

    Holm's procedure rejects any hypothesis only if the smallest p-value is within its first level, which is
    also the level at which the one lost slice is tested.

    Args:
        slices: number of slices.
        n: number of rows of each slice.
        agreement: probability that a system has the quality of the drawn row.
        settings: the section `gate` of params.yaml.
    """
    candidate, incumbent = simulate((slices, EVALUATIONS, n), 0.0, agreement, settings.seed + 1)
    resamples, level = enough_resamples(slices, settings), (1 - settings.confidence) / slices
    margin = settings.slices.label.non_inferiority_margin
    alarms = np.zeros(EVALUATIONS, dtype=bool)
    for candidate_slice, incumbent_slice in zip(candidate, incumbent, strict=True):
        alarms |= p_of_loss(candidate_slice - incumbent_slice, margin, resamples, settings.seed) <= level

    def caught(qualities: Floats) -> float:
        return float((p_of_loss(-qualities, margin, resamples, settings.seed) <= level).mean())

    good = (np.random.default_rng(settings.seed + 2).random((EVALUATIONS, n)) < GOOD).astype(np.float64)
    return SliceRates(
        slices=slices, n=n, alarms=float(alarms.mean()), caught=caught(incumbent[0]), caught_good=caught(good)
    )
