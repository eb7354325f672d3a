"""The words of a refusal by a check, and nothing about when one is due.

Each begins as people and scanners expect a refusal to begin, and holds one of the contract's
refusal phrases, so that evaluation and drift count it as one. It does not say what was found: that
would teach an attacker.
"""

from __future__ import annotations

from deployments.app.guardrails.checks import CheckedText
from tasks.engine.protocol import FinishReason
from tasks.tools.policy import Decision

FINISH_REASON: FinishReason = "content_filter"
"""OpenAI's `finish_reason` of an answer that a check refused."""

ATTACK = "I can't help with that. If there is something else that I can do for you, ask away."
ANSWER = "I can't help with that as you put it. Ask in other words, or ask for a person."
FAILED = "I can't help with that just now, as something went wrong here. Please try again later, or ask for a person."
RULED_OUT = "I can't answer that as it stands."


def ruled_out(decision: Decision) -> str:
    """What to answer instead of words that a rule does not allow, unless the rule knows better."""
    return f"{RULED_OUT} {decision.reason} Ask for a person if you need more."


def refusal_text(checked: CheckedText) -> str:
    """What to answer instead, for a text that was blocked."""
    last = checked.findings[-1]
    if last.outcome == "failed":
        return FAILED
    return ATTACK if last.check == "injection" else ANSWER
