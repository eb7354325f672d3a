"""Tests of canary metrics: the requests that count for each package, and their metrics, on stored telemetry rows."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tasks.core.errors import GraftError
from tasks.monitoring.telemetry_row import REDTEAM_OWNER, TelemetryRow
from tasks.rollout.canary_metrics import CanarySamples, canary_samples, has_traffic, shadow_samples
from tasks.rollout.shadow_comparison import SHADOW, ShadowPair
from tests.support.telemetry_rows import CANARY, PATIENCE_S, PRODUCTION, START, failure, row, stored

OTHER = "f" * 64


def samples_of(tmp_path: Path, *rows: TelemetryRow, reference: int = 2) -> CanarySamples:
    """The metrics of both packages, with two fast answers of production before the phase."""
    early = [row(-20), row(-10)]
    return canary_samples(stored([*early, *rows], tmp_path), CANARY, PRODUCTION, START, reference, PATIENCE_S)


def lists(numbers: dict[str, Any]) -> dict[str, list[float]]:
    return {name: list(values) for name, values in numbers.items()}


def test_good_answers_count_for_their_digest_and_are_none_of_anything(tmp_path: Path) -> None:
    samples = samples_of(tmp_path, row(1), row(2), row(3, CANARY))
    assert lists(samples.production) == {name: [0.0, 0.0] for name in ("errors", "refusals", "policy", "slow")} | {
        "quality": []
    }
    assert lists(samples.canary) == {name: [0.0] for name in ("errors", "refusals", "policy", "slow")} | {"quality": []}
    assert samples.slow_ms == 100.0


@pytest.mark.parametrize(
    ("bad", "measure"),
    [
        ({"refused": True}, "refusals"),
        ({"blocked_by": "amounts"}, "policy"),
        ({"valid_format": False}, "errors"),
        ({"latency_ms": 101.0}, "slow"),
    ],
)
def test_each_fault_of_an_answer_counts_in_its_own_measure_alone(
    tmp_path: Path, bad: dict[str, Any], measure: str
) -> None:
    samples = samples_of(tmp_path, row(1, CANARY, **bad), row(2, CANARY))
    assert {name for name, values in samples.canary.items() if values.sum()} == {measure}
    assert list(samples.canary[measure]) == [1.0, 0.0]


def test_a_failed_request_is_an_error_and_says_nothing_of_answers(tmp_path: Path) -> None:
    samples = samples_of(tmp_path, failure(1, CANARY), failure(2, CANARY, status=504, latency_ms=60_000.0))
    assert lists(samples.canary) == {"errors": [1.0, 1.0], "refusals": [], "policy": [], "quality": [], "slow": []}


def fallback_row(second: float, digest: str, intended: str, skipped: str, **fields: Any) -> TelemetryRow:
    """A row with an answer of `digest` where the intended package had failed."""
    return row(second, digest, meant=intended, passed_over=skipped, **fields)


def test_a_request_that_another_route_answered_is_its_first_choices_failure(tmp_path: Path) -> None:
    """Neither the answer nor its time is production's, though its digest is."""
    samples = samples_of(
        tmp_path,
        fallback_row(1, PRODUCTION, CANARY, "canary=timeout", latency_ms=9000.0, refused=True),
        fallback_row(2, "", CANARY, "canary=timeout, production=timeout", route="words"),
        fallback_row(3, OTHER, PRODUCTION, "production=engine_unavailable", route="previous"),
        failure(4, PRODUCTION, status=499, meant=CANARY, passed_over="canary=timeout"),
    )
    assert lists(samples.canary) == {"errors": [1.0] * 3, "refusals": [], "policy": [], "quality": [], "slow": []}
    assert lists(samples.production) == {"errors": [1.0], "refusals": [], "policy": [], "quality": [], "slow": []}


def test_a_failure_of_another_canary_is_not_this_ones(tmp_path: Path) -> None:
    samples = samples_of(tmp_path, fallback_row(1, PRODUCTION, OTHER, "canary=timeout"), row(2, CANARY))
    assert list(samples.canary["errors"]) == [0.0]
    assert not samples.production["errors"].size


