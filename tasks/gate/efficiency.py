"""What the candidate costs beside another system: time to the first token, time per token, memory.

Machines differ, so there are no limits in seconds: both systems answered the same rows in the same
run, and their ratio has a limit. The interval says how far the ratio depends on the rows; it does
not know that the machine may have been busier in one system's minutes than in the other's.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from tasks.core.errors import GraftError
from tasks.core.records import Record
from tasks.core.settings import EfficiencyMetric, GateSettings
from tasks.gate.bootstrap import Floats, draws, middle
from tasks.gate.comparison import GateOutcome, RuleFinding

COLUMNS = ("first_token_ms", "latency_ms", "decoded_tokens", "peak_memory_mb")

Indexes = NDArray[np.int64]


class EfficiencyComparison(Record):
    """A figure of the candidate's and another system's, and their `ratio` with its bootstrap interval.

    `peak_memory_mb` is measured once for all rows, so its interval is a point.
    """

    name: EfficiencyMetric
    against: str
    candidate: float
    other: float
    ratio: float
    low: float
    high: float


def _column(system: pd.DataFrame, name: str, drawn: Indexes) -> Floats:
    return system[name].to_numpy(dtype=np.float64)[drawn]


def first_token_ms(system: pd.DataFrame, drawn: Indexes) -> Floats:
    """The 95th percentile of the rows at `drawn` [..., n]."""
    return np.asarray(np.quantile(_column(system, "first_token_ms", drawn), 0.95, axis=-1))


def ms_per_token(system: pd.DataFrame, drawn: Indexes) -> Floats:
    """Milliseconds of answering per token of the answers at `drawn` [..., n]: tokens per second upside down."""
    tokens = _column(system, "decoded_tokens", drawn).sum(axis=-1)
    return np.asarray(_column(system, "latency_ms", drawn).sum(axis=-1) / np.maximum(tokens, 1))


def peak_memory_mb(system: pd.DataFrame, drawn: Indexes) -> Floats:
    """What the system's process held at most."""
    return np.asarray(_column(system, "peak_memory_mb", drawn).max(axis=-1))


_FIGURES: dict[EfficiencyMetric, tuple[Callable[[pd.DataFrame, Indexes], Floats], str]] = {
    "first_token_ms": (
        first_token_ms,
        "The 95th percentile of the time to the first token is {:.0f} ms against the {}'s {:.0f}",
    ),
    "ms_per_token": (ms_per_token, "A token takes {:.1f} ms against the {}'s {:.1f}"),
    "peak_memory_mb": (peak_memory_mb, "The peak of memory is {:.0f} MB against the {}'s {:.0f}"),
}


def compare_efficiency(
    candidate: pd.DataFrame, other: pd.DataFrame, against: str, settings: GateSettings
) -> tuple[list[EfficiencyComparison], list[RuleFinding]]:
    """Measure what has a limit in `settings.max_ratio`, and hold it to that.

    Args:
        candidate, other: rows of the two systems in the same order, with `COLUMNS`.

    Raises:
        GraftError: a time or a memory is not above 0.
    """
    for system in (candidate, other):
        _check(system)
    costs = [_comparison(name, candidate, other, against, settings) for name in settings.max_ratio]
    return costs, [_limited(cost, settings) for cost in costs]


def _check(system: pd.DataFrame) -> None:
    for name in ("first_token_ms", "latency_ms", "peak_memory_mb"):
        wrong = ~(pd.to_numeric(system[name], errors="coerce") > 0)
        if wrong.any():
            raise GraftError(
                f"evaluation rows: {name} of row {system.index[wrong][0]} is not a number above 0; "
                "run the stage `evaluate` again"
            )


def _comparison(
    name: EfficiencyMetric, candidate: pd.DataFrame, other: pd.DataFrame, against: str, settings: GateSettings
) -> EfficiencyComparison:
    figure, _ = _FIGURES[name]
    everything = np.arange(len(candidate))
    ours, theirs = float(figure(candidate, everything)), float(figure(other, everything))
    drawn = draws(len(candidate), settings.resamples, settings.seed)
    low, high = middle(figure(candidate, drawn) / figure(other, drawn), settings.confidence)
    return EfficiencyComparison(
        name=name,
        against=against,
        candidate=ours,
        other=theirs,
        ratio=ours / theirs,
        low=float(low),
        high=float(high),
    )


def _limited(cost: EfficiencyComparison, settings: GateSettings) -> RuleFinding:
    allowed = settings.max_ratio[cost.name]
    outcome: GateOutcome = "pass" if cost.high <= allowed else "fail" if cost.low > allowed else "inconclusive"
    told = _FIGURES[cost.name][1].format(cost.candidate, cost.against, cost.other)
    again = "" if outcome == "pass" else " If the machine was busy: `dvc repro --force --single-item evaluate`."
    return outcome, (
        f"{told}, {cost.ratio:.2f} times as much ({settings.confidence:.0%} interval {cost.low:.2f} to "
        f"{cost.high:.2f}); at most {allowed:g} times is allowed.{again}"
    )
