"""Tests of the eval tables: each number stands with the number of its rows."""

from __future__ import annotations

from tasks.core.settings import load_settings
from tasks.evaluation.outputs import Rate
from tasks.reports.eval_tables import by_label, by_system, end_to_end
from tests.conftest import ROOT
from tests.support.eval_rows import four_rows

GATE = load_settings(ROOT / "params.yaml").gate


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_each_system_has_its_means_and_interval() -> None:
    head, _, base, candidate = by_system(four_rows(), GATE)
    assert cells(base)[:3] == ["base", "4", "0.000 (0.000 to 0.000)"]
    assert cells(candidate)[0] == "candidate"
    assert cells(candidate)[2].startswith("0.750 (")
    assert cells(candidate)[3:5] == ["0.750", "1.000"]  # of exact match, and of the one row that wants a tool
    assert "refusal" not in head  # no row wants one


def test_each_request_kind_has_the_candidates_interval_and_the_others_means() -> None:
    head, _, order, care = by_label(four_rows(), GATE)
    assert cells(head) == ["request kind", "rows", "quality (95% interval)", "base"]
    assert cells(order) == ["order_status", "1", "1.000 (1.000 to 1.000)", "0.000"]
    assert cells(care)[:2] == ["plant_care", "3"]
    assert cells(care)[2].startswith("0.667 (0.000 to 1.000")


def test_end_to_end_rates_that_were_not_measured_have_no_value() -> None:
    table = end_to_end({"answered": Rate(n=154, value=1.0), "refusal_recall": Rate(n=0, value=None)})
    assert [cells(line) for line in table[2:]] == [["answered", "154", "1"], ["refusal_recall", "0", ""]]
