"""A sandbox for each turn that is evaluated: a copy of the domain's state in a folder of its own, and a trace."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, field
from pathlib import Path

from deployments.app.steps.retrieval import FoundPassages, PendingPassages
from tasks.core.records import ToolCall
from tasks.core.settings import ShopSettings
from tasks.tools.domain_interface import Domain, DomainToolService, FinishedTurn, LeakLimits, ToolAnswer, TurnEvidence
from tasks.tools.policy import Decision, ToolResult
from tasks.tools.toolbox import dump_result

_STATE = "state"


class Sandbox:
    """The domain's tools for each turn on the state as it was seeded, and the audit of the turn.

    Args:
        domain: the tools, rules and audits.
        settings: the domain's settings.
        seed: its seed files.
        folder: where states may be written.
        limits: what an answer may disclose.
    """

    def __init__(self, domain: Domain, settings: ShopSettings, seed: Path, folder: Path, limits: LeakLimits) -> None:
        self._folder = folder
        seeded = folder / "seeded" / _STATE
        self._seeded = domain.open_tool_service(settings, seeded, seed)
        self._audit = domain.open_audit(settings, seeded, limits)
        self._turns: dict[str, DomainToolService] = {}

    def call(self, call: ToolCall, customer: str | None, key: str) -> ToolAnswer:
        """See `DomainToolService.call`; the turn's copy of the state is made at its first call."""
        turn = turn_id(key)
        if turn not in self._turns:
            (self._folder / turn).mkdir()
            self._turns[turn] = self._seeded.copy(self._folder / turn / _STATE)
        return self._turns[turn].call(call, customer, key)

    def check_answer(self, text: str, evidence: TurnEvidence) -> tuple[Decision, ...]:
        """See `DomainToolService.check_answer`."""
        return self._seeded.check_answer(text, evidence)

    def audit(self, turn: str, text: str, calls: tuple[ToolCall, ...], evidence: TurnEvidence) -> tuple[str, ...]:
        """The violations of a turn that has ended; its state is deleted.

        Args:
            turn: the turn's key.
            text: its answer.
            calls: its tool calls.
            evidence: the facts that its answer may rely on.
        """
        if self._turns.pop(turn, None) is None:
            return self._audit(FinishedTurn(text, calls, evidence, None))
        violations = self._audit(FinishedTurn(text, calls, evidence, self._folder / turn / _STATE))
        shutil.rmtree(self._folder / turn)
        return violations


def turn_id(key: str) -> str:
    """The turn of a request's key or of a call's: `OWNER:TURN` or `OWNER:TURN:ROUND:INDEX`."""
    return key.split(":")[1]


@dataclass
class TurnTrace:
    """The tool calls and the passages of one turn.

    Attributes:
        calls: each tool call with its answer.
        passages: the search for passages; None if there was none.
    """

    calls: list[tuple[ToolCall, ToolAnswer]] = field(default_factory=list)
    passages: PendingPassages | None = None

    @property
    def found(self) -> FoundPassages:
        return self.passages.so_far if self.passages else FoundPassages()

    @property
    def tool_results(self) -> tuple[ToolResult, ...]:
        return tuple(ToolResult(call.name, dump_result(answer.result)) for call, answer in self.calls)

    def evidence(self, customer: str | None, user_messages: tuple[str, ...]) -> TurnEvidence:
        """The facts that the turn's answer may rely on, as they are seen from outside the service."""
        found = self.found
        passages = tuple(chunk.embedded for chunk in found.grounding) if found.searched else None
        return TurnEvidence(customer, self.tool_results, passages, user_messages)
