"""The audit of a whole turn: of the shop's database, of the orders that tools read, and of the answer."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tasks.core.settings import ShopSettings
from tasks.domains.nursery.answer_audit import audit_answer
from tasks.domains.nursery.answer_rules import AnswerFacts
from tasks.domains.nursery.database import Shop
from tasks.domains.nursery.state_audit import Bounds, Tables, audit_changes, audit_reads, read_tables
from tasks.tools.domain_interface import FinishedTurn, LeakLimits


def open_turn_audit(settings: ShopSettings, shop: Path, limits: LeakLimits) -> ShopAudit:
    """The audit of turns that each begin with a copy of the database `shop`."""
    return ShopAudit(Shop(shop), read_tables(shop), settings, limits)


@dataclass(frozen=True)
class ShopAudit:
    """Audits turns against the database that each of them began with.

    Attributes:
        shop: that database.
        tables: its rows.
        settings: the section `shop`.
        limits: what an answer may disclose.
    """

    shop: Shop
    tables: Tables
    settings: ShopSettings
    limits: LeakLimits

    def __call__(self, turn: FinishedTurn) -> tuple[str, ...]:
        """A sentence for each violation."""
        customer = turn.evidence.customer
        calls = list(zip(turn.calls, turn.evidence.tool_results, strict=True))
        return (
            *self._changes(turn),
            *audit_reads(calls, self.tables, customer),
            *audit_answer(turn.text, AnswerFacts.of_turn(turn.evidence, self.shop), self.tables, self.limits),
        )

    def _changes(self, turn: FinishedTurn) -> tuple[str, ...]:
        if turn.state is None:
            return ()
        bounds = Bounds(turn.evidence.customer, self.settings.now, self.settings.refund_limit_pence)
        return audit_changes(self.tables, read_tables(turn.state), bounds)
