"""Tests of canary analysis: its outcomes on known traffic, and the sentences of its verdict."""

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


def analyze(rows: pd.DataFrame, settings: CanaryAnalysisSettings, after_s: int = 600) -> CanaryVerdict:
    return analyze_canary(
        rows, CANARY, PRODUCTION, START, START + timedelta(seconds=after_s), settings, first_token_s=PATIENCE_S
    )


def traffic(tmp_path: Path, canary: int, failed: int, production: int = 400) -> pd.DataFrame:
    """Good answers within 400 s, but for `failed` of the canary's, and some of production before the phase."""
    seconds = np.linspace(1, 399, canary)
    canary_rows = [failure(s, CANARY) if i < failed else row(s, CANARY) for i, s in enumerate(seconds)]
    production_rows = [row(float(s)) for s in np.linspace(-600, 399, 60 + production)]
    return stored([*canary_rows, *production_rows], tmp_path)


def test_every_measure_has_its_margin_and_its_words() -> None:
    assert set(MEASURES) == set(CanaryMargins.model_fields)


def test_a_canary_that_fails_is_a_breach_after_few_requests_and_is_reported_in_numbers(tmp_path: Path) -> None:
    verdict = analyze(traffic(tmp_path, canary=12, failed=9), SETTINGS)
    assert verdict.outcome == "breach"
    [errors] = [m for m in verdict.measures if m.outcome == "breach"]
    assert (errors.measure, errors.n_canary, errors.canary) == ("errors", 12, 0.75)
    assert errors.low > errors.margin == 0.02
    assert errors.p_value < SETTINGS.alpha
    assert verdict.sentences[0] == "The canary is worse than its margins allow: failed requests."
    assert verdict.sentences[1].startswith("Failed requests: 75.0% of 12 requests against 0.0% of ")
    assert "an increase of +0.750 (always-valid interval " in verdict.sentences[1]
    assert verdict.sentences[1].endswith("entirely above the margin of 0.02.")


def test_one_failure_more_is_no_breach(tmp_path: Path) -> None:
    verdict = analyze(traffic(tmp_path, canary=12, failed=1), SETTINGS)
    assert verdict.outcome == "waiting"
    assert all(m.p_value > SETTINGS.alpha for m in verdict.measures)


def test_an_equal_canary_is_healthy_once_every_bound_is_below_its_margin(tmp_path: Path) -> None:
    verdict = analyze(traffic(tmp_path, canary=100, failed=0), WIDE)
    assert verdict.outcome == "healthy"
    assert {m.measure: m.outcome for m in verdict.measures} == dict.fromkeys(MEASURES, "within") | {
        "quality": "unmeasured"
    }
    assert verdict.sentences[0] == "All 4 measured increases are below their margins."
    assert verdict.sentences[-1] == "Quality lost: not compared, no data from the canary and production."


def test_no_breach_is_not_healthy_while_the_bounds_are_wide(tmp_path: Path) -> None:
    verdict = analyze(traffic(tmp_path, canary=100, failed=0), SETTINGS)
    assert verdict.outcome == "waiting"
    assert {m.measure for m in verdict.measures if m.outcome == "open"} >= {"errors", "policy"}


def test_few_requests_are_never_healthy_however_wide_the_margins(tmp_path: Path) -> None:
    verdict = analyze(traffic(tmp_path, canary=49, failed=0), WIDE)
    assert verdict.outcome == "waiting"
    assert "at least 50 requests of each package are needed" in verdict.sentences[0]


def test_waiting_ends_at_the_timeout_as_inconclusive(tmp_path: Path) -> None:
    rows = traffic(tmp_path, canary=5, failed=0)
    assert analyze(rows, SETTINGS, after_s=3599).outcome == "waiting"
    ended = analyze(rows, SETTINGS, after_s=3600)
    assert ended.outcome == "inconclusive"
    assert "the timeout of 3600 s is over" in ended.sentences[0]


def test_a_breach_is_reported_after_the_timeout_too(tmp_path: Path) -> None:
    assert analyze(traffic(tmp_path, canary=12, failed=9), SETTINGS, after_s=7200).outcome == "breach"


def test_no_traffic_at_all_waits(tmp_path: Path) -> None:
    verdict = analyze(stored([], tmp_path), SETTINGS)
    assert (verdict.outcome, verdict.n_canary, verdict.n_production) == ("waiting", 0, 0)
    assert all(m.outcome == "unmeasured" and m.p_value == 1.0 for m in verdict.measures)


def test_a_slow_canary_is_a_breach_by_productions_own_percentile(tmp_path: Path) -> None:
    usual = np.random.default_rng(3).lognormal(6, 0.4, 500)
    production = [row(float(s), latency_ms=ms) for s, ms in zip(np.linspace(-600, 399, 500), usual, strict=True)]
    canary = [row(float(s), CANARY, latency_ms=ms * 2) for s, ms in zip(np.linspace(1, 399, 60), usual, strict=False)]
    verdict = analyze(stored([*production, *canary], tmp_path), SETTINGS)
    [slow] = [m for m in verdict.measures if m.outcome == "breach"]
    assert slow.measure == "slow"
    assert verdict.slow_ms == pytest.approx(np.quantile(usual, 0.95), rel=0.15)


