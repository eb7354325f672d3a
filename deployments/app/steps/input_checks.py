"""Input guardrails: checks of the customer's text and of the results of a client's tools, before anything else."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, replace

from deployments.app.guardrails.checks import CheckedText, CheckFinding, Guardrails, When
from deployments.app.guardrails.refusal import refusal_text
from deployments.core.messages import TurnRequest
from tasks.core.records import Message

_WHEN: dict[str, When] = {"user": "before", "tool": "data"}
"""The roles whose messages are checked, and by which checks. System messages are the client's own, assistant messages
are the model's.
"""


@dataclass(frozen=True)
class CheckedInput:
    """A request after the input guardrails."""

    request: TurnRequest
    """The request with redacted texts."""
    findings: tuple[CheckFinding, ...]
    """The findings of the checks."""
    refusal: str = ""
    """The answer of a blocked request; empty if it may go on."""

    @property
    def blocked_by(self) -> str:
        """The check that blocked the request, if one did."""
        return self.findings[-1].check if self.refusal else ""


class InputGuard:
    """Checks requests.

    Args:
        guardrails: the checks.
    """

    def __init__(self, guardrails: Guardrails) -> None:
        self.guardrails = guardrails

    async def check(self, request: TurnRequest) -> CheckedInput:
        """Check a conversation, or a text, in a thread."""
        return await asyncio.to_thread(self._check, request)

    def _check(self, request: TurnRequest) -> CheckedInput:
        findings: list[CheckFinding] = []
        if request.text is not None:
            checked = self.guardrails.check("before", request.text)
            return CheckedInput(replace(request, text=checked.text), checked.findings, _refusal(checked))
        messages: list[Message] = []
        for message in request.messages:
            if (when := _WHEN.get(message.role)) is None:
                messages.append(message)
                continue
            checked = self.guardrails.check(when, message.content)
            findings += checked.findings
            if checked.blocked:
                return CheckedInput(request, tuple(findings), _refusal(checked))
            messages.append(message.model_copy(update={"content": checked.text}))
        return CheckedInput(replace(request, messages=tuple(messages)), tuple(findings))


def user_messages(messages: Sequence[Message]) -> tuple[str, ...]:
    """The texts of the user's messages, oldest first."""
    return tuple(message.content for message in messages if message.role == "user")


def _refusal(checked: CheckedText) -> str:
    return refusal_text(checked) if checked.blocked else ""
