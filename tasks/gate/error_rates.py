"""How often the gate errs, by simulation: it calls equal systems better, or lets a worse one pass. It judges nothing.

A simulated evaluation has rows like real ones: a tool call or a refusal is right or wrong, words have a
token F1. Rows are drawn with replacement from `QUALITIES`. Of each drawn row a system has the quality
that stands there with probability `alike`, else that of another row of the same kind, each system for
itself: both have the same true quality, and differ row by row the more, the lower `alike` is. A worse
system loses some of its answers, a better one gets some right, so that its true mean quality is off by
`shift` exactly. The rules are asked with the gate's own bootstrap, all evaluations at once.
"""

from __future__ import annotations

import numpy as np

from tasks.core.records import Record
from tasks.core.settings import GateSettings
from tasks.gate.bootstrap import Floats, means, middle, p_of_loss, with_doubt
from tasks.gate.slices import enough_resamples

EVALUATIONS = 1000
GOOD = 0.9
ALIKE = (0.0, 0.7, 0.95, 1.0)
"""From strangers (rows of a kind are not correlated at all) to the same answers but for what `shift` changes."""

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
"""Of the 154 eval rows of the default data, as a released candidate answered them (2026-11-26)."""
_VALUES = np.array([value for values in QUALITIES.values() for value in values])
_SIZES = [len(values) for values in QUALITIES.values()]
_KIND_SIZE = np.repeat(_SIZES, _SIZES)
_KIND_START = np.repeat(np.cumsum(_SIZES) - _SIZES, _SIZES)
MEAN = float(_VALUES.mean())
"""The true quality of a system without a shift."""


class ErrorRates(Record):
    """Shares of simulated evaluations of `n` rows, of a candidate that is better by `shift` in truth.

    `better`: it is called better than the incumbent. `passed`, `failed`: by the rule against the incumbent.
    """

    n: int
    shift: float
    alike: float
    better: float
    passed: float
    failed: float


class SliceRates(Record):
    """Of simulated evaluations of `slices` slices of `n` rows each, two equal systems, one slice then lost.

    `alarms`: any slice fails while both are equal. `caught`: the one fails in which the candidate lost all,
    and `caught_good`, where the incumbent had `GOOD` of it right.
    """

    slices: int
    n: int
    alarms: float
    caught: float
    caught_good: float


def simulate(shape: tuple[int, ...], shift: float, alike: float, seed: int) -> tuple[Floats, Floats]:
    """Qualities of candidate and incumbent on the same rows, each of `shape`, the last dimension being rows.

    Args:
        shift: the candidate's true mean quality less the incumbent's, from -`MEAN` to 1 - `MEAN`.
    """
    generator = np.random.default_rng(seed)
    place = generator.integers(len(_VALUES), size=shape)

    def answered() -> Floats:
        other = _KIND_START[place] + (generator.random(shape) * _KIND_SIZE[place]).astype(np.int64)
        return np.where(generator.random(shape) < alike, _VALUES[place], _VALUES[other])

    incumbent, candidate = answered(), answered()
    changed = generator.random(shape) < (shift / (1 - MEAN) if shift > 0 else -shift / MEAN)
    return np.where(changed, float(shift > 0), candidate), incumbent


def error_rates(n: int, shift: float, alike: float, settings: GateSettings) -> ErrorRates:
    """What the rule against the incumbent does to `EVALUATIONS` simulated evaluations of `n` rows."""
    candidate, incumbent = simulate((EVALUATIONS, n), shift, alike, settings.seed + 1)
    drawn = means(with_doubt(candidate - incumbent), settings.resamples, settings.seed)
    low, high = middle(drawn, settings.confidence)
    return ErrorRates(
        n=n,
        shift=shift,
        alike=alike,
        better=float((low > 0).mean()),
        passed=float((low > -settings.non_inferiority_margin).mean()),
        failed=float((high < -settings.non_inferiority_margin).mean()),
    )


def slice_rates(slices: int, n: int, alike: float, settings: GateSettings) -> SliceRates:
    """What the rule for labels does where each of `slices` has `n` rows.

    Holm's procedure rejects anything at all just if the smallest p-value is at its first level, which
    is also the level at which the one lost slice is looked for.
    """
    candidate, incumbent = simulate((slices, EVALUATIONS, n), 0.0, alike, settings.seed + 1)
    resamples, level = enough_resamples(slices, settings), (1 - settings.confidence) / slices
    allowed = settings.slices.label.non_inferiority_margin
    alarmed = np.zeros(EVALUATIONS, dtype=bool)
    for ours, theirs in zip(candidate, incumbent, strict=True):
        alarmed |= p_of_loss(ours - theirs, allowed, resamples, settings.seed) <= level

    def caught(qualities: Floats) -> float:
        return float((p_of_loss(-qualities, allowed, resamples, settings.seed) <= level).mean())

    good = (np.random.default_rng(settings.seed + 2).random((EVALUATIONS, n)) < GOOD).astype(np.float64)
    return SliceRates(
        slices=slices, n=n, alarms=float(alarmed.mean()), caught=caught(incumbent[0]), caught_good=caught(good)
    )
