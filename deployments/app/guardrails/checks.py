"""What a safety check is, and running several: before the model, on what it reads, and on what it says.

Outcomes are data, for telemetry and for tests; nothing here answers a request. A check that fails
is not a check that passed: whether the turn goes on without it is written in `params.yaml`
(`safety.on_failure`), check by check.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

When = Literal["before", "data", "after"]
"""On the customer's words, on retrieved text and tool results, or on the answer before it leaves."""
CheckOutcome = Literal["pass", "redact", "block", "failed"]
OnFailure = Literal["open", "closed"]


@dataclass(frozen=True)
class CheckContext:
    """What a check may know of the turn besides the text it looks at.

    Args:
        said: what the conversation's customer wrote, oldest first.
        results: what was retrieved and what tools answered, as it was shown to the model.
        instructions: the system text and the tools' schemas.
    """

    user_messages: Sequence[str] = ()
    results: Sequence[str] = ()
    instructions: Sequence[str] = ()


@dataclass(frozen=True)
class CheckResult:
    """What a check says: the text to go on with, which differs only if something was redacted.

    `reason` names kinds, never what was found: it is logged.
    """

    outcome: Literal["pass", "redact", "block"]
    text: str
    reason: str = ""


@dataclass(frozen=True)
class CheckFinding:
    """What came of one check, for telemetry: `ms` is how long it took."""

    check: str
    outcome: CheckOutcome
    reason: str
    ms: float


class Check(Protocol):
    """One thing that is looked for. It keeps no state between texts and may be called from any thread."""

    @property
    def name(self) -> str:
        """Its key in `safety.on_failure`."""

    @property
    def when(self) -> When:
        """Which texts it is for."""

    def __call__(self, text: str, context: CheckContext) -> CheckResult:
        """Look at one text."""


@dataclass(frozen=True)
class CheckedText:
    """What is left of a text after its checks, what they found, and whether it may go on at all."""

    text: str
    findings: tuple[CheckFinding, ...]
    blocked: bool


@dataclass(frozen=True)
class Guardrails:
    """The checks of a process, and which of them may fail without ending a turn."""

    checks: Sequence[Check]
    on_failure: Mapping[str, OnFailure]

    def only(self, name: str) -> Guardrails:
        """The check of that name alone."""
        return Guardrails([check for check in self.checks if check.name == name], self.on_failure)

    def check(self, when: When, text: str, context: CheckContext | None = None) -> CheckedText:
        """Run those that are for `when`: see `run_checks`."""
        return run_checks(self.checks, when, text, context or CheckContext(), self.on_failure)


def run_checks(
    checks: Sequence[Check], when: When, text: str, context: CheckContext, on_failure: Mapping[str, OnFailure]
) -> CheckedText:
    """Run those of `checks` that are for `when`, in their order, each on what the one before it left.

    The first block ends it. A check that raises has failed: `open` goes on without it, `closed`
    (what is not in `on_failure` is closed) blocks. The finding names the exception's type alone, as
    its message may hold the text.
    """
    findings: list[CheckFinding] = []
    for check in checks:
        if check.when != when:
            continue
        start = time.perf_counter()
        outcome: CheckOutcome
        try:
            verdict = check(text, context)
            outcome, reason, text = verdict.outcome, verdict.reason, verdict.text
        except Exception as error:
            outcome, reason = "failed", type(error).__name__
        findings.append(CheckFinding(check.name, outcome, reason, (time.perf_counter() - start) * 1000))
        if outcome == "block" or (outcome == "failed" and on_failure.get(check.name, "closed") == "closed"):
            return CheckedText(text, tuple(findings), blocked=True)
    return CheckedText(text, tuple(findings), blocked=False)