def test_an_equal_canary_on_a_busy_box_is_no_breach_though_production_is_waited_for(tmp_path: Path) -> None:
    """Half of all begin after 20 s: the canary is skipped then, and production answers with status 200."""
    seconds = np.linspace(1, 399, 100)
    late = {"first_token_ms": 20_000.0, "latency_ms": 22_000.0}
    production = [row(float(s) + 0.1, **late if i % 2 else {}) for i, s in enumerate(seconds)]
    skipped = {"meant": CANARY, "passed_over": "canary=timeout", "first_token_ms": 28_000.0, "latency_ms": 30_000.0}
    canary = [row(float(s), **skipped) if i % 2 else row(float(s), CANARY) for i, s in enumerate(seconds)]
    rows = stored([*production, *canary], tmp_path)
    verdict = analyze(rows, SETTINGS)
    assert not [m.measure for m in verdict.measures if m.outcome == "breach"]
    errors = verdict.measures[0]
    assert (errors.measure, errors.canary, errors.production) == ("errors", 0.5, 0.5)
    lenient = analyze_canary(rows, CANARY, PRODUCTION, START, verdict.at, SETTINGS, first_token_s=30.0)
    assert lenient.outcome == "breach", "the deadline makes the two packages equal"


def test_what_is_after_the_window_is_not_seen(tmp_path: Path) -> None:
    rows = traffic(tmp_path, canary=12, failed=9)
    assert analyze(rows, SETTINGS, after_s=1).n_canary == 0


def test_quality_is_a_breach_where_it_was_judged(tmp_path: Path) -> None:
    rows = traffic(tmp_path, canary=100, failed=0)
    verdict = analyze(rows.assign(quality=np.where(rows["digest"] == CANARY, 0.4, 0.9)), SETTINGS)
    [worse] = [m for m in verdict.measures if m.outcome == "breach"]
    assert (worse.measure, worse.canary, worse.production) == (
        "quality",
        pytest.approx(0.6),
        pytest.approx(0.1),
    )


def test_the_p_value_is_below_alpha_exactly_when_the_bound_is_above_the_margin() -> None:
    production = np.zeros(1000)
    for hits in range(15):
        comparison = compare_metric("errors", np.arange(30) < hits, production, SETTINGS)
        assert (comparison.outcome == "breach") == (comparison.p_value < SETTINGS.alpha)


def equal_packages(seed: int) -> pd.DataFrame:
    """Rows of equal packages and a hundred users with fifty requests each; a third of the users is always refused."""
    draw = np.random.default_rng(seed)
    user = np.repeat(np.arange(100), 50)
    in_canary, refused = (draw.random(100) < 0.25)[user], (draw.random(100) < 0.33)[user]
    rows = pd.DataFrame([row(0).model_dump()] * user.size).assign(
        at=START + pd.to_timedelta(draw.uniform(1, 399, user.size), unit="s"),
        visitor=[f"customer {number}" for number in user],
        digest=np.where(in_canary, CANARY, PRODUCTION),
        meant=np.where(in_canary, CANARY, PRODUCTION),
        route=np.where(in_canary, "canary", "production"),
        refused=refused,
    )
    return rows.sort_values("at", ignore_index=True)


def false_positive_rate(phases: list[pd.DataFrame]) -> float:
    """The fraction of phases with a breach of refusals at any of four analyses."""
    breaches = []
    for rows in phases:
        windows = [rows[rows["at"] < START + timedelta(seconds=second)] for second in (100, 200, 300, 400)]
        p_values = []
        for window in windows:
            samples = canary_samples(window, CANARY, PRODUCTION, START, SETTINGS.min_requests, PATIENCE_S)
            canary, production = Sums.of(samples.canary["refusals"]), Sums.of(samples.production["refusals"])
            p_values.append(float(p_value(canary, production, SETTINGS.margins.refusals)))
        breaches.append(min(p_values) < SETTINGS.alpha / len(MEASURES))
    return float(np.mean(breaches))


def test_customers_who_ask_the_same_over_and_over_make_no_false_alarms() -> None:
    """They do where the rows hold no pseudonymous user id."""
    phases = [equal_packages(seed) for seed in range(40)]
    assert false_positive_rate(phases) <= SETTINGS.alpha
    assert false_positive_rate([rows.assign(visitor="") for rows in phases]) > 2 * SETTINGS.alpha


def test_a_package_is_not_compared_with_itself(tmp_path: Path) -> None:
    with pytest.raises(GraftError, match="in production, so there is nothing to compare"):
        analyze_canary(stored([], tmp_path), CANARY, CANARY, START, START, SETTINGS, first_token_s=PATIENCE_S)


def test_a_breach_is_reported_with_its_numbers_and_nothing_else_is(tmp_path: Path) -> None:
    verdict = analyze(traffic(tmp_path, canary=12, failed=9), SETTINGS)
    report = incident_report(verdict, "canary", "canary 5%")
    assert (report.digest, report.channel, report.phase, report.measure) == (CANARY, "canary", "canary 5%", "errors")
    assert report.numbers["canary"] == 0.75 and report.numbers["n_canary"] == 12 and report.numbers["margin"] == 0.02
    assert "75.0% of 12" in report.what
    with pytest.raises(GraftError, match="waiting is no breach"):
        incident_report(analyze(stored([], tmp_path / "none"), SETTINGS), "canary", "canary 5%")
