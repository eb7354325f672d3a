"""Refundable amounts: how much of an order its state lets the shop refund, for each reason."""

from __future__ import annotations

from datetime import date

from tasks.domains.nursery.calendar import working_days_late
from tasks.domains.nursery.entities import Order, Reason

LATE_AFTER = 5
"""Working days behind the planned day up to which a parcel is not late enough for a refund."""


def refundable(order: Order, reason: Reason, today: date) -> int:
    """The amount that the order's state supports for `reason`, in pence; 0 if none.

    It is never more than was charged and is not refunded yet, and 0 for a reason that was refunded
    before: a person decides about more.
    """
    if any(refund.reason == reason for refund in order.refunds):
        return 0
    grounds = {
        "late": _late,
        "cancelled": _cancelled,
        "returned": _returned,
        "claim": _claimed,
        "overcharged": _overcharged,
    }
    return max(0, min(grounds[reason](order, today), order.charged_pence - order.refunded_pence))


def _late(order: Order, today: date) -> int:
    """The postage of a parcel that was delivered, or is still due, too long after its day."""
    if order.status not in {"sent", "delivered"}:
        return 0
    late = working_days_late(order.deliver_on, order.delivered_on or today)
    return order.postage_pence if late > LATE_AFTER else 0


def _cancelled(order: Order, _: date) -> int:
    return order.charged_pence if order.status == "cancelled" else 0


def _returned(order: Order, _: date) -> int:
    return sum(order.line(done.item).total_pence for done in order.returns if done.arrived_on)


def _claimed(order: Order, _: date) -> int:
    """Fresh Arrival is refunded in money; First Season gives a plant or store credit."""
    accepted = [claim for claim in order.claims if claim.accepted_on and claim.promise == "fresh_arrival"]
    return sum(order.line(claim.item).total_pence for claim in accepted)


def _overcharged(order: Order, _: date) -> int:
    return order.charged_pence - order.due_pence if order.status != "cancelled" else 0
