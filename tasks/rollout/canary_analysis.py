"""Canary analysis: whether a canary is worse than production on live metrics, by always-valid tests.

It compares the requests that `tasks.rollout.canary_metrics` counts, the first of each user, so that each adds
information to those before it. It returns a verdict and changes nothing.

Each metric has a confidence sequence of the canary's increase over production (see
`tasks.rollout.confidence_sequences`) and a non-inferiority margin. All sequences together hold at all
analyses with probability at least 1 - alpha (Bonferroni: each metric has an equal part of alpha, whether
there are data for it or not), so the analysis may run after every interval and stop at the first
significant outcome:

    breach         some increase is significantly above its margin, however few the requests
    healthy        every increase that is measured is significantly below its margin
    waiting        neither, and the timeout is not over
    inconclusive   neither, and the timeout is over

Healthy needs evidence as a breach does. The criterion "no breach so far" would need fewer requests and
would promote a canary without any traffic. docs/benchmarks.md has the requests that the margins need.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Literal

import pandas as pd

from tasks.core.errors import GraftError
from tasks.core.records import Record
from tasks.core.settings import CanaryAnalysisSettings
from tasks.rollout.canary_metrics import canary_samples, shadow_samples
from tasks.rollout.confidence_sequences import Sums, Values, difference, p_value
from tasks.rollout.incidents import IncidentReport

_DESCRIPTIONS = {
    "errors": "failed requests",
    "slow": "slow answers",
    "refusals": "refusals",
    "policy": "answers that a check or rule replaced",
    "quality": "quality lost",
}
MEASURES = tuple(_DESCRIPTIONS)
CanaryOutcome = Literal["healthy", "breach", "waiting", "inconclusive"]
_BY_SEVERITY = ("breach", "open", "within", "unmeasured")


class MetricComparison(Record):
    """The comparison of one metric between canary and production; its values lie in [0, 1], larger is worse."""

    measure: str
    """Name of the metric, one of `MEASURES`."""
    outcome: Literal["breach", "within", "open", "unmeasured"]
    """Whether the interval is above the margin, below it, around it, or one package has no data."""
    canary: float | None
    """The canary's mean; None without data."""
    production: float | None
    """Production's mean; None without data."""
    n_canary: int
    """Requests of the canary."""
    n_production: int
    """Requests of production."""
    increase: float | None
    """The canary's mean less production's; None if either is."""
    low: float
    """Lower end of the confidence sequence of `increase`."""
    high: float
    """Upper end of the confidence sequence of `increase`."""
    margin: float
    """Non-inferiority margin: the largest increase that is tolerated."""
    p_value: float
    """Always-valid p-value of an increase of no more than `margin`, corrected for the number of metrics, so that
    it is compared with alpha itself."""

    def sentence(self) -> str:
        """The comparison as a sentence for a person."""
        name = _DESCRIPTIONS[self.measure]
        if self.canary is None or self.production is None:
            return f"{name.capitalize()}: not compared, no data from {self._without_data()}."
        position = {"breach": "entirely above", "within": "entirely below"}.get(self.outcome, "which includes")
        return (
            f"{name.capitalize()}: {self.canary:.1%} of {self.n_canary} requests against {self.production:.1%} of "
            f"{self.n_production} in production, an increase of {self.increase:+.3f} "
            f"(always-valid interval {self.low:+.3f} to {self.high:+.3f}), {position} the margin of {self.margin:g}."
        )

    def _without_data(self) -> str:
        return " and ".join(
            name for name, value in (("the canary", self.canary), ("production", self.production)) if value is None
        )


class CanaryVerdict(Record):
    """The verdict of canary analysis on the requests from `start` to `at`."""

    outcome: CanaryOutcome
    """The decision over all metrics."""
    canary: str
    """Digest of the canary or shadow."""
    production: str
    """Digest of the package in production."""
    start: datetime
    """Start of the phase; aware."""
    at: datetime
    """End of the analyzed window; aware."""
    n_canary: int
    """Counted requests of the canary, by whose rate of failures `errors` is measured."""
    n_production: int
    """Counted requests of production, likewise."""
    slow_ms: float | None
    """Latency above which an answer is slow, in ms; None while too few of production's answers are known."""
    measures: tuple[MetricComparison, ...]
    """The comparison of each metric, in the order of `MEASURES`."""
    sentences: tuple[str, ...]
    """The reason of the outcome, then one sentence per metric, the most severe first."""


