"""The guard's outcomes on known traffic, and what its verdict says."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from tasks.core.errors import GraftError
from tasks.core.settings import CanaryAnalysisSettings, CanaryMargins
from tasks.rollout.canary_analysis import MEASURES, CanaryVerdict, analyze_canary, compare_metric, incident_report
from tasks.rollout.canary_metrics import canary_samples
from tasks.rollout.confidence_sequences import Sums, p_value
from tests.support.telemetry_rows import CANARY, PATIENCE_S, PRODUCTION, START, failure, row, stored

SETTINGS = CanaryAnalysisSettings(
    alpha=0.05,
    margins=CanaryMargins(errors=0.02, slow=0.1, refusals=0.05, policy=0.02, quality=0.05),
    min_requests=50,
    interval_s=60,
    timeout_s=3600,
)
WIDE = SETTINGS.model_copy(update={"margins": CanaryMargins(**dict.fromkeys(CanaryMargins.model_fields, 0.5))})


def judged(rows: pd.DataFrame, settings: CanaryAnalysisSettings, after_s: int = 600) -> CanaryVerdict:
    return analyze_canary(
        rows, CANARY, PRODUCTION, START, START + timedelta(seconds=after_s), settings, first_token_s=PATIENCE_S
    )


def traffic(tmp_path: Path, canary: int, failed: int, production: int = 400) -> pd.DataFrame:
    """Good answers within 400 s, of the canary's so many failed; and an earlier hour of production's."""
    seconds = np.linspace(1, 399, canary)
    ours = [failure(s, CANARY) if i < failed else row(s, CANARY) for i, s in enumerate(seconds)]
    theirs = [row(float(s)) for s in np.linspace(-600, 399, 60 + production)]
    return stored([*ours, *theirs], tmp_path)


def test_every_measure_has_its_margin_and_its_words() -> None:
    assert set(MEASURES) == set(CanaryMargins.model_fields)


def test_a_canary_that_fails_is_a_breach_after_few_requests_and_is_told_in_numbers(tmp_path: Path) -> None:
    verdict = judged(traffic(tmp_path, canary=12, failed=9), SETTINGS)
    assert verdict.outcome == "breach"
    [errors] = [m for m in verdict.measures if m.outcome == "breach"]
    assert (errors.measure, errors.n_canary, errors.canary) == ("errors", 12, 0.75)
    assert errors.low > errors.margin == 0.02
    assert errors.p_value < SETTINGS.alpha
    assert verdict.sentences[0] == "The canary is worse than its margins allow: failed requests."
    assert verdict.sentences[1].startswith("Failed requests: 75.0% of 12 against 0.0% of ")
    assert "an increase of +0.750 (" in verdict.sentences[1]
    assert verdict.sentences[1].endswith("all of it above the margin of 0.02.")


def test_one_failure_more_is_no_breach(tmp_path: Path) -> None:
    verdict = judged(traffic(tmp_path, canary=12, failed=1), SETTINGS)
    assert verdict.outcome == "waiting"
    assert all(m.p_value > SETTINGS.alpha for m in verdict.measures)


def test_an_equal_canary_is_healthy_once_every_bound_is_below_its_margin(tmp_path: Path) -> None:
    verdict = judged(traffic(tmp_path, canary=100, failed=0), WIDE)
    assert verdict.outcome == "healthy"
    assert {m.measure: m.outcome for m in verdict.measures} == dict.fromkeys(MEASURES, "within") | {
        "quality": "unmeasured"
    }
    assert verdict.sentences[0] == "All 4 measured increases are below their margins."
    assert verdict.sentences[-1] == "Quality lost: not compared, there are no numbers of the canary and production."


def test_no_breach_is_not_healthy_while_the_bounds_are_wide(tmp_path: Path) -> None:
    verdict = judged(traffic(tmp_path, canary=100, failed=0), SETTINGS)
    assert verdict.outcome == "waiting"
    assert {m.measure for m in verdict.measures if m.outcome == "open"} >= {"errors", "policy"}


def test_few_requests_are_never_healthy_however_wide_the_margins(tmp_path: Path) -> None:
    verdict = judged(traffic(tmp_path, canary=49, failed=0), WIDE)
    assert verdict.outcome == "waiting"
    assert "50 requests of each are needed" in verdict.sentences[0]


def test_waiting_ends_at_the_timeout_as_inconclusive(tmp_path: Path) -> None:
    rows = traffic(tmp_path, canary=5, failed=0)
    assert judged(rows, SETTINGS, after_s=3599).outcome == "waiting"
    ended = judged(rows, SETTINGS, after_s=3600)
    assert ended.outcome == "inconclusive"
    assert "patience ended at 3600 s" in ended.sentences[0]


def test_a_breach_is_reported_after_the_timeout_too(tmp_path: Path) -> None:
    assert judged(traffic(tmp_path, canary=12, failed=9), SETTINGS, after_s=7200).outcome == "breach"


def test_no_traffic_at_all_waits(tmp_path: Path) -> None:
    verdict = judged(stored([], tmp_path), SETTINGS)
    assert (verdict.outcome, verdict.n_canary, verdict.n_production) == ("waiting", 0, 0)
    assert all(m.outcome == "unmeasured" and m.p_value == 1.0 for m in verdict.measures)


def test_a_slow_canary_is_a_breach_by_productions_own_percentile(tmp_path: Path) -> None:
    usual = np.random.default_rng(3).lognormal(6, 0.4, 500)
    theirs = [row(float(s), latency_ms=ms) for s, ms in zip(np.linspace(-600, 399, 500), usual, strict=True)]
    ours = [row(float(s), CANARY, latency_ms=ms * 2) for s, ms in zip(np.linspace(1, 399, 60), usual, strict=False)]
    verdict = judged(stored([*theirs, *ours], tmp_path), SETTINGS)
    [slow] = [m for m in verdict.measures if m.outcome == "breach"]
    assert slow.measure == "slow"
    assert verdict.slow_ms == pytest.approx(np.quantile(usual, 0.95), rel=0.15)


def test_an_equal_canary_on_a_busy_box_is_no_breach_though_production_is_waited_for(tmp_path: Path) -> None:
    """Half of all begin after 20 s: the canary is passed over then, and production answers with status 200."""
    seconds = np.linspace(1, 399, 100)
    late = {"first_token_ms": 20_000.0, "latency_ms": 22_000.0}
    theirs = [row(float(s) + 0.1, **late if i % 2 else {}) for i, s in enumerate(seconds)]
    passed = {"meant": CANARY, "passed_over": "canary=timeout", "first_token_ms": 28_000.0, "latency_ms": 30_000.0}
    ours = [row(float(s), **passed) if i % 2 else row(float(s), CANARY) for i, s in enumerate(seconds)]
    rows = stored([*theirs, *ours], tmp_path)
    verdict = judged(rows, SETTINGS)
    assert not [m.measure for m in verdict.measures if m.outcome == "breach"]
    errors = verdict.measures[0]
    assert (errors.measure, errors.canary, errors.production) == ("errors", 0.5, 0.5)
    patient = analyze_canary(rows, CANARY, PRODUCTION, START, verdict.at, SETTINGS, first_token_s=30.0)
    assert patient.outcome == "breach", "it is the limit that makes the two alike"


def test_what_is_after_the_window_is_not_seen(tmp_path: Path) -> None:
    rows = traffic(tmp_path, canary=12, failed=9)
    assert judged(rows, SETTINGS, after_s=1).n_canary == 0


def test_quality_is_a_breach_where_it_was_judged(tmp_path: Path) -> None:
    rows = traffic(tmp_path, canary=100, failed=0)
    verdict = judged(rows.assign(quality=np.where(rows["digest"] == CANARY, 0.4, 0.9)), SETTINGS)
    [worse] = [m for m in verdict.measures if m.outcome == "breach"]
    assert (worse.measure, worse.canary, worse.production) == (
        "quality",
        pytest.approx(0.6),
        pytest.approx(0.1),
    )


def test_the_p_value_is_below_alpha_exactly_when_the_bound_is_above_the_margin() -> None:
    production = np.zeros(1000)
    for hits in range(15):
        found = compare_metric("errors", np.arange(30) < hits, production, SETTINGS)
        assert (found.outcome == "breach") == (found.p_value < SETTINGS.alpha)


def alike(seed: int) -> pd.DataFrame:
    """Equal packages, and a hundred customers who ask fifty times each; a third of them is always refused."""
    draw = np.random.default_rng(seed)
    customer = np.repeat(np.arange(100), 50)
    tried, refused = (draw.random(100) < 0.25)[customer], (draw.random(100) < 0.33)[customer]
    rows = pd.DataFrame([row(0).model_dump()] * customer.size).assign(
        at=START + pd.to_timedelta(draw.uniform(1, 399, customer.size), unit="s"),
        visitor=[f"customer {number}" for number in customer],
        digest=np.where(tried, CANARY, PRODUCTION),
        meant=np.where(tried, CANARY, PRODUCTION),
        route=np.where(tried, "canary", "production"),
        refused=refused,
    )
    return rows.sort_values("at", ignore_index=True)


def false_alarms(phases: list[pd.DataFrame]) -> float:
    """The share of phases with a breach of refusals at any of four looks."""
    found = []
    for rows in phases:
        looks = (rows[rows["at"] < START + timedelta(seconds=second)] for second in (100, 200, 300, 400))
        both = (canary_samples(seen, CANARY, PRODUCTION, START, SETTINGS.min_requests, PATIENCE_S) for seen in looks)
        sides = [(Sums.of(arms.canary["refusals"]), Sums.of(arms.production["refusals"])) for arms in both]
        evidence = [float(p_value(ours, theirs, SETTINGS.margins.refusals)) for ours, theirs in sides]
        found.append(min(evidence) < SETTINGS.alpha / len(MEASURES))
    return float(np.mean(found))


def test_customers_who_ask_the_same_over_and_over_make_no_false_alarms() -> None:
    """They do where the rows hold no customer."""
    phases = [alike(seed) for seed in range(40)]
    assert false_alarms(phases) <= SETTINGS.alpha
    assert false_alarms([rows.assign(visitor="") for rows in phases]) > 2 * SETTINGS.alpha


def test_a_package_is_not_compared_with_itself(tmp_path: Path) -> None:
    with pytest.raises(GraftError, match="there is nothing to compare"):
        analyze_canary(stored([], tmp_path), CANARY, CANARY, START, START, SETTINGS, first_token_s=PATIENCE_S)


def test_a_breach_is_reported_with_its_numbers_and_nothing_else_is(tmp_path: Path) -> None:
    verdict = judged(traffic(tmp_path, canary=12, failed=9), SETTINGS)
    told = incident_report(verdict, "canary", "canary 5%")
    assert (told.digest, told.channel, told.phase, told.measure) == (CANARY, "canary", "canary 5%", "errors")
    assert told.numbers["canary"] == 0.75 and told.numbers["n_canary"] == 12 and told.numbers["margin"] == 0.02
    assert "75.0% of 12" in told.what
    with pytest.raises(GraftError, match="waiting is no breach"):
        incident_report(judged(stored([], tmp_path / "none"), SETTINGS), "canary", "canary 5%")
