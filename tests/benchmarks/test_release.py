"""The benchmark's last line has the gate's two promised rates; what it does to a real stack is not done here."""

from __future__ import annotations

import json

import pytest

from benchmarks import release
from tests.conftest import ROOT


def test_the_last_line_has_the_promised_rates(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(release, "PARTS", (release.gate,))
    monkeypatch.setattr(release, "SIZES", (release.ROWS,))
    monkeypatch.setattr(release, "SLICE_ROWS", (8,))
    release.main()
    *told, last = capsys.readouterr().out.strip().splitlines()
    found = json.loads(last)
    assert set(found) >= {"promote_equal_rate", "pass_worse5_rate"}
    assert 0 < found["promote_equal_rate"] <= 0.05
    assert 0 < found["pass_worse5_rate"] <= 0.05
    assert any(line.startswith(f"| {release.ROWS} |") for line in told)
