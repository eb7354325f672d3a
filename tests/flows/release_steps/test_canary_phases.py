"""Tests of the canary phases: the effect of each verdict, on telemetry that is really written.

tests/integration/test_release.py runs the phases on a real stack.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from deployments.app.routing.routing import Canary, Routing, ServedPackage
from flows.release_steps import canary_phases
from flows.release_steps.canary_phases import BreachError, UndecidedError, go_through, run_phase
from tasks.core.errors import GraftError
from tasks.core.rollout_phases import Phase
from tasks.core.settings import CanaryAnalysisSettings, CanaryMargins, load_settings
from tasks.monitoring.telemetry_row import TelemetryRow
from tasks.monitoring.telemetry_store import TelemetryWriter
from tasks.rollout.incidents import incidents
from tests.conftest import ROOT
from tests.support.telemetry_rows import CANARY, PRODUCTION, failure, row

SETTINGS = CanaryAnalysisSettings(
    alpha=0.05,
    margins=CanaryMargins(errors=0.3, slow=0.3, refusals=0.3, policy=0.3, quality=0.3),
    min_requests=20,
    interval_s=10,
    timeout_s=30,
)
HALF = Phase(name="canary", percent=50)
PACKAGES = {
    digest: ServedPackage(app=f"engine-{digest[:3]}", name="assistant", max_new_tokens=8, since=0)
    for digest in (CANARY, PRODUCTION, "q" * 64)
}
Serve = Callable[..., list[tuple[str, float | None]]]


@pytest.fixture
def serve(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Serve:
    """A function that sets the canary's answers, and returns the list of changes that the rollout gets.

    Time passes when canary analysis waits: in each interval both packages get 100 requests.
    """
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(canary_phases, "create_markdown_artifact", lambda *_, **__: None)

    def set_up(canary: Callable[[int], TelemetryRow], production: str = PRODUCTION) -> list[tuple[str, float | None]]:
        changes: list[tuple[str, float | None]] = []
        served, routing = [production], [Routing()]
        clock = [datetime(2026, 1, 31, 12, tzinfo=UTC)]

        class Clock(datetime):
            @classmethod
            def now(cls, tz: object = None) -> datetime:
                return clock[0]

        def wait(seconds: float) -> None:
            writer = TelemetryWriter(rows_per_part=10_000)
            for number in range(100):
                at = clock[0] + timedelta(seconds=seconds * number / 100)
                for one in (canary(number), row(number, PRODUCTION)):
                    writer.append(one.model_copy(update={"at": at, "trace_id": f"{one.digest[:1]}{at}"}))
            writer.close()
            clock[0] += timedelta(seconds=seconds)

        def change(digest: str, percent: int | None) -> None:
            changes.append((digest, percent))
            role = {"canary": Canary(digest=digest, percent=percent)} if percent else {"shadow": digest}
            routing[0] = Routing(production=served[0], served=PACKAGES, **role)

        monkeypatch.setattr(canary_phases, "datetime", Clock)
        monkeypatch.setattr(canary_phases.time, "sleep", wait)
        monkeypatch.setattr(canary_phases.rollout, "canary", lambda digest, percent: change(digest, percent))
        monkeypatch.setattr(canary_phases.rollout, "shadow", lambda digest: change(digest, None))
        monkeypatch.setattr(canary_phases.rollout, "reset_traffic", lambda: changes.append(("", None)))
        monkeypatch.setattr(canary_phases.rollout, "served", lambda: routing[0])
        return changes

    return set_up


def test_an_equal_canary_is_healthy_after_enough_intervals(serve: Serve) -> None:
    changes = serve(lambda number: row(number, CANARY))
    state = run_phase(HALF, CANARY, PRODUCTION, SETTINGS, 8.0)
    assert state.name == "Healthy"
    assert changes == [(CANARY, 50)]
    assert incidents() == []


def test_a_worse_canary_is_a_breach_within_an_interval_and_opens_one_incident(serve: Serve) -> None:
    changes = serve(lambda number: failure(number, CANARY) if number % 10 else row(number, CANARY))
    with pytest.raises(BreachError, match=r"canary 50: The canary is worse .*failed requests.*Incident 2026-01-31"):
        run_phase(HALF, CANARY, PRODUCTION, SETTINGS, 8.0)
    assert changes == [(CANARY, 50), ("", None)], "not all traffic returned to production"
    (incident,) = incidents()
    assert (incident.report.digest, incident.report.phase, incident.report.measure) == (CANARY, "canary 50", "errors")
    assert incident.opened_at == datetime(2026, 1, 31, 12, 0, 10, tzinfo=UTC)


def test_a_canary_without_traffic_is_undecided_at_the_timeout(serve: Serve) -> None:
    serve(lambda number: row(number, PRODUCTION))
    with pytest.raises(UndecidedError, match="Undecided after 30 s"):
        run_phase(HALF, CANARY, PRODUCTION, SETTINGS, 8.0)
    assert incidents() == []


def test_a_shadow_is_entered_as_one_and_judged_by_its_own_rows(serve: Serve) -> None:
    changes = serve(lambda number: failure(number, CANARY, operation="shadow", route="shadow"))
    with pytest.raises(BreachError, match=r"shadow: "):
        run_phase(Phase(name="shadow"), CANARY, PRODUCTION, SETTINGS, 8.0)
    assert changes == [(CANARY, None), ("", None)]


def test_a_production_that_was_moved_meanwhile_ends_the_phase(serve: Serve) -> None:
    serve(lambda number: row(number, CANARY), production="q" * 64)
    with pytest.raises(GraftError, match=r"is no longer served beside .*production is now qqq"):
        run_phase(HALF, CANARY, PRODUCTION, SETTINGS, 8.0)


def test_beside_a_production_that_cannot_be_served_there_is_nothing_to_compare(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    changes, steps = serve(lambda number: row(number, CANARY)), []
    monkeypatch.chdir(ROOT)  # for the settings
    monkeypatch.setattr(canary_phases, "serve_production", lambda: "its license is not on the list")
    monkeypatch.setattr(canary_phases, "step", lambda name, do: lambda *args: steps.append((name, do(*args).message)))
    go_through([Phase(name="shadow"), HALF], CANARY, PRODUCTION, load_settings())
    assert [name for name, _ in steps] == ["shadow", "canary 50"]
    assert {"cannot be served" in reason for _, reason in steps} == {True}
    assert changes == []
