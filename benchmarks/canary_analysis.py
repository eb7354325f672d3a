"""Benchmark of canary analysis: its error rates and sample sizes, by its own statistics on simulated traffic.

    python -m benchmarks.canary_analysis

Each request is assigned to one of the packages by the canary's weight, and every metric of
every request is drawn by its rate. All metrics are rates here; for a mean in [0, 1] that is the worst case.
The last line is one JSON object.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tasks.core.settings import CanaryAnalysisSettings, load_settings
from tasks.rollout.canary_analysis import MEASURES
from tasks.rollout.confidence_sequences import Sums, Values, p_value

Rates = Mapping[str, float]
USUAL: Rates = {"errors": 0.01, "slow": 0.05, "refusals": 0.15, "policy": 0.05, "quality": 0.4}
"""The packages' rate of each metric, larger is worse; the quality is 0.6."""
RARE: Rates = {**dict.fromkeys(USUAL, 0.01), "slow": 0.05}
"""The same for packages with rare errors, refusals and bad answers."""
WEIGHTS = (0.05, 0.25, 0.5)
"""The canary's fractions of the traffic."""
_RUNS = 300
_QUANTILES = (0.5, 0.9)
Flags = NDArray[np.bool_]


@dataclass(frozen=True)
class Traffic:
    """The traffic of a simulated phase."""

    weight: float
    """The canary's fraction of the traffic, in [0, 1]."""
    looks: int
    """Number of analyses."""
    per_look: int
    """New requests at each analysis."""
    per_customer: int = 1
    """Requests of each user, all with the same result, of which canary analysis counts the first."""


@dataclass(frozen=True)
class Looks:
    """The outcome of each analysis of each run [runs, analyses], as if the run did not stop before."""

    breach: Flags
    """Whether it is a breach."""
    healthy: Flags
    """Whether it is healthy."""


def simulate(
    canary: Rates, production: Rates, traffic: Traffic, settings: CanaryAnalysisSettings, runs: int, seed: int
) -> Looks:
    """Simulate the analysis of a canary beside production.

    Args:
        canary: the canary's rate of each metric.
        production: production's rate of each metric.
        traffic: number of requests, and the canary's fraction.
        settings: margins, alpha and minimum number of requests.
        runs: number of simulated phases.
        seed: seed of the random numbers.
    """
    generator = np.random.default_rng(seed)
    users = traffic.per_look // traffic.per_customer
    canary_users = generator.binomial(users, traffic.weight, size=(runs, traffic.looks))
    breach = np.zeros(canary_users.shape, dtype=np.bool_)
    healthy = canary_users.cumsum(axis=1) >= settings.min_requests
    for name in MEASURES:
        canary_sums = _running_sums(generator, canary_users, canary[name])
        production_sums = _running_sums(generator, users - canary_users, production[name])
        margin: float = getattr(settings.margins, name)
        breach |= p_value(canary_sums, production_sums, margin) < settings.alpha / len(MEASURES)
        healthy &= p_value(production_sums, canary_sums, -margin) < settings.alpha / len(MEASURES)
    return Looks(breach, healthy)


def _running_sums(generator: np.random.Generator, users: NDArray[np.int64], rate: float) -> Sums:
    """The sums at each analysis, by the number of new users at each [runs, analyses]."""
    hits: Values = generator.binomial(users, rate).cumsum(axis=1).astype(np.float64)
    return Sums(hits, users.cumsum(axis=1).astype(np.float64))


def ever(flags: Flags) -> float:
    """The fraction of runs with the outcome at any analysis."""
    return float(flags.any(axis=1).mean())


def requests_until(flags: Flags, per_look: int) -> tuple[int | None, ...]:
    """The requests of both packages until the first analysis with the outcome: median and 90% quantile.

    None where too few runs reach it.
    """
    first = np.where(flags.any(axis=1), (flags.argmax(axis=1) + 1) * float(per_look), np.inf)
    quantiles = np.quantile(first, _QUANTILES, method="higher")
    return tuple(int(q) if np.isfinite(q) else None for q in quantiles)


def worse(by: Rates) -> dict[str, float]:
    """The usual rates, each raised by its value in `by`."""
    return {name: rate + by.get(name, 0.0) for name, rate in USUAL.items()}


def false_alarms(settings: CanaryAnalysisSettings, runs: int, per_customer: int = 1) -> dict[str, float]:
    """The fraction of runs with a breach within 50 analyses of 200 requests each, by kind of canary and its weight.

    `equal` has production's rates; `at the margins` is worse by exactly the margin, in all metrics.
    """
    margins = settings.margins.model_dump()
    return {
        f"{name}, {weight:.0%}": ever(
            simulate(rates, USUAL, Traffic(weight, 50, 200, per_customer), settings, runs, seed=7).breach
        )
        for name, rates in (("equal", dict(USUAL)), ("at the margins", worse(margins)))
        for weight in WEIGHTS
    }


def until_breach(
    settings: CanaryAnalysisSettings, runs: int, measure: str, by: float, per_customer: int = 1
) -> dict[str, tuple[int | None, ...]]:
    """The requests until a worse canary is a breach, by its weight.

    Args:
        settings: margins, alpha and minimum number of requests.
        runs: number of simulated phases.
        measure: the metric in which the canary is worse.
        by: the increase of the metric.
        per_customer: requests of each user.
    """
    result = {}
    for weight, users in zip(WEIGHTS, (100, 25, 20), strict=True):
        traffic = Traffic(weight, 100, users * per_customer, per_customer)
        looks = simulate(worse({measure: by}), USUAL, traffic, settings, runs, seed=8)
        result[f"{weight:.0%}"] = requests_until(looks.breach, traffic.per_look)
    return result


def until_healthy(settings: CanaryAnalysisSettings, runs: int, rates: Rates) -> dict[str, tuple[int | None, ...]]:
    """The requests until a canary with production's rates is healthy, by its weight."""
    return {
        f"{weight:.0%}": requests_until(
            simulate(rates, rates, Traffic(weight, 50, per_look), settings, runs, seed=9).healthy, per_look
        )
        for weight, per_look in zip(WEIGHTS, (4000, 1000, 500), strict=True)
    }


def main() -> None:
    """Print the results of each table as soon as they are complete, then all as one JSON object."""
    settings = load_settings().canary_analysis
    tables: dict[str, Callable[[], Mapping[str, Any]]] = {
        "false_alarms": partial(false_alarms, settings, _RUNS),
        "errors_0.1": partial(until_breach, settings, _RUNS, "errors", 0.10),
        "errors_0.3": partial(until_breach, settings, _RUNS, "errors", 0.30),
        "refusals_0.2": partial(until_breach, settings, _RUNS, "refusals", 0.20),
        "slow_0.3": partial(until_breach, settings, _RUNS, "slow", 0.30),
        "healthy": partial(until_healthy, settings, _RUNS, USUAL),
        "healthy_rare": partial(until_healthy, settings, _RUNS, RARE),
        "false_alarms_5_per_customer": partial(false_alarms, settings, _RUNS, per_customer=5),
        "errors_0.1_5_per_customer": partial(until_breach, settings, _RUNS, "errors", 0.10, per_customer=5),
    }
    results = {}
    for name, measure in tables.items():
        results[name] = measure()
        print(name, json.dumps(results[name]), flush=True)
    print(json.dumps(results))


if __name__ == "__main__":
    main()
