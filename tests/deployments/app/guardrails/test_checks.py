"""Guardrail checks: their order, the text that each passes on to the next, and the result when one fails."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from deployments.app.guardrails.checks import CheckContext, CheckResult, When, run_checks

NOTHING = CheckContext()


@dataclass(frozen=True)
class Replace:
    """Replaces one word, or blocks."""

    name: str
    word: str
    outcome: Literal["pass", "redact", "block"] = "redact"
    when: When = "before"

    def __call__(self, text: str, context: CheckContext) -> CheckResult:
        changed = text.replace(self.word, f"<{self.name}>")
        return CheckResult(self.outcome if changed != text else "pass", changed, self.name)


@dataclass(frozen=True)
class Broken:
    """Raises, with the text in its message."""

    name: str = "broken"
    when: When = "before"

    def __call__(self, text: str, context: CheckContext) -> CheckResult:
        raise ValueError(text)


def outcomes(findings: object) -> list[tuple[str, str]]:
    return [(finding.check, finding.outcome) for finding in findings]  # type: ignore[attr-defined]


def test_each_check_sees_what_the_one_before_it_left() -> None:
    checked = run_checks(
        [Replace("a", "rose"), Replace("b", "<a>"), Replace("c", "rose")], "before", "rose", NOTHING, {}
    )
    assert (checked.text, checked.blocked) == ("<b>", False)
    assert outcomes(checked.findings) == [("a", "redact"), ("b", "redact"), ("c", "pass")]
    assert all(finding.ms >= 0 for finding in checked.findings)


def test_only_checks_of_that_time_run() -> None:
    checks = [Replace("a", "rose", when="after"), Replace("b", "rose", when="data")]
    assert run_checks(checks, "before", "rose", NOTHING, {}).findings == ()
    assert run_checks(checks, "data", "rose", NOTHING, {}).text == "<b>"


def test_the_first_block_ends_it() -> None:
    checked = run_checks([Replace("a", "rose", "block"), Broken()], "before", "rose", NOTHING, {})
    assert checked.blocked
    assert outcomes(checked.findings) == [("a", "block")]


def test_a_check_that_fails_open_is_reported_and_skipped() -> None:
    checked = run_checks([Broken(), Replace("a", "rose")], "before", "rose", NOTHING, {"broken": "open"})
    assert (checked.text, checked.blocked) == ("<a>", False)
    assert outcomes(checked.findings) == [("broken", "failed"), ("a", "redact")]


def test_a_check_that_fails_closed_blocks_and_so_does_one_without_a_setting() -> None:
    for on_failure in ({"broken": "closed"}, {"other": "open"}):
        checked = run_checks([Broken(), Replace("a", "rose")], "before", "rose", NOTHING, on_failure)  # type: ignore[arg-type]
        assert checked.blocked
        assert outcomes(checked.findings) == [("broken", "failed")]


def test_what_a_failed_check_saw_is_not_in_its_finding() -> None:
    (finding,) = run_checks([Broken()], "before", "my card", NOTHING, {"broken": "open"}).findings
    assert finding.reason == "ValueError"
