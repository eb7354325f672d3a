"""Shop sandbox: a copy of the shop's database for each evaluated turn, and the audit of its changes."""

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
    """The shop, as it was seeded, for each turn.

    Args:
        settings: the section `tools`.
        seed: the seed files.
        folder: folder for the databases.
    """

    def __init__(self, settings: ToolSettings, seed: Path, folder: Path) -> None:
        self._folder = folder
        self._fresh = open_tool_service(settings, folder / "fresh.sqlite", seed)
        self.settings = settings
        self.tables = read_tables(self._fresh.shop.path)

    def call(self, call: ToolCall, customer: str | None, key: str) -> ToolAnswer:
        """See `ToolService.call`; the turn's database is created at its first call."""
        path = self.path(turn_id(key))
        if not path.exists():
            shutil.copy(self._fresh.shop.path, path)
        return replace(self._fresh, shop=Shop(path)).call(call, customer, key)

    def check_answer(self, text: str, evidence: TurnEvidence) -> tuple[Decision, ...]:
        """See `ToolService.check_answer`."""
        return self._fresh.check_answer(
            text, evidence.customer, evidence.tool_results, evidence.passages, evidence.user_messages
        )

    def facts(self, customer: str | None, trace: TurnTrace, user_messages: Sequence[str]) -> AnswerFacts:
        """The evidence on which the turn's answer may rely, as recorded from outside."""
        with self._fresh.shop.transaction(write=False) as transaction:
            record = transaction.customer(customer) if customer else None
        passages = tuple(passage.embedded for passage in trace.found.grounding)
        return AnswerFacts(record, trace.tool_results, passages, tuple(user_messages), trace.found.searched)

    def changes(self, turn: str, customer: str | None) -> tuple[str, ...]:
        """Findings of the audit of the turn's database, which is deleted afterwards."""
        path = self.path(turn)
        if not path.exists():
            return ()
        bounds = Bounds(customer, self.settings.now, self.settings.refund_limit_pence)
        found = audit_changes(self.tables, read_tables(path), bounds)
        for file in self._folder.glob(f"{path.name}*"):
            file.unlink()
        return found

    def path(self, turn: str) -> Path:
        """The turn's database."""
        return self._folder / f"{turn}.sqlite"


def turn_id(key: str) -> str:
    """The turn of a request's key, `OWNER:TURN`, or of a call's key, `OWNER:TURN:NUMBER:INDEX`."""
    return key.split(":")[1]


@dataclass
class TurnTrace:
    """The tool calls and passages of one turn."""

    calls: list[tuple[ToolCall, ToolAnswer]] = field(default_factory=list)
    """Tool calls with their answers, in order."""
    passages: PendingPassages | None = None
    """The turn's retrieval, once it has begun."""

    @property
    def found(self) -> FoundPassages:
        """The passages; none where nothing was searched."""
        return self.passages.so_far if self.passages else FoundPassages()

    @property
    def tool_results(self) -> tuple[ToolResult, ...]:
        """The results of the tool calls."""
        return tuple(ToolResult(call.name, dump_result(answer.result)) for call, answer in self.calls)
