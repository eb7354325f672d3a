"""Tests of the release summary."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

from flows.release_steps.summary import ReleaseSummary, render
from tasks.core.settings import load_settings
from tests.conftest import ROOT
from tests.support.eval_rows import four_rows

GATE = load_settings(ROOT / "params.yaml").gate


def test_summary_names_all_that_a_person_needs() -> None:
    facts = ReleaseSummary(
        name="tulip",
        digest="ab" * 32,
        since=datetime(2026, 1, 31, 10, 0, tzinfo=UTC),
        base_url="http://127.0.0.1:8000/v1",
        key="none",
        run_url="http://127.0.0.1:4200/runs/flow-run/x",
        report=Path("/r/report.html"),
        card=Path("/r/card.md"),
    )
    text = render(facts, four_rows(), GATE)
    for part in ("tulip is in production", "http://127.0.0.1:8000/v1\n", "key: none", "ab" * 32, "/r/report.html"):
        assert part in text
    assert "http://127.0.0.1:4200/runs/flow-run/x" in text
    assert "2026-01-31 10:00 UTC" in text
