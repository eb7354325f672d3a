"""Tests of the release benchmark: its last line has the gate's two guaranteed rates; no real stack is started."""

from __future__ import annotations

import json

import pytest

from benchmarks import release
from tests.conftest import ROOT


def test_the_last_line_has_the_guaranteed_rates(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(release, "PARTS", (release.gate,))
    monkeypatch.setattr(release, "SIZES", (release.ROWS,))
    monkeypatch.setattr(release, "SLICE_ROWS", (8,))
    release.main()
    *lines, last = capsys.readouterr().out.strip().splitlines()
    results = json.loads(last)
    assert set(results) >= {"promote_equal_rate", "pass_worse5_rate"}
    assert 0 < results["promote_equal_rate"] <= 0.05
    assert 0 < results["pass_worse5_rate"] <= 0.05
    assert any(line.startswith(f"| {release.ROWS} |") for line in lines)
