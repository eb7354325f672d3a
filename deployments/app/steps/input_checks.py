"""What comes in, checked before anything else reads it: the customer's words, and what a client's tools told."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, replace

from deployments.app.guardrails.checks import CheckedText, CheckFinding, Guardrails, When
from deployments.app.guardrails.refusal import refusal_text
from deployments.core.messages import TurnRequest
from tasks.core.records import Message

_WHEN: dict[str, When] = {"user": "before", "tool": "data"}
"""Whose words are looked at, and as what. A system text is the client's own, the assistant's words ours."""


@dataclass(frozen=True)
class CheckedInput:
    """An ask as it may go on, what was found in it, and the words of the refusal if it may not."""

    request: TurnRequest
    findings: tuple[CheckFinding, ...]
    refusal: str = ""

    @property
    def blocked_by(self) -> str:
        """The check that refused it, if one did."""
        return self.findings[-1].check if self.refusal else ""


class InputGuard:
    """Checks asks.

    Args:
        safety: the checks.
    """

    def __init__(self, safety: Guardrails) -> None:
        self.safety = safety

    async def check(self, ask: TurnRequest) -> CheckedInput:
        """Check a conversation, or a text; the event loop is free meanwhile."""
        return await asyncio.to_thread(self._check, ask)

    def _check(self, ask: TurnRequest) -> CheckedInput:
        findings: list[CheckFinding] = []
        if ask.text is not None:
            checked = self.safety.check("before", ask.text)
            return CheckedInput(replace(ask, text=checked.text), checked.findings, _refusal(checked))
        messages: list[Message] = []
        for message in ask.messages:
            if (when := _WHEN.get(message.role)) is None:
                messages.append(message)
                continue
            checked = self.safety.check(when, message.content)
            findings += checked.findings
            if checked.blocked:
                return CheckedInput(ask, tuple(findings), _refusal(checked))
            messages.append(message.model_copy(update={"content": checked.text}))
        return CheckedInput(replace(ask, messages=tuple(messages)), tuple(findings))


def user_messages(messages: Sequence[Message]) -> tuple[str, ...]:
    """What the customer wrote, oldest first."""
    return tuple(message.content for message in messages if message.role == "user")


def _refusal(checked: CheckedText) -> str:
    return refusal_text(checked) if checked.blocked else ""
