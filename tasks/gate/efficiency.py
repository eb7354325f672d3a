"""Efficiency regression of the candidate against another system: time to first token, time per token, peak memory.

Machines differ, so there are no limits in seconds: both systems answered the same rows in the same
run, and their ratio has a limit. The interval shows how much the ratio depends on the rows; it does not
cover that the machine may have been busier while one of the systems ran.
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
    """One efficiency metric of the candidate compared with another system's."""

    name: EfficiencyMetric
    """The metric; its unit is in its name (milliseconds, MB)."""
    against: str
    """The other system: `base` or `incumbent`."""
    candidate: float
    """The candidate's value."""
    other: float
    """The other system's value."""
    ratio: float
    """`candidate` / `other`."""
    low: float
    """Low end of the bootstrap interval of `ratio`. `peak_memory_mb` is measured once for all rows, so its interval
    is a point."""
    high: float
    """High end of that interval."""


def _column(system: pd.DataFrame, name: str, rows: Indexes) -> Floats:
    return system[name].to_numpy(dtype=np.float64)[rows]


def first_token_ms(system: pd.DataFrame, rows: Indexes) -> Floats:
    """The 95th percentile of the time to first token over the rows with indices `rows` [..., n], in milliseconds."""
    return np.asarray(np.quantile(_column(system, "first_token_ms", rows), 0.95, axis=-1))


def ms_per_token(system: pd.DataFrame, rows: Indexes) -> Floats:
    """Milliseconds of latency per decoded token (the inverse of tokens per second) over the rows `rows` [..., n]."""
    tokens = _column(system, "decoded_tokens", rows).sum(axis=-1)
    return np.asarray(_column(system, "latency_ms", rows).sum(axis=-1) / np.maximum(tokens, 1))


def peak_memory_mb(system: pd.DataFrame, rows: Indexes) -> Floats:
    """Peak memory of the system's process over the rows `rows` [..., n], in MB."""
    return np.asarray(_column(system, "peak_memory_mb", rows).max(axis=-1))


_METRICS: dict[EfficiencyMetric, tuple[Callable[[pd.DataFrame, Indexes], Floats], str]] = {
    "first_token_ms": (
        first_token_ms,
        "The 95th percentile of the time to the first token is {:.0f} ms against the {}'s {:.0f}",
    ),
    "ms_per_token": (ms_per_token, "A token takes {:.1f} ms against the {}'s {:.1f}"),
    "peak_memory_mb": (peak_memory_mb, "Peak memory is {:.0f} MB against the {}'s {:.0f}"),
}


def compare_efficiency(
    candidate: pd.DataFrame, other: pd.DataFrame, against: str, settings: GateSettings
) -> tuple[list[EfficiencyComparison], list[RuleFinding]]:
    """Compare the metrics that have a limit in `settings.max_ratio`, and check each ratio against its limit.

    Args:
        candidate: rows of the candidate, with `COLUMNS`.
        other: rows of the other system in the same order, with `COLUMNS`.
        against: name of the other system.
        settings: the section `gate` of params.yaml.

    Raises:
        GraftError: a time or a memory is not above 0.
    """
    for system in (candidate, other):
        _check(system)
    comparisons = [_comparison(name, candidate, other, against, settings) for name in settings.max_ratio]
    return comparisons, [_check_limit(comparison, settings) for comparison in comparisons]


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
    metric, _ = _METRICS[name]
    all_rows = np.arange(len(candidate))
    candidate_value, other_value = float(metric(candidate, all_rows)), float(metric(other, all_rows))
    resamples = draws(len(candidate), settings.resamples, settings.seed)
    low, high = middle(metric(candidate, resamples) / metric(other, resamples), settings.confidence)
    return EfficiencyComparison(
        name=name,
        against=against,
        candidate=candidate_value,
        other=other_value,
        ratio=candidate_value / other_value,
        low=float(low),
        high=float(high),
    )


def _check_limit(metric: EfficiencyComparison, settings: GateSettings) -> RuleFinding:
    limit = settings.max_ratio[metric.name]
    outcome: GateOutcome = "pass" if metric.high <= limit else "fail" if metric.low > limit else "inconclusive"
    values = _METRICS[metric.name][1].format(metric.candidate, metric.against, metric.other)
    again = "" if outcome == "pass" else " If the machine was busy: `dvc repro --force --single-item evaluate`."
    return outcome, (
        f"{values}, {metric.ratio:.2f} times as much ({settings.confidence:.0%} interval {metric.low:.2f} to "
        f"{metric.high:.2f}); at most {limit:g} times is allowed.{again}"
    )
