"""Rates (`tasks/evaluation/outputs.py`): a fraction with its n, and a file without rates."""

from __future__ import annotations

from pathlib import Path

import pytest

from tasks.core.errors import GraftError
from tasks.core.files import write_json
from tasks.evaluation.outputs import Rate, rate_of, read_rates


def test_a_share_of_nothing_is_no_number() -> None:
    assert rate_of([True, False, False]) == Rate(n=3, value=0.3333)
    assert rate_of([]) == Rate(n=0, value=None)


def test_rates_are_read_as_written_and_a_file_without_them_is_named(tmp_path: Path) -> None:
    write_json(tmp_path / "scores.json", {"digest": "d", "rates": {"answered": {"n": 2, "value": 1.0}}})
    assert read_rates(tmp_path / "scores.json") == {"answered": Rate(n=2, value=1.0)}
    write_json(tmp_path / "other.json", {"systems": {}})
    for name in ("other.json", "none.json"):
        with pytest.raises(GraftError, match=f"{name}: no rates there; run the stage `evaluate_assistant`"):
            read_rates(tmp_path / name)
