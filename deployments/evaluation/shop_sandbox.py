"""A sandboxed copy of the shop for each turn that is evaluated, and the audit of what the turn changed."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from deployments.app.steps.output_checks import Facts
from deployments.app.steps.retrieval import Read, Reading
from tasks.core.records import ToolCall
from tasks.core.settings import ToolSettings
from tasks.domains.nursery.answer_rules import TurnFacts
from tasks.domains.nursery.database import Shop
from tasks.domains.nursery.state_audit import Bounds, audit_changes, read_tables
from tasks.domains.nursery.tool_service import Answered, open_desk
from tasks.tools.policy import Decision, Deed
from tasks.tools.toolbox import dump_result


class Desks:
    """The shop, for each turn as it was seeded.

    Args:
        settings: the section `tools`.
        seed: the seed files.
        folder: where databases may be made.
    """

    def __init__(self, settings: ToolSettings, seed: Path, folder: Path) -> None:
        self._folder = folder
        self._fresh = open_desk(settings, folder / "fresh.sqlite", seed)
        self.settings = settings
        self.tables = read_tables(self._fresh.shop.path)

    def answer(self, call: ToolCall, customer: str | None, key: str) -> Answered:
        """See `Desk.answer`; the turn's shop is made at its first call."""
        path = self.path(turn_of(key))
        if not path.exists():
            shutil.copy(self._fresh.shop.path, path)
        return replace(self._fresh, shop=Shop(path)).answer(call, customer, key)

    def before_answer(self, text: str, facts: Facts) -> tuple[Decision, ...]:
        """See `Desk.before_answer`."""
        return self._fresh.before_answer(text, facts.customer, facts.deeds, facts.passages, facts.said)

    def facts(self, customer: str | None, notes: TurnTrace, said: Sequence[str]) -> TurnFacts:
        """What the turn's answer may lean on, as it is seen from outside."""
        with self._fresh.shop.transaction(write=False) as books:
            known = books.customer(customer) if customer else None
        passages = tuple(chunk.embedded for chunk in notes.read.known)
        return TurnFacts(known, notes.deeds, passages, tuple(said), notes.read.searched)

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


def turn_of(key: str) -> str:
    """The turn whose request, or whose call, bears this key: `OWNER:TURN` or `OWNER:TURN:ROUND:PLACE`."""
    return key.split(":")[1]


@dataclass
class TurnTrace:
    """What one turn did and read."""

    calls: list[tuple[ToolCall, Answered]] = field(default_factory=list)
    reading: Reading | None = None

    @property
    def read(self) -> Read:
        return self.reading.so_far if self.reading else Read()

    @property
    def deeds(self) -> tuple[Deed, ...]:
        return tuple(Deed(call.name, dump_result(answered.result)) for call, answered in self.calls)
