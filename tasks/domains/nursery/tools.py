"""The nine tools of the desk. Each does what it is asked in one transaction, whose rows are the shop's.

Who may ask, and whether it is allowed, was settled before: `tasks/domains/nursery/tool_service.py` puts the rules and
the transaction around every call, so nothing here is called without them.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, datetime, timedelta
from itertools import islice
from typing import Literal

from tasks.core.records import Record
from tasks.domains.nursery.calendar import delivery_days, dispatch_for, wished_day
from tasks.domains.nursery.entities import Claim, Line, Order, Postage, Promise, Return, Status
from tasks.domains.nursery.item_names import find_name
from tasks.domains.nursery.refunds import refundable
from tasks.domains.nursery.tool_arguments import NewDay, OfItem, OfOrder, OfTopic, ToClaim, ToRefund, ToReturn
from tasks.domains.nursery.transaction import Books
from tasks.tools.toolbox import Toolbox, ToolError, tool

TIMEOUT_S = 5.0
FRESH_DAYS = 3
SHOWN_DAYS = 5


@dataclass(frozen=True)
class Visit:
    """One call's view of the shop: its rows, who asks (None: somebody unknown), and when."""

    books: Books
    customer: str | None
    now: datetime

    def order(self, order_id: str) -> Order:
        order = self.books.order(order_id)
        if order is None:
            raise ToolError("not_found", "There is no such order.")
        return order


class OrderState(Record):
    status: Status
    items: tuple[str, ...]
    courier: str | None
    day: date | None


class Moved(Record):
    moved_to: date


class Cancelled(Record):
    cancelled: Literal[True] = True


class Returned(Record):
    return_id: str
    postage: Postage


class Claimed(Record):
    claim_id: str
    promise: Promise


class Stock(Record):
    item: str
    in_stock: int
    price: str


class HandedOver(Record):
    ticket: str


class Slots(Record):
    days: tuple[date, ...]


class Refunded(Record):
    refunded: str


@tool(effect=False, caller="customer", timeout_s=TIMEOUT_S)
def find_order(visit: Visit, asked: OfOrder) -> OrderState:
    """Status, courier and dispatch day of an order."""
    order = visit.order(asked.order_id)
    items = tuple(f"{line.quantity} x {line.item}" for line in order.lines)
    day = None if order.status == "cancelled" else order.delivered_on or order.dispatch_on
    return OrderState(status=order.status, items=items, courier=order.courier, day=day)


@tool(effect=True, caller="customer", timeout_s=TIMEOUT_S)
def change_delivery(visit: Visit, asked: NewDay) -> Moved:
    """Move the delivery of an order to another day."""
    order = visit.order(asked.order_id)
    day = wished_day(asked.date, order.deliver_on, visit.now, order.transit_days)
    if day is None:
        raise ToolError("bad_date", "Nothing can be delivered on that day; we deliver on Monday to Friday.")
    visit.books.move(order.id, dispatch_for(day, order.transit_days), day)
    return Moved(moved_to=day)


@tool(effect=True, caller="customer", timeout_s=TIMEOUT_S)
def cancel_order(visit: Visit, asked: OfOrder) -> Cancelled:
    """Cancel an order that is not packed yet."""
    visit.books.cancel(asked.order_id)
    return Cancelled()


@tool(effect=True, caller="customer", timeout_s=TIMEOUT_S)
def start_return(visit: Visit, asked: ToReturn) -> Returned:
    """Start the return of hard goods, seeds or bulbs."""
    order = visit.order(asked.order_id)
    line = ordered_line(order, asked.item)
    if any(done.item == line.item for done in order.returns):
        raise ToolError("not_allowed", "A return of that item is open already.")
    postage: Postage = "ours" if line.faulty else "customer"
    number = visit.books.add_return(order.id, Return(item=line.item, postage=postage))
    return Returned(return_id=f"R-{number:05d}", postage=postage)


@tool(effect=True, caller="customer", timeout_s=TIMEOUT_S)
def open_claim(visit: Visit, asked: ToClaim) -> Claimed:
    """Open a claim under the Fresh Arrival or the First Season promise."""
    order = visit.order(asked.order_id)
    line = ordered_line(order, asked.item)
    if any(claim.item == line.item for claim in order.claims):
        raise ToolError("not_allowed", "A claim for that item is open already.")
    promise: Promise = "fresh_arrival" if is_fresh(order, visit.now.date()) else "first_season"
    number = visit.books.add_claim(order.id, Claim(item=line.item, problem=asked.problem, promise=promise))
    return Claimed(claim_id=f"K-{number:05d}", promise=promise)


@tool(effect=False, caller="anyone", timeout_s=TIMEOUT_S)
def check_stock(visit: Visit, asked: OfItem) -> Stock:
    """Whether an item is in stock, and its price."""
    name = find_name(asked.item, visit.books.item_names())
    if name is None:
        raise ToolError("not_sold", "We sell nothing of that name.")
    item = visit.books.item(name)
    return Stock(item=item.name, in_stock=item.in_stock, price=pounds(item.price_pence))


@tool(effect=True, caller="anyone", timeout_s=TIMEOUT_S)
def hand_over(visit: Visit, asked: OfTopic) -> HandedOver:
    """Hand the conversation to a person at the desk."""
    known = visit.customer if visit.customer and visit.books.customer(visit.customer) else None
    return HandedOver(ticket=f"T-{visit.books.add_ticket(known, asked.topic):05d}")


@tool(effect=False, caller="customer", timeout_s=TIMEOUT_S)
def delivery_slots(visit: Visit, asked: OfOrder) -> Slots:
    """Days to which the delivery of an order can move."""
    order = visit.order(asked.order_id)
    days = (day for day in delivery_days(visit.now, order.transit_days) if day != order.deliver_on)
    return Slots(days=tuple(islice(days, SHOWN_DAYS)))


@tool(effect=True, caller="customer", timeout_s=TIMEOUT_S)
def refund_order(visit: Visit, asked: ToRefund) -> Refunded:
    """Refund an order, as far as its state supports it."""
    order = visit.order(asked.order_id)
    pence = refundable(order, asked.reason, visit.now.date())
    visit.books.add_refund(order.id, asked.reason, pence)
    return Refunded(refunded=pounds(pence))


TOOLS: Toolbox[Visit] = Toolbox(
    [
        find_order,
        change_delivery,
        cancel_order,
        start_return,
        open_claim,
        check_stock,
        hand_over,
        delivery_slots,
        refund_order,
    ]
)


def find_line(order: Order, item: str) -> Line | None:
    """The line that a customer means by `item`."""
    name = find_name(item, [line.item for line in order.lines])
    return None if name is None else order.line(name)


def ordered_line(order: Order, item: str) -> Line:
    """As `find_line`.

    Raises:
        ToolError: nothing in the order is called that, or more than one thing.
    """
    line = find_line(order, item)
    if line is None:
        raise ToolError("not_found", "That item is not in the order by this name.")
    return line


def is_fresh(order: Order, today: date) -> bool:
    """Whether the order came so lately that the Fresh Arrival promise holds."""
    return order.delivered_on is not None and today - order.delivered_on <= timedelta(days=FRESH_DAYS)


def pounds(pence: int) -> str:
    return f"{pence // 100}.{pence % 100:02d}"
