"""The default shop behind an assistant: its database in the running system's folder, its clock and limits."""

from __future__ import annotations

from pathlib import Path

from deployments.app.rounds import Use
from tasks.layout import SHOP, SHOP_SEED
from tasks.policy import Decision
from tasks.records import Record, ToolCall
from tasks.settings import ToolSettings
from tasks.shop.database import open_shop
from tasks.shop.desk import Desk


def open_desk(root: Path, settings: ToolSettings) -> Use:
    """What runs the shop's tools under its rules; the database is made from `data/shop` if there is none yet.

    Raises:
        GraftError: a seed file is wrong, or the database has another layout.
    """
    desk = Desk(open_shop(root / SHOP, root / SHOP_SEED), lambda: settings.now, settings.refund_limit_pence)

    def use(call: ToolCall, customer: str | None, key: str) -> tuple[Record, tuple[Decision, ...]]:
        answered = desk.answer(call, customer, key)
        return answered.result, answered.decisions

    return use
