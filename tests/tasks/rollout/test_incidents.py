"""Tests of incidents: each is opened once, closed once, and stays as it was written."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from tasks.core.errors import GraftError
from tasks.rollout.incidents import IncidentReport, close, describe, incidents, open_incident

AT = datetime(2026, 1, 31, 12, tzinfo=UTC)
REPORT = IncidentReport(
    what="The canary failed 9 of 12 requests.",
    digest="c" * 64,
    channel="canary",
    phase="canary 5%",
    measure="errors",
    numbers={"canary": 0.75, "production": 0.0},
)


def test_an_incident_is_read_as_it_was_opened(tmp_path: Path) -> None:
    opened = open_incident(REPORT, AT, tmp_path)
    assert (opened.report, opened.opened_at, opened.closed) == (REPORT, AT, None)
    assert incidents(tmp_path) == [opened]
    assert incidents(tmp_path / "none") == []


def test_one_is_open_for_a_package_and_phase_however_often_it_is_reported(tmp_path: Path) -> None:
    first = open_incident(REPORT, AT, tmp_path)
    again = REPORT.model_copy(update={"what": "Still failing.", "measure": "slow"})
    assert open_incident(again, AT + timedelta(minutes=1), tmp_path) == first
    for other in ({"phase": "canary 25%"}, {"digest": "d" * 64}):
        assert open_incident(REPORT.model_copy(update=other), AT, tmp_path) != first
    assert len(incidents(tmp_path)) == 3


def test_reports_at_the_same_moment_open_one(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        opened = list(pool.map(lambda _: open_incident(REPORT, AT, tmp_path), range(16)))
    assert len({incident.id for incident in opened}) == 1
    assert len(incidents(tmp_path)) == 1


def test_closing_says_who_and_why_and_the_opening_stays(tmp_path: Path) -> None:
    opened = open_incident(REPORT, AT, tmp_path)
    [path] = tmp_path.glob("*.opened.json")
    before = path.read_bytes()
    closed = close(opened.id, "Ada", "bad adapter, retrained", AT + timedelta(hours=1), tmp_path)
    assert closed.closed and (closed.closed.by, closed.closed.why) == ("Ada", "bad adapter, retrained")
    assert closed.closed.at == AT + timedelta(hours=1)
    assert incidents(tmp_path) == [closed]
    assert path.read_bytes() == before
    assert describe(opened).splitlines()[0].endswith("open")
    assert "closed by Ada at 2026-01-31 13:00 UTC: bad adapter, retrained" in describe(closed)


def test_after_a_close_the_next_report_opens_another_in_order(tmp_path: Path) -> None:
    first = open_incident(REPORT, AT, tmp_path)
    close(first.id, "Ada", "gone", AT, tmp_path)
    second = open_incident(REPORT, AT, tmp_path)
    third = open_incident(REPORT.model_copy(update={"phase": "shadow"}), AT - timedelta(days=1), tmp_path)
    assert second.id != first.id
    oldest, *others = incidents(tmp_path)
    assert oldest == third
    assert {incident.id for incident in others} == {first.id, second.id}


def test_what_is_unknown_or_closed_cannot_be_closed(tmp_path: Path) -> None:
    with pytest.raises(GraftError, match="x: no such incident"):
        close("x", "Ada", "gone", AT, tmp_path)
    opened = open_incident(REPORT, AT, tmp_path)
    close(opened.id, "Ada", "gone", AT, tmp_path)
    with pytest.raises(GraftError, match="Ada closed it at 2026-01-31 12:00 UTC"):
        close(opened.id, "Bob", "really gone", AT, tmp_path)
    [only] = incidents(tmp_path)
    assert only.closed and only.closed.by == "Ada"


def test_a_closing_without_a_reason_is_refused_and_leaves_it_open(tmp_path: Path) -> None:
    opened = open_incident(REPORT, AT, tmp_path)
    with pytest.raises(GraftError, match="closing an incident needs a reason; it stays open"):
        close(opened.id, "Ada", "", AT, tmp_path)
    assert incidents(tmp_path) == [opened]


def test_a_garbled_file_is_named(tmp_path: Path) -> None:
    open_incident(REPORT, AT, tmp_path)
    [path] = tmp_path.glob("*.opened.json")
    path.write_text(path.read_text()[:50])
    with pytest.raises(GraftError, match=r"opened\.json: the incident file is damaged"):
        incidents(tmp_path)