def analyze_canary(
    rows: pd.DataFrame,
    canary: str,
    production: str,
    start: datetime,
    now: datetime,
    settings: CanaryAnalysisSettings,
    *,
    first_token_s: float,
    unseen: bool = False,
) -> CanaryVerdict:
    """Compare a canary, or a shadow where its answers are `unseen`, with production on the rows from `start` to `now`.

    The analysis may run at any time and as often as wanted, each time with all rows since the same `start`:
    no state is kept between analyses, and none is needed.

    Args:
        rows: telemetry from `tasks.monitoring.telemetry_store.read_window`; see
            `tasks.rollout.canary_metrics.canary_samples`. Include the hour before `start`: production's 95th
            percentile of latency is taken from it.
        canary: digest of the canary or shadow.
        production: digest of the package in production.
        start: when the phase began; aware.
        now: when the window ends; aware.
        settings: margins, alpha, minimum number of requests and timeout.
        first_token_s: deadline of a canary's first token, in seconds, after which another route answers
            instead; a later answer counts as failed, of either package.
        unseen: the package is a shadow; the results of checks and rules on its answers are not known.

    Raises:
        GraftError: both are the same package, a column is missing, or a quality is not in [0, 1].
    """
    if canary == production:
        raise GraftError(f"canary analysis: {canary} is itself in production, so there is nothing to compare")
    window, reference = rows[rows["at"] < now], settings.min_requests
    if unseen:
        samples = shadow_samples(window, canary, production, start, reference)
    else:
        samples = canary_samples(window, canary, production, start, reference, first_token_s)
    measures = tuple(
        compare_metric(name, samples.canary[name], samples.production[name], settings) for name in MEASURES
    )
    n_canary, n_production = measures[0].n_canary, measures[0].n_production
    # Answers are not rated by default, so quality may be absent; the other metrics are in every row of a request.
    optional = ("quality", "policy") if unseen else ("quality",)
    required = [m for m in measures if m.outcome != "unmeasured" or m.measure not in optional]
    outcome, reason = _decide(required, min(n_canary, n_production), (now - start).total_seconds(), settings)
    by_severity = sorted(measures, key=lambda m: _BY_SEVERITY.index(m.outcome))
    return CanaryVerdict(
        outcome=outcome,
        canary=canary,
        production=production,
        start=start,
        at=now,
        n_canary=n_canary,
        n_production=n_production,
        slow_ms=samples.slow_ms,
        measures=measures,
        sentences=(reason, *(measure.sentence() for measure in by_severity)),
    )


def compare_metric(name: str, canary: Values, production: Values, settings: CanaryAnalysisSettings) -> MetricComparison:
    """Compare one metric of canary and production.

    Args:
        name: the metric, one of `MEASURES`.
        canary: a number in [0, 1] per request of the canary [n].
        production: a number in [0, 1] per request of production [n].
        settings: the margin of the metric, and alpha over all metrics.
    """
    margin: float = getattr(settings.margins, name)
    canary_sums, production_sums = Sums.of(canary), Sums.of(production)
    low, high = (float(end) for end in difference(canary_sums, production_sums, settings.alpha / len(MEASURES)))
    means = [float(sums.mean) if sums.n else None for sums in (canary_sums, production_sums)]
    known = None not in means
    return MetricComparison(
        measure=name,
        outcome="unmeasured" if not known else "breach" if low > margin else "within" if high < margin else "open",
        canary=means[0],
        production=means[1],
        n_canary=len(canary),
        n_production=len(production),
        increase=float(canary_sums.mean - production_sums.mean) if known else None,
        low=low,
        high=high,
        margin=margin,
        p_value=min(1.0, len(MEASURES) * float(p_value(canary_sums, production_sums, margin))),
    )


def _decide(
    measures: Sequence[MetricComparison], n: int, elapsed_s: float, settings: CanaryAnalysisSettings
) -> tuple[CanaryOutcome, str]:
    """The outcome and its sentence; `n` is the number of requests of the package that got fewer."""
    outcomes = [measure.outcome for measure in measures]
    if worse := [_DESCRIPTIONS[m.measure] for m in measures if m.outcome == "breach"]:
        return "breach", f"The canary is worse than its margins allow: {', '.join(worse)}."
    if all(outcome == "within" for outcome in outcomes) and n >= settings.min_requests:
        return "healthy", f"All {len(outcomes)} measured increases are below their margins."
    enough = n >= settings.min_requests
    few = "" if enough else f", and at least {settings.min_requests} requests of each package are needed"
    left_s = settings.timeout_s - elapsed_s
    if left_s > 0:
        return "waiting", f"Undecided after {elapsed_s:.0f} s{few}; the timeout is in {left_s:.0f} s."
    return "inconclusive", f"Undecided after {elapsed_s:.0f} s{few}; the timeout of {settings.timeout_s} s is over."


def incident_report(verdict: CanaryVerdict, channel: str, phase: str) -> IncidentReport:
    """The incident report of a breach: the metric with the strongest evidence, and its numbers.

    Raises:
        GraftError: the verdict is no breach.
    """
    over = [measure for measure in verdict.measures if measure.outcome == "breach"]
    if not over:
        raise GraftError(f"canary analysis: {verdict.outcome} is no breach, so there is no incident to report")
    worst = min(over, key=lambda measure: measure.p_value)
    numbers = worst.model_dump(exclude={"measure", "outcome"})
    return IncidentReport(
        what=" ".join(verdict.sentences[: 1 + len(over)]),
        digest=verdict.canary,
        channel=channel,
        phase=phase,
        measure=worst.measure,
        numbers=numbers,
    )
