"""What comes in, checked before anything else reads it: the customer's words, and what a client's tools told."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, replace

from deployments.app.guardrails.checks import Checked, Finding, Safety, When
from deployments.app.guardrails.refusal import refusal_text
from deployments.core.messages import Ask
from tasks.core.records import Message

_WHEN: dict[str, When] = {"user": "before", "tool": "data"}
"""Whose words are looked at, and as what. A system text is the client's own, the assistant's words ours."""


@dataclass(frozen=True)
class Taken:
    """An ask as it may go on, what was found in it, and the words of the refusal if it may not."""

    ask: Ask
    findings: tuple[Finding, ...]
    refusal: str = ""

    @property
    def blocked_by(self) -> str:
        """The check that refused it, if one did."""
        return self.findings[-1].check if self.refusal else ""


class Intake:
    """Checks asks.

    Args:
        safety: the checks.
    """

    def __init__(self, safety: Safety) -> None:
        self.safety = safety

    async def take(self, ask: Ask) -> Taken:
        """Check a conversation, or a text; the event loop is free meanwhile."""
        return await asyncio.to_thread(self._take, ask)

    def _take(self, ask: Ask) -> Taken:
        findings: list[Finding] = []
        if ask.text is not None:
            checked = self.safety.look("before", ask.text)
            return Taken(replace(ask, text=checked.text), checked.findings, _refusal(checked))
        messages: list[Message] = []
        for message in ask.messages:
            if (when := _WHEN.get(message.role)) is None:
                messages.append(message)
                continue
            checked = self.safety.look(when, message.content)
            findings += checked.findings
            if checked.blocked:
                return Taken(ask, tuple(findings), _refusal(checked))
            messages.append(message.model_copy(update={"content": checked.text}))
        return Taken(replace(ask, messages=tuple(messages)), tuple(findings))


def said(messages: Sequence[Message]) -> tuple[str, ...]:
    """What the customer wrote, oldest first."""
    return tuple(message.content for message in messages if message.role == "user")


def _refusal(checked: Checked) -> str:
    return refusal_text(checked) if checked.blocked else ""
