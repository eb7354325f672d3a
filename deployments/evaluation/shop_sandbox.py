"""A sandboxed copy of the shop for each turn that is evaluated, and the audit of what the turn changed."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from deployments.app.steps.output_checks import TurnEvidence
from deployments.app.steps.retrieval import FoundPassages, PendingPassages
from tasks.core.records import ToolCall
from tasks.core.settings import ToolSettings
from tasks.domains.nursery.answer_rules import AnswerFacts
from tasks.domains.nursery.database import Shop
from tasks.domains.nursery.state_audit import Bounds, audit_changes, read_tables
from tasks.domains.nursery.tool_service import ToolAnswer, open_tool_service
from tasks.tools.policy import Decision, ToolResult
from tasks.tools.toolbox import dump_result


class ShopSandbox:
    """The shop, for each turn as it was seeded.

    Args:
        settings: the section `tools`.
        seed: the seed files.
        folder: where databases may be made.
    """

    def __init__(self, settings: ToolSettings, seed: Path, folder: Path) -> None:
        self._folder = folder
        self._fresh = open_tool_service(settings, folder / "fresh.sqlite", seed)
        self.settings = settings
        self.tables = read_tables(self._fresh.shop.path)

    def call(self, call: ToolCall, customer: str | None, key: str) -> ToolAnswer:
        """See `ToolService.call`; the turn's shop is made at its first call."""
        path = self.path(turn_id(key))
        if not path.exists():
            shutil.copy(self._fresh.shop.path, path)
        return replace(self._fresh, shop=Shop(path)).call(call, customer, key)

    def check_answer(self, text: str, facts: TurnEvidence) -> tuple[Decision, ...]:
        """See `ToolService.check_answer`."""
        return self._fresh.check_answer(text, facts.customer, facts.tool_results, facts.passages, facts.user_messages)

    def facts(self, customer: str | None, notes: TurnTrace, said: Sequence[str]) -> AnswerFacts:
        """What the turn's answer may lean on, as it is seen from outside."""
        with self._fresh.shop.transaction(write=False) as books:
            known = books.customer(customer) if customer else None
        passages = tuple(chunk.embedded for chunk in notes.found.grounding)
        return AnswerFacts(known, notes.tool_results, passages, tuple(said), notes.found.searched)

    def changes(self, turn: str, customer: str | None) -> tuple[str, ...]:
        """What the audit finds in the turn's shop, which is thrown away."""
        path = self.path(turn)
        if not path.exists():
            return ()
        bounds = Bounds(customer, self.settings.now, self.settings.refund_limit_pence)
        found = audit_changes(self.tables, read_tables(path), bounds)
        for file in self._folder.glob(f"{path.name}*"):
            file.unlink()
        return found

    def path(self, turn: str) -> Path:
        return self._folder / f"{turn}.sqlite"


def turn_id(key: str) -> str:
    """The turn whose request, or whose call, bears this key: `OWNER:TURN` or `OWNER:TURN:ROUND:PLACE`."""
    return key.split(":")[1]


@dataclass
class TurnTrace:
    """What one turn did and read."""

    calls: list[tuple[ToolCall, ToolAnswer]] = field(default_factory=list)
    passages: PendingPassages | None = None

    @property
    def found(self) -> FoundPassages:
        return self.passages.so_far if self.passages else FoundPassages()

    @property
    def tool_results(self) -> tuple[ToolResult, ...]:
        return tuple(ToolResult(call.name, dump_result(answered.result)) for call, answered in self.calls)