def test_a_row_without_an_intended_package_counts_for_neither(tmp_path: Path) -> None:
    samples = samples_of(tmp_path, row(1, CANARY, meant=""), row(2, meant=""), row(3))
    assert not samples.canary["errors"].size
    assert len(samples.production["errors"]) == 1


def test_a_package_has_traffic_if_a_request_was_intended_for_it(tmp_path: Path) -> None:
    rows = [fallback_row(1, PRODUCTION, CANARY, "canary=timeout"), row(2, OTHER, route="digest")]
    telemetry = stored([*rows, row(3, "q" * 64, cache="hit")], tmp_path)
    assert [has_traffic(telemetry, digest) for digest in (CANARY, PRODUCTION, OTHER, "q" * 64)] == [
        True,
        False,
        False,
        False,
    ]


@pytest.mark.parametrize(
    "fields",
    [
        {"owner": "redteam"},
        {"route": "digest"},
        {"operation": SHADOW, "route": SHADOW, "meant": ""},
        {"operation": "embeddings"},
        {"operation": "text_completion"},
        {"cache": "hit"},
        {"cache": "semantic"},
        {"status": 429, "error": "rate_limit_exceeded"},
        {"status": 400, "error": "prompt_too_long"},
        {"user_chars": None, "refused": None, "valid_format": None, "blocked_by": "injection"},
        {"digest": OTHER, "meant": OTHER},
    ],
    ids=lambda fields: "-".join(f"{k}-{v}"[:24] for k, v in fields.items()),
)
def test_what_is_no_customers_question_to_the_model_does_not_count(tmp_path: Path, fields: dict[str, Any]) -> None:
    changed = row(1, CANARY).model_copy(update=fields)
    samples = samples_of(tmp_path, changed, row(2, CANARY))
    assert len(samples.canary["errors"]) == 1
    assert not samples.production["errors"].size


def test_a_canary_that_was_not_even_tried_says_nothing(tmp_path: Path) -> None:
    skipped = fallback_row(1, PRODUCTION, CANARY, "canary=circuit_open")
    failed = fallback_row(2, PRODUCTION, CANARY, "canary=timeout")
    assert lists(samples_of(tmp_path, skipped, failed).canary)["errors"] == [1]


def test_who_leaves_is_no_error_but_waited_as_long_as_he_did(tmp_path: Path) -> None:
    disconnected = failure(1, CANARY, status=499, first_token_ms=50.0, latency_ms=30_000.0)
    samples = samples_of(tmp_path, disconnected, failure(2, CANARY, status=499, latency_ms=7_000.0), row(3, CANARY))
    assert list(samples.canary["errors"]) == [0.0]
    assert list(samples.canary["slow"]) == [1.0, 1.0, 0.0]


@pytest.mark.parametrize("digest", [CANARY, PRODUCTION])
def test_a_response_that_begins_after_the_deadline_has_failed_for_either_package(tmp_path: Path, digest: str) -> None:
    """Its answer counts in no other metric, as where the router skipped the package."""
    samples = samples_of(
        tmp_path,
        row(1, digest, first_token_ms=8_000.0, latency_ms=8_500.0),
        row(2, digest, first_token_ms=8_001.0, latency_ms=8_500.0, refused=True),
        failure(3, digest, status=499, latency_ms=8_001.0),
        failure(4, digest, status=504, latency_ms=30_000.0),
    )
    side = lists(samples.canary if digest == CANARY else samples.production)
    assert side == {"errors": [0, 1, 1, 1], "slow": [1], "refusals": [0], "policy": [0], "quality": []}


