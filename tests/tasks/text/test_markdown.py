"""Markdown escaping, and every page that is shown to operators, with markup in each of its fields."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, date, datetime
from pathlib import Path

import pandas as pd
import pytest

from flows import monitor
from flows.release_steps import artifacts, canary_phases, summary
from tasks.core.rollout_phases import parse_phases
from tasks.core.settings import load_settings
from tasks.data.contract_report import html_page
from tasks.data.contract_spec import load_contract
from tasks.data.rule_results import ContractRuleResult, Violation
from tasks.evaluation.outputs import Rate
from tasks.gate import verdict as gate
from tasks.model_package import model_card
from tasks.monitoring.drift import DriftColumn, DriftVerdict, _plain_page
from tasks.reports import eval_tables
from tasks.rollout.canary_analysis import CanaryVerdict
from tasks.safety import garak_report
from tasks.text.markdown import escape, row
from tests.conftest import ROOT
from tests.support.eval_rows import evaluation, four_rows
from tests.support.hostile_text import HOSTILE, active_tags, headings, poisoned, rendered
from tests.tasks.model_package.test_model_card import manifest
from tests.tasks.safety.test_garak_report import scan

GATE = load_settings(ROOT / "params.yaml").gate
NOON = datetime(2026, 1, 31, 12, tzinfo=UTC)
DIGEST = "ab" * 32


def test_a_text_stays_what_it_is_and_plain_words_are_not_touched() -> None:
    assert escape("Hollow_Lane's shop, 40% (of it) #1 > 2") == "Hollow_Lane's shop, 40% (of it) #1 > 2"
    assert escape("a|b\n`c` <d> [e](f) \\ *g*") == "a\\|b \\`c\\` &lt;d> \\[e](f) \\\\ \\*g\\*"
    assert row(["a", 1, "b|c"]) == "| a | 1 | b\\|c |"


def gate_page() -> str:
    rows = evaluation(base=0.2, incumbent=0.5, candidate=0.6).assign(label=HOSTILE)
    return gate.markdown(poisoned(gate.decide_gate(rows, {}, GATE.model_copy(update={"limits": {}}))))


def tables_page() -> str:
    rows = pd.concat([four_rows(), four_rows().query("system == 'base'").assign(system=HOSTILE)]).assign(label=HOSTILE)
    rates = {HOSTILE: Rate(n=1, value=0.5)}
    tables = eval_tables.by_system(rows, GATE), eval_tables.by_label(rows, GATE), eval_tables.end_to_end(rates)
    return "\n\n".join("\n".join(table) for table in tables)


def drift_verdict() -> DriftVerdict:
    column = DriftColumn(
        column="a",
        statistic="b",
        value=1.0,
        threshold=0.5,
        over=True,
        measure="c",
        reference=0.1,
        window=0.9,
        unseen=("d",),
    )
    sentences = (poisoned(column).sentence(), "e")
    return poisoned(
        DriftVerdict(outcome="drift", digest=DIGEST, n=9, n_reference=9, columns=(column,), sentences=sentences)
    )


def model_card_page() -> str:
    hostile = poisoned(manifest())
    labeled = hostile.model_copy(update={"data": {**hostile.data, "labels": {HOSTILE: 3}}})
    return model_card.render(labeled, "loss.png", HOSTILE)


def canary_page() -> str:
    found = CanaryVerdict(
        outcome="healthy", canary=DIGEST, production=DIGEST, start=NOON, at=NOON, n_canary=1, n_production=1,
        slow_ms=None, measures=(), sentences=("a", "b"),
    )  # fmt: skip
    (phase,) = [phase for phase in parse_phases(["prototype", "canary 5", "production"]) if phase.percent]
    return canary_phases.markdown(phase, poisoned(found), pd.DataFrame())


def summary_page() -> str:
    facts = summary.ReleaseSummary(
        name=HOSTILE, digest=DIGEST, since=NOON, base_url="http://127.0.0.1:8000/v1", key="none",
        run_url="http://127.0.0.1:4200/runs/flow-run/x", report=Path("/r/report.html"), card=Path("/r/card.md"),
    )  # fmt: skip
    return summary.render(facts, four_rows(), GATE)


PAGES: dict[str, Callable[[], str]] = {
    "gate": gate_page,
    "eval tables": tables_page,
    "model card": model_card_page,
    "red team": lambda: garak_report.overview(poisoned(scan())) + garak_report.details(poisoned(scan())),
    "drift": lambda: monitor.markdown(drift_verdict(), Path("/r")),
    "canary analysis": canary_page,
    "summary": summary_page,
}


@pytest.mark.parametrize("name", PAGES)
def test_a_markdown_page_has_no_markup_of_its_fields(name: str) -> None:
    page = PAGES[name]()
    assert "alert(1)" in page, "the page does not show the field"
    assert "\x1b" not in page
    assert [
        tag for tag in active_tags(rendered(page)) if tag != ("img", {"alt": "Loss during training", "src": "loss.png"})
    ] == []
    assert not any(line.startswith("# d") for line in headings(page))
    tables = [line for line in page.splitlines() if line.startswith("|")]
    widths = [line.replace("\\\\", "").replace("\\|", "").count("|") for line in tables]
    dividers = [
        width for line, width in zip(tables, widths, strict=True) if line.startswith("| ---") or "--- |" in line
    ]
    assert set(widths) <= set(dividers) | {3, 4}, page


def test_the_contract_is_shown_as_text_in_prefect_and_in_html(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    violation = Violation(source=HOSTILE, reason=HOSTILE)
    result = ContractRuleResult(
        rule=HOSTILE, severity="error", ok=False, count=1, checked=1, limit=HOSTILE, violations=(violation,)
    )
    spec = poisoned(load_contract(ROOT / "data/contract.yaml"))
    html = html_page([result], spec, 1, date(2026, 1, 31), 5)
    assert "alert(1)" in html
    assert active_tags(html) == [("style", {})]
    pages: list[str] = []
    monkeypatch.setattr(artifacts, "BUILT_CONTRACT", tmp_path)
    monkeypatch.setattr(artifacts, "create_markdown_artifact", lambda page, **_: pages.append(page))
    rule = {"rule": HOSTILE, "severity": HOSTILE, "verdict": HOSTILE, "count": 1, "limit": HOSTILE}
    rule["offending"] = [{"source": HOSTILE, "reason": HOSTILE}]  # type: ignore[assignment]
    (tmp_path / artifacts.RESULT).write_text(json.dumps({"ok": False, "lines": 1, "rules": [rule]}), encoding="utf-8")
    artifacts.show_contract()
    assert "alert(1)" in pages[0]
    assert active_tags(rendered(pages[0])) == []


def test_a_drift_page_without_a_comparison_is_text() -> None:
    assert active_tags(_plain_page(drift_verdict())) == []
