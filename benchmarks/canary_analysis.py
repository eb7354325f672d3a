"""The guard's own error rates, and how many requests it needs: simulated traffic, the guard's own statistics.

    python -m benchmarks.canary_analysis

Requests are drawn one by one for one of the packages, with the canary's weight, and every measure of
every request by its rate. All measures are shares here; for a mean in [0, 1] that is the worst case.
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
"""What the packages are like, as bad as each measure says; a quality of 0.6."""
RARE: Rates = {**dict.fromkeys(USUAL, 0.01), "slow": 0.05}
"""The same of packages that hardly refuse, fail or disappoint."""
WEIGHTS = (0.05, 0.25, 0.5)
_RUNS = 300
_QUANTILES = (0.5, 0.9)
Flags = NDArray[np.bool_]


@dataclass(frozen=True)
class Traffic:
    """How much is seen: at each of `looks`, `per_look` more requests, of which the canary gets the share `weight`.

    Each customer asks `per_customer` requests that all end alike, of which the guard counts the first.
    """

    weight: float
    looks: int
    per_look: int
    per_customer: int = 1


@dataclass(frozen=True)
class Looks:
    """What the guard says at each look of each run [runs, looks], were it not stopped before."""

    breach: Flags
    healthy: Flags


def simulate(
    canary: Rates, production: Rates, traffic: Traffic, settings: CanaryAnalysisSettings, runs: int, seed: int
) -> Looks:
    """Watch a canary with the given rates of each measure beside production, `runs` times."""
    generator = np.random.default_rng(seed)
    customers = traffic.per_look // traffic.per_customer
    tried = generator.binomial(customers, traffic.weight, size=(runs, traffic.looks))
    breach = np.zeros(tried.shape, dtype=np.bool_)
    healthy = tried.cumsum(axis=1) >= settings.min_requests
    for name in MEASURES:
        ours = _seen(generator, tried, canary[name])
        theirs = _seen(generator, customers - tried, production[name])
        margin: float = getattr(settings.margins, name)
        breach |= p_value(ours, theirs, margin) < settings.alpha / len(MEASURES)
        healthy &= p_value(theirs, ours, -margin) < settings.alpha / len(MEASURES)
    return Looks(breach, healthy)


def _seen(generator: np.random.Generator, customers: NDArray[np.int64], rate: float) -> Sums:
    """All that was counted by each look, of so many new customers at each [runs, looks]."""
    hits: Values = generator.binomial(customers, rate).cumsum(axis=1).astype(np.float64)
    return Sums(hits, customers.cumsum(axis=1).astype(np.float64))


def ever(flags: Flags) -> float:
    """The share of runs in which it was said at any look."""
    return float(flags.any(axis=1).mean())


def requests_until(flags: Flags, per_look: int) -> tuple[int | None, ...]:
    """The requests, of both packages, until it was first said: median and 90%; None where too few runs say it."""
    first = np.where(flags.any(axis=1), (flags.argmax(axis=1) + 1) * float(per_look), np.inf)
    quantiles = np.quantile(first, _QUANTILES, method="higher")
    return tuple(int(q) if np.isfinite(q) else None for q in quantiles)


def worse(by: Rates) -> dict[str, float]:
    """The usual rates, some of them higher by so much."""
    return {name: rate + by.get(name, 0.0) for name, rate in USUAL.items()}


def false_alarms(settings: CanaryAnalysisSettings, runs: int, per_customer: int = 1) -> dict[str, float]:
    """The share of runs with a breach within 50 looks at 200 requests, by what the canary is like and its weight.

    `equal` is as production; `at the margins` is worse by exactly what is tolerated, in all measures.
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
    """The requests until a canary whose `measure` is worse by `by` is found out, by its weight."""
    found = {}
    for weight, customers in zip(WEIGHTS, (100, 25, 20), strict=True):
        traffic = Traffic(weight, 100, customers * per_customer, per_customer)
        looks = simulate(worse({measure: by}), USUAL, traffic, settings, runs, seed=8)
        found[f"{weight:.0%}"] = requests_until(looks.breach, traffic.per_look)
    return found


def until_healthy(settings: CanaryAnalysisSettings, runs: int, rates: Rates) -> dict[str, tuple[int | None, ...]]:
    """The requests until a canary that is as production, with these rates, is called healthy, by its weight."""
    return {
        f"{weight:.0%}": requests_until(
            simulate(rates, rates, Traffic(weight, 50, per_look), settings, runs, seed=9).healthy, per_look
        )
        for weight, per_look in zip(WEIGHTS, (4000, 1000, 500), strict=True)
    }


def main() -> None:
    """Print each table's figures as soon as they are there, then all as one JSON object."""
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
    found = {}
    for name, measure in tables.items():
        found[name] = measure()
        print(name, json.dumps(found[name]), flush=True)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