def test_what_came_before_the_phase_serves_for_the_percentile_alone(tmp_path: Path) -> None:
    before = [row(second - 1000, latency_ms=float(second)) for second in range(1, 101)]
    old_canary = row(-500, CANARY, refused=True)
    rows = stored([*before, old_canary, row(1, latency_ms=95.0), row(2, latency_ms=97.0), row(3, CANARY)], tmp_path)
    samples = canary_samples(rows, CANARY, PRODUCTION, START, 50, PATIENCE_S)
    assert samples.slow_ms == 96.0  # of 1 to 100 ms
    assert list(samples.production["slow"]) == [0.0, 1.0]
    assert list(samples.canary["slow"]) == [1.0]
    assert len(samples.production["errors"]) == 2
    assert len(samples.canary["refusals"]) == 1


def test_without_a_past_the_first_answers_set_the_percentile_and_are_not_compared(tmp_path: Path) -> None:
    rows = stored([*(row(second, latency_ms=100.0 + second) for second in range(1, 6)), row(6, CANARY)], tmp_path)
    samples = canary_samples(rows, CANARY, PRODUCTION, START, 3, PATIENCE_S)
    assert samples.slow_ms == 103.0
    assert list(samples.production["slow"]) == [1.0, 1.0]
    assert len(samples.production["errors"]) == 5
    too_few = canary_samples(rows, CANARY, PRODUCTION, START, 6, PATIENCE_S)
    assert too_few.slow_ms is None
    assert not too_few.production["slow"].size and not too_few.canary["slow"].size


def test_quality_is_compared_where_it_was_judged(tmp_path: Path) -> None:
    rows = stored([row(1), row(2), row(3, CANARY), row(4, CANARY)], tmp_path)
    samples = canary_samples(rows.assign(quality=[1.0, np.nan, 0.25, 0.5]), CANARY, PRODUCTION, START, 2, PATIENCE_S)
    assert list(samples.production["quality"]) == [0.0]
    assert list(samples.canary["quality"]) == [0.75, 0.5]
    with pytest.raises(GraftError, match="`quality` has a value outside 0 to 1"):
        canary_samples(rows.assign(quality=4.0), CANARY, PRODUCTION, START, 2, PATIENCE_S)


def test_rows_from_elsewhere_are_refused_by_their_columns(tmp_path: Path) -> None:
    rows = stored([row(1)], tmp_path).drop(columns=["owner", "cache"])
    with pytest.raises(GraftError, match="no column owner, cache"):
        canary_samples(rows, CANARY, PRODUCTION, START, 2, PATIENCE_S)


def test_an_empty_store_gives_empty_samples(tmp_path: Path) -> None:
    samples = canary_samples(stored([], tmp_path), CANARY, PRODUCTION, START + timedelta(hours=1), 2, PATIENCE_S)
    assert all(not values.size for values in (*samples.canary.values(), *samples.production.values()))
    assert samples.slow_ms is None


def test_of_each_visitor_the_first_request_counts_alone_in_every_measure(tmp_path: Path) -> None:
    samples = samples_of(
        tmp_path,
        row(1, CANARY, visitor="a", refused=True),
        row(2, CANARY, visitor="a", blocked_by="amounts"),
        failure(3, CANARY, visitor="b"),
        row(4, CANARY, visitor="b", refused=True),  # the user's first answer, but a second request
        row(5, visitor="c", latency_ms=101.0),
        row(6, visitor="c"),
    )
    assert lists(samples.canary) == {"errors": [0, 1], "slow": [0], "refusals": [1], "policy": [0], "quality": []}
    assert lists(samples.production) == {"errors": [0], "slow": [1], "refusals": [0], "policy": [0], "quality": []}


def test_rows_without_a_visitor_count_each_for_itself(tmp_path: Path) -> None:
    rows = stored([row(-20), row(-10), *(row(second, CANARY) for second in range(1, 4))], tmp_path)
    for visitor in ("", None, np.nan):
        samples = canary_samples(rows.assign(visitor=visitor), CANARY, PRODUCTION, START, 2, PATIENCE_S)
        assert len(samples.canary["errors"]) == 3


def test_who_is_moved_to_the_other_package_has_counted(tmp_path: Path) -> None:
    samples = samples_of(tmp_path, row(1, visitor="a"), row(2, CANARY, visitor="a"))
    assert (len(samples.production["errors"]), len(samples.canary["errors"])) == (1, 0)


