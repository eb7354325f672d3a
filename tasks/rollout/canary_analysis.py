"""The guard: is the canary worse than production, on the requests that both got? It judges; it acts on nothing.

Requests are those that `tasks.rollout.canary_metrics` counts, the first of each customer: so each is
news, given those before.

Per measure there is a confidence sequence of the canary's increase over production (see
`tasks.rollout.confidence_sequences`), and a margin that is tolerated. All sequences together hold at all looks with
probability at least 1 - alpha (Bonferroni: each measure has an equal part of alpha, whether there are
numbers for it or not), so one may look after every interval and stop at the first clear answer:

    breach         some increase is above its margin for certain, however few the requests
    healthy        every increase that is measured is below its margin for certain
    waiting        neither, before the timeout
    inconclusive   neither, and there is none

Healthy needs evidence as a breach does. "No breach was seen" would be cheaper and would promote a
canary that nobody asked anything; what the margins cost in requests is in docs/guard.md.
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

_WORDS = {
    "errors": "failed requests",
    "slow": "slow answers",
    "refusals": "refusals",
    "policy": "answers that a check or rule replaced",
    "quality": "quality lost",
}
MEASURES = tuple(_WORDS)
CanaryOutcome = Literal["healthy", "breach", "waiting", "inconclusive"]
_BY_SEVERITY = ("breach", "open", "within", "unmeasured")


class MetricComparison(Record):
    """One measure's means over both packages' requests, in [0, 1], larger is worse; None where there are none.

    `low` to `high` is the confidence sequence of `increase`, the canary's mean less production's;
    `p_value`, always valid, speaks against an increase of no more than `margin`. It is corrected for
    the number of measures, so it is compared with alpha itself.
    """

    measure: str
    outcome: Literal["breach", "within", "open", "unmeasured"]
    canary: float | None
    production: float | None
    n_canary: int
    n_production: int
    increase: float | None
    low: float
    high: float
    margin: float
    p_value: float

    def sentence(self) -> str:
        name = _WORDS[self.measure]
        if self.canary is None or self.production is None:
            return f"{name.capitalize()}: not compared, there are no numbers of {self._without()}."
        place = {"breach": "all of it above", "within": "all of it below"}.get(self.outcome, "so not told from")
        return (
            f"{name.capitalize()}: {self.canary:.1%} of {self.n_canary} against {self.production:.1%} of "
            f"{self.n_production} in production, an increase of {self.increase:+.3f} "
            f"({self.low:+.3f} to {self.high:+.3f}, at every look), {place} the margin of {self.margin:g}."
        )

    def _without(self) -> str:
        return " and ".join(
            name for name, value in (("the canary", self.canary), ("production", self.production)) if value is None
        )


class CanaryVerdict(Record):
    """What the requests from `start` to `at` say of two packages, one sentence per finding, the serious first.

    `n_canary` and `n_production` are the counted requests that either failed or did not. `slow_ms` is what an
    answer is slow beyond, None as long as too few of production's are known.
    """

    outcome: CanaryOutcome
    canary: str
    production: str
    start: datetime
    at: datetime
    n_canary: int
    n_production: int
    slow_ms: float | None
    measures: tuple[MetricComparison, ...]
    sentences: tuple[str, ...]


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

    Look as often as wanted, each time with all rows since the same `start`: nothing is remembered
    between looks, and nothing needs to be.

    Args:
        rows: telemetry, as `tasks.monitoring.telemetry_store.read_window` gives it; see
            `tasks.rollout.canary_metrics.compared`. The hour before `start` is worth having: production's 95th
            percentile is taken from it.
        canary: the digest on trial.
        production: the digest that it is compared with.
        start: when the phase began; aware.
        now: when the window ends; aware.
        settings: margins, alpha and timeout.
        first_token_s: how long a canary is waited for before another route answers in its place; an
            answer that begins later counts as failed, whoever gave it.
        unseen: the package is a shadow; what checks and rules say of its answers is not known.

    Raises:
        GraftError: both are the same package, a column is missing, or a quality is not in [0, 1].
    """
    if canary == production:
        raise GraftError(f"guard: the canary {canary} is what is in production; there is nothing to compare")
    seen, reference = rows[rows["at"] < now], settings.min_requests
    if unseen:
        arms = shadow_samples(seen, canary, production, start, reference)
    else:
        arms = canary_samples(seen, canary, production, start, reference, first_token_s)
    measures = tuple(compare_metric(name, arms.canary[name], arms.production[name], settings) for name in MEASURES)
    n_canary, n_production = measures[0].n_canary, measures[0].n_production
    # Nobody judges every answer, so quality may be absent; the others are in every row of a request.
    absent = ("quality", "policy") if unseen else ("quality",)
    needed = [m for m in measures if m.outcome != "unmeasured" or m.measure not in absent]
    outcome, reason = _outcome(needed, min(n_canary, n_production), (now - start).total_seconds(), settings)
    by_severity = sorted(measures, key=lambda m: _BY_SEVERITY.index(m.outcome))
    return CanaryVerdict(
        outcome=outcome,
        canary=canary,
        production=production,
        start=start,
        at=now,
        n_canary=n_canary,
        n_production=n_production,
        slow_ms=arms.slow_ms,
        measures=measures,
        sentences=(reason, *(measure.sentence() for measure in by_severity)),
    )


