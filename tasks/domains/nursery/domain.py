"""The nursery as a domain: the functions by which the framework opens its tool service and its audit."""

from __future__ import annotations

from pathlib import Path

from tasks.core.settings import ShopSettings
from tasks.domains.nursery.tool_service import open_tool_service
from tasks.tools.domain_interface import Domain, LeakLimits, TurnAudit


def open_audit(settings: ShopSettings, shop: Path, limits: LeakLimits) -> TurnAudit:
    """The audit of turns that each begin with a copy of the database `shop`."""
    from tasks.domains.nursery.turn_audit import open_turn_audit  # not imported where requests are answered

    return open_turn_audit(settings, shop, limits)


DOMAIN = Domain(open_tool_service, open_audit)
