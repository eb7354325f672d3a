"""Guardrails: the protocol of a check, and running checks on the input, on retrieved data and on the answer.

Outcomes are data, for telemetry and for tests; this module does not answer requests. A check that
fails has not passed: `params.yaml` (`guardrails.on_failure`) says for each check whether the turn goes on
without it.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

When = Literal["before", "data", "after"]
"""On the customer's text, on passages and tool results, or on the answer before it is sent."""
CheckOutcome = Literal["pass", "redact", "block", "failed"]
OnFailure = Literal["open", "closed"]


@dataclass(frozen=True)
class CheckContext:
    """The turn around the text that is checked."""

    user_messages: Sequence[str] = ()
    """The customer's messages in the conversation, oldest first."""
    results: Sequence[str] = ()
    """Passages and tool results, as the model read them."""
    instructions: Sequence[str] = ()
    """The system prompt and the tools' descriptions."""


@dataclass(frozen=True)
class CheckResult:
    """The result of one check of one text."""

    outcome: Literal["pass", "redact", "block"]
    """Whether the text passes."""
    text: str
    """The text to go on with, which differs only if something was redacted."""
    reason: str = ""
    """The kind of the finding, never the text itself: it is logged."""


@dataclass(frozen=True)
class CheckFinding:
    """The result of one check, for telemetry."""

    check: str
    """The check's name."""
    outcome: CheckOutcome
    """Its outcome; `failed` if it raised."""
    reason: str
    """The kind of the finding, or the exception's type."""
    ms: float
    """Duration in milliseconds."""


class Check(Protocol):
    """One check. It keeps no state between texts and may be called from any thread."""

    @property
    def name(self) -> str:
        """The check's key in `guardrails.on_failure`."""

    @property
    def when(self) -> When:
        """The texts it applies to."""

    def __call__(self, text: str, context: CheckContext) -> CheckResult:
        """Check one text."""


@dataclass(frozen=True)
class CheckedText:
    """A text after its checks."""

    text: str
    """The text with redactions."""
    findings: tuple[CheckFinding, ...]
    """One finding for each check that ran."""
    blocked: bool
    """Whether the last of them blocked the text."""


@dataclass(frozen=True)
class Guardrails:
    """The checks of a process, and the policy for failures of each."""

    checks: Sequence[Check]
    """The checks, in the order in which they run."""
    on_failure: Mapping[str, OnFailure]
    """By the check's name: `open` goes on without a failed check, `closed` blocks."""

    def only(self, name: str) -> Guardrails:
        """Guardrails with the check of that name alone."""
        return Guardrails([check for check in self.checks if check.name == name], self.on_failure)

    def check(self, when: When, text: str, context: CheckContext | None = None) -> CheckedText:
        """Run the checks for `when`: see `run_checks`."""
        return run_checks(self.checks, when, text, context or CheckContext(), self.on_failure)


def run_checks(
    checks: Sequence[Check], when: When, text: str, context: CheckContext, on_failure: Mapping[str, OnFailure]
) -> CheckedText:
    """Run checks in order, each on the text that the one before it returned, until one blocks.

    A check that raises has failed. Its finding names the exception's type alone, as the message may
    contain the text.

    Args:
        checks: the checks, of which those for `when` run.
        when: the kind of text.
        text: the text.
        context: the turn around it.
        on_failure: by the check's name: `open` goes on without a failed check, `closed` (the default) blocks.
    """
    findings: list[CheckFinding] = []
    for check in checks:
        if check.when != when:
            continue
        start = time.perf_counter()
        outcome: CheckOutcome
        try:
            result = check(text, context)
            outcome, reason, text = result.outcome, result.reason, result.text
        except Exception as error:
            outcome, reason = "failed", type(error).__name__
        findings.append(CheckFinding(check.name, outcome, reason, (time.perf_counter() - start) * 1000))
        if outcome == "block" or (outcome == "failed" and on_failure.get(check.name, "closed") == "closed"):
            return CheckedText(text, tuple(findings), blocked=True)
    return CheckedText(text, tuple(findings), blocked=False)
