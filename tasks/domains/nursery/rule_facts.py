"""The facts that the rules for calls look at: a call, its customer, and the order that it is about."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, datetime, timedelta

from tasks.domains.nursery.entities import Order, OrderLine
from tasks.domains.nursery.tools import ToolContext
from tasks.tools.toolbox import Call


@dataclass(frozen=True)
class CallFacts:
    """The facts of a tool call.

    Attributes:
        call: the call.
        signed_in: whether its customer is known to the shop.
        exists: whether the order that it names exists.
        order: that order; None unless it is the customer's own.
        line: the line of the order that the argument `item` names.
        now: the shop's time.
        limit_pence: the most that the desk may refund for one order.
    """

    call: Call[ToolContext]
    signed_in: bool
    exists: bool
    order: Order | None
    line: OrderLine | None
    now: datetime
    limit_pence: int

    @property
    def does(self) -> str:
        return self.call.tool.name

    @property
    def days_since_delivery(self) -> int | None:
        if self.order is None or self.order.delivered_on is None:
            return None
        return (self.now.date() - self.order.delivered_on).days

    def within_years(self, years: int) -> bool:
        """Whether the order was delivered no more than `years` ago; the anniversary still counts."""
        came = self.order.delivered_on if self.order else None
        return came is not None and self.now.date() <= anniversary(came, years)


def anniversary(day: date, years: int) -> date:
    try:
        return day.replace(year=day.year + years)
    except ValueError:  # the 29th of February
        return day.replace(year=day.year + years, day=28) + timedelta(days=1)
