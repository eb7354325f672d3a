"""Refusal messages: the text that replaces a blocked request's answer.

Each begins as people and scanners expect a refusal to begin, and contains one of the contract's
refusal phrases, so that evaluation and drift count it as a refusal. It does not name the finding, as
that would teach an attacker.
"""

from __future__ import annotations

from deployments.app.guardrails.checks import CheckedText
from tasks.engine.protocol import FinishReason
from tasks.tools.policy import Decision

FINISH_REASON: FinishReason = "content_filter"
"""OpenAI's `finish_reason` of a blocked answer."""

ATTACK = "I can't help with that. If there is something else that I can do for you, ask away."
ANSWER = "I can't help with that as you put it. Ask in other words, or ask for a person."
FAILED = "I can't help with that just now, as something went wrong here. Please try again later, or ask for a person."
RULED_OUT = "I can't answer that as it stands."


def ruled_out(decision: Decision) -> str:
    """The answer in place of one that a rule refused, where the rule has no statement of its own."""
    return f"{RULED_OUT} {decision.reason} Ask for a person if you need more."


def refusal_text(checked: CheckedText) -> str:
    """The answer for a blocked text."""
    last = checked.findings[-1]
    if last.outcome == "failed":
        return FAILED
    return ATTACK if last.check == "injection" else ANSWER