def test_the_first_request_is_the_first_of_those_that_would_count(tmp_path: Path) -> None:
    """Requests before the phase, and those that reached no package or were no user's, do not count as the first."""
    samples = samples_of(
        tmp_path,
        row(-5, CANARY, visitor="a", refused=True),
        fallback_row(1, PRODUCTION, CANARY, "canary=circuit_open", visitor="a"),
        row(2, CANARY, visitor="a", cache="hit"),
        row(3, CANARY, visitor="a", route="digest"),
        row(4, CANARY, visitor="a", blocked_by="amounts"),
    )
    assert lists(samples.canary) == {"errors": [0], "slow": [0], "refusals": [0], "policy": [1], "quality": []}


def test_of_a_visitors_copies_the_first_counts(tmp_path: Path) -> None:
    rows = [
        copied(1).model_copy(update={"visitor": "a"}),
        failure(2, CANARY, operation=SHADOW, route=SHADOW, visitor="a"),
        failure(3, CANARY, operation=SHADOW, route=SHADOW, visitor="b"),
        copied(4, shadow_refused=True).model_copy(update={"visitor": "b"}),
        copied(5, shadow_refused=True),
        copied(6),
    ]
    samples = shadow_samples(stored(rows, tmp_path), CANARY, PRODUCTION, START, reference=1)
    assert lists(samples.canary) == {
        "errors": [0, 1, 0, 0],
        "slow": [0, 0],
        "refusals": [0, 1, 0],
        "policy": [],
        "quality": [],
    }


def copied(second: float, **fields: Any) -> TelemetryRow:
    """A request that was copied to the shadow, which answered as production did but for `fields`."""
    equal = {"same_tool": True, "same_call": True, "token_f1": 1.0, "length_ratio": 1.0}
    pair = ShadowPair(
        trace_id=str(second),
        at=START + timedelta(seconds=second),
        **{
            **equal,
            **{f"{side}{name}": value for side in ("production", "shadow") for name, value in PLAIN.items()},
            "production": PRODUCTION,
            "shadow": CANARY,
            **fields,
        },
    )
    return row(second, CANARY, operation=SHADOW, route=SHADOW, shadow=pair.model_dump_json())


PLAIN: dict[str, Any] = {"_tool": "", "_refused": False, "_finish_reason": "stop", "_ms": 100.0}


def test_a_shadow_is_compared_on_the_requests_that_it_was_asked_too(tmp_path: Path) -> None:
    rows = [
        copied(1, production_ms=90.0),
        copied(2, production_ms=110.0),  # the first two determine what is slow
        copied(3, shadow_ms=120.0, shadow_refused=True),
        copied(4, production_ms=120.0, production_refused=True),
        failure(5, CANARY, operation=SHADOW, route=SHADOW),
        copied(6, production="q" * 64),  # beside another package
        failure(6.5, CANARY, operation=SHADOW, route=SHADOW, owner=REDTEAM_OWNER),
        row(7),  # production's own rows do not show which requests were copied
    ]
    samples = shadow_samples(stored(rows, tmp_path), CANARY, PRODUCTION, START, reference=2)
    assert samples.slow_ms == 110.0
    assert lists(samples.canary) == {
        "errors": [0, 0, 0, 0, 1, 0],
        "slow": [1, 0],
        "refusals": [0, 0, 1, 0],
        "policy": [],
        "quality": [],
    }
    assert lists(samples.production) == {
        "errors": [0] * 6,
        "slow": [0, 1],
        "refusals": [0, 0, 0, 1],
        "policy": [],
        "quality": [],
    }


def test_without_copies_nothing_is_known_of_a_shadow(tmp_path: Path) -> None:
    samples = shadow_samples(stored([row(1)], tmp_path), CANARY, PRODUCTION, START, reference=2)
    assert samples.slow_ms is None
    assert {len(values) for values in samples.canary.values()} == {0}