def compare_metric(name: str, canary: Values, production: Values, settings: CanaryAnalysisSettings) -> MetricComparison:
    """One measure, from a number in [0, 1] per request of either package [n]."""
    margin: float = getattr(settings.margins, name)
    ours, theirs = Sums.of(canary), Sums.of(production)
    low, high = (float(end) for end in difference(ours, theirs, settings.alpha / len(MEASURES)))
    means = [float(side.mean) if side.n else None for side in (ours, theirs)]
    known = None not in means
    return MetricComparison(
        measure=name,
        outcome="unmeasured" if not known else "breach" if low > margin else "within" if high < margin else "open",
        canary=means[0],
        production=means[1],
        n_canary=len(canary),
        n_production=len(production),
        increase=float(ours.mean - theirs.mean) if known else None,
        low=low,
        high=high,
        margin=margin,
        p_value=min(1.0, len(MEASURES) * float(p_value(ours, theirs, margin))),
    )


def _outcome(
    measures: Sequence[MetricComparison], n: int, elapsed_s: float, settings: CanaryAnalysisSettings
) -> tuple[CanaryOutcome, str]:
    """The outcome and its sentence; `n` are the requests of the package that got fewer."""
    found = [measure.outcome for measure in measures]
    if worse := [_WORDS[m.measure] for m in measures if m.outcome == "breach"]:
        return "breach", f"The canary is worse than its margins allow: {', '.join(worse)}."
    if all(outcome == "within" for outcome in found) and n >= settings.min_requests:
        return "healthy", f"All {len(found)} measured increases are below their margins."
    few = f", and {settings.min_requests} requests of each are needed at least" if n < settings.min_requests else ""
    left_s = settings.timeout_s - elapsed_s
    if left_s > 0:
        return "waiting", f"Not decided after {elapsed_s:.0f} s{few}; {left_s:.0f} s of patience are left."
    return (
        "inconclusive",
        f"Not decided after {elapsed_s:.0f} s{few}, and patience ended at {settings.timeout_s} s.",
    )


def incident_report(verdict: CanaryVerdict, channel: str, phase: str) -> IncidentReport:
    """What an incident says of a breach: the measure with the strongest evidence, and its numbers.

    Raises:
        GraftError: the verdict is no breach.
    """
    over = [measure for measure in verdict.measures if measure.outcome == "breach"]
    if not over:
        raise GraftError(f"guard: {verdict.outcome} is no breach, so there is nothing to report")
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
