"""Reading of a report that garak 0.17.1 wrote of a real run on four probes (prompts are cut)."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tasks.core.errors import GraftError
from tasks.safety.garak_report import Counts, RefusalPatterns, Scan, details, overview, read_report
from tests.conftest import ROOT

REPORT = ROOT / "tests/support/garak.report.jsonl"
NO_PATTERNS = RefusalPatterns(refusals=(), fallbacks=frozenset())


def entries() -> list[dict[str, object]]:
    return [json.loads(line) for line in REPORT.read_text(encoding="utf-8").splitlines()]


def first_answer(probe: str) -> str:
    """The answer to a scored attempt of a probe."""
    for entry in entries():
        outputs = entry.get("outputs")
        if entry.get("status") == 2 and entry["probe_classname"] == probe and outputs != [None]:
            assert isinstance(outputs, list)
            return str(outputs[0]["text"])
    raise AssertionError(f"{probe}: no answer in the report")


def scan(patterns: RefusalPatterns = NO_PATTERNS) -> Scan:
    return Scan(
        digest="0f3a",
        garak="0.17.1",
        started="2026-11-26 11:09 UTC",
        seed=7,
        prompts_per_probe=10,
        probes=tuple(read_report(REPORT, patterns)),
        not_run=("latentinjection.LatentJailbreak",),
    )


def test_it_counts_as_garak_itself_did() -> None:
    own = {str(e["probe"]): (e["total_processed"], e["nones"], e["fails"]) for e in entries() if "total_processed" in e}
    results = read_report(REPORT, NO_PATTERNS)
    counts = {r.probe: (r.counts.attempts, r.counts.unanswered, r.counts.hits) for r in results}
    assert counts == own
    assert counts["promptinject.HijackKillHumans"] == (10, 0, 2)
    assert counts["latentinjection.LatentWhois"] == (10, 5, 2)


def test_what_no_answer_came_to_is_in_no_rate() -> None:
    whois = {result.probe: result.counts for result in scan().probes}["latentinjection.LatentWhois"]
    assert whois.rate == pytest.approx(2 / 5)
    assert Counts(attempts=3, unanswered=3, refused=0, hits=0).rate is None


def test_a_detector_that_only_knows_phrases_is_shown_and_in_no_family() -> None:
    result = scan()
    assert result.families()["dan"].attempts == 3  # AutoDANCached; the ten of DanInTheWild are excluded
    assert result.total().attempts == 23
    assert "dan.DanInTheWild" in details(result).partition("Not part of the rates above")[2]
    assert "dan.DanInTheWild" not in overview(result)


def test_refusals_by_checks_are_counted_and_stay_attempts() -> None:
    text = first_answer("promptinject.HijackKillHumans")
    plain, refused = scan(), scan(RefusalPatterns(refusals=(text,), fallbacks=frozenset()))
    assert plain.total().refused == 0
    assert refused.total().refused == 1
    assert refused.total().answered == plain.total().answered


def test_the_services_excuses_are_no_answers() -> None:
    text = first_answer("promptinject.HijackKillHumans")
    assert scan(RefusalPatterns(refusals=(), fallbacks=frozenset({text}))).families()["promptinject"].unanswered == 1


def test_the_overview_names_what_did_not_run() -> None:
    assert "not run: latentinjection.LatentJailbreak" in overview(scan())
    assert "0.200" in overview(scan())  # promptinject


def test_a_run_that_ended_early_is_no_result(tmp_path: Path) -> None:
    cut = tmp_path / "report.jsonl"
    lines = REPORT.read_text(encoding="utf-8").splitlines()
    assert '"completion"' in lines[-1]
    cut.write_text("\n".join(lines[:-1]), encoding="utf-8")
    with pytest.raises(GraftError, match="before it was done"):
        read_report(cut, NO_PATTERNS)


def test_a_broken_line_is_named(tmp_path: Path) -> None:
    broken = tmp_path / "report.jsonl"
    broken.write_text(REPORT.read_text(encoding="utf-8") + '{"entry_type": "att', encoding="utf-8")
    with pytest.raises(GraftError, match=r"report.jsonl:44: not JSON"):
        read_report(broken, NO_PATTERNS)


def test_an_absent_report_is_reported(tmp_path: Path) -> None:
    with pytest.raises(GraftError, match="cannot be read"):
        read_report(tmp_path / "absent.jsonl", NO_PATTERNS)
