"""The nine tools of the desk, each a function on the shop's rows within one transaction.

Whether the call is allowed was decided before: `tasks/domains/nursery/tool_service.py` puts the rules
and the transaction around every call, so no tool is called without them.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, datetime, timedelta
from itertools import islice
from typing import Literal

from tasks.core.records import Record
from tasks.domains.nursery.calendar import delivery_days, dispatch_for, wished_day
from tasks.domains.nursery.entities import Claim, Order, OrderLine, Postage, Promise, Return, Status
from tasks.domains.nursery.item_names import find_name
from tasks.domains.nursery.refunds import refundable
from tasks.domains.nursery.tool_arguments import (
    ClaimArguments,
    DeliveryArguments,
    ItemArguments,
    OrderArguments,
    RefundArguments,
    ReturnArguments,
    TopicArguments,
)
from tasks.domains.nursery.transaction import ShopTransaction
from tasks.tools.toolbox import Toolbox, ToolError, tool

TIMEOUT_S = 5.0
FRESH_DAYS = 3
SHOWN_DAYS = 5


@dataclass(frozen=True)
class ToolContext:
    """The context of one tool call.

    Attributes:
        transaction: the shop's rows.
        customer: the customer's id; None if the client is not signed in.
        now: the shop's time.
    """

    transaction: ShopTransaction
    customer: str | None
    now: datetime

    def order(self, order_id: str) -> Order:
        order = self.transaction.order(order_id)
        if order is None:
            raise ToolError("not_found", "There is no such order.")
        return order


class OrderState(Record):
    status: Status
    items: tuple[str, ...]
    courier: str | None
    day: date | None


class DeliveryChange(Record):
    moved_to: date


class Cancellation(Record):
    cancelled: Literal[True] = True


class ReturnReceipt(Record):
    return_id: str
    postage: Postage


class ClaimReceipt(Record):
    claim_id: str
    promise: Promise


class StockLevel(Record):
    item: str
    in_stock: int
    price: str


class Handover(Record):
    ticket: str


class DeliverySlots(Record):
    days: tuple[date, ...]


class RefundReceipt(Record):
    refunded: str


@tool(effect=False, caller="customer", timeout_s=TIMEOUT_S)
def find_order(context: ToolContext, arguments: OrderArguments) -> OrderState:
    """Status, courier and dispatch day of an order."""
    order = context.order(arguments.order_id)
    items = tuple(f"{line.quantity} x {line.item}" for line in order.lines)
    day = None if order.status == "cancelled" else order.delivered_on or order.dispatch_on
    return OrderState(status=order.status, items=items, courier=order.courier, day=day)


@tool(effect=True, caller="customer", timeout_s=TIMEOUT_S)
def change_delivery(context: ToolContext, arguments: DeliveryArguments) -> DeliveryChange:
    """Move the delivery of an order to another day."""
    order = context.order(arguments.order_id)
    day = wished_day(arguments.date, order.deliver_on, context.now, order.transit_days)
    if day is None:
        raise ToolError("bad_date", "Nothing can be delivered on that day; we deliver on Monday to Friday.")
    context.transaction.move(order.id, dispatch_for(day, order.transit_days), day)
    return DeliveryChange(moved_to=day)


@tool(effect=True, caller="customer", timeout_s=TIMEOUT_S)
def cancel_order(context: ToolContext, arguments: OrderArguments) -> Cancellation:
    """Cancel an order that is not packed yet."""
    context.transaction.cancel(arguments.order_id)
    return Cancellation()


@tool(effect=True, caller="customer", timeout_s=TIMEOUT_S)
def start_return(context: ToolContext, arguments: ReturnArguments) -> ReturnReceipt:
    """Start the return of hard goods, seeds or bulbs."""
    order = context.order(arguments.order_id)
    line = ordered_line(order, arguments.item)
    if any(done.item == line.item for done in order.returns):
        raise ToolError("not_allowed", "A return of that item is open already.")
    postage: Postage = "ours" if line.faulty else "customer"
    number = context.transaction.add_return(order.id, Return(item=line.item, postage=postage))
    return ReturnReceipt(return_id=f"R-{number:05d}", postage=postage)


@tool(effect=True, caller="customer", timeout_s=TIMEOUT_S)
def open_claim(context: ToolContext, arguments: ClaimArguments) -> ClaimReceipt:
    """Open a claim under the Fresh Arrival or the First Season promise."""
    order = context.order(arguments.order_id)
    line = ordered_line(order, arguments.item)
    if any(claim.item == line.item for claim in order.claims):
        raise ToolError("not_allowed", "A claim for that item is open already.")
    promise: Promise = "fresh_arrival" if is_fresh(order, context.now.date()) else "first_season"
    number = context.transaction.add_claim(order.id, Claim(item=line.item, problem=arguments.problem, promise=promise))
    return ClaimReceipt(claim_id=f"K-{number:05d}", promise=promise)


@tool(effect=False, caller="anyone", timeout_s=TIMEOUT_S)
def check_stock(context: ToolContext, arguments: ItemArguments) -> StockLevel:
    """Whether an item is in stock, and its price."""
    name = find_name(arguments.item, context.transaction.item_names())
    if name is None:
        raise ToolError("not_sold", "We sell nothing of that name.")
    item = context.transaction.item(name)
    return StockLevel(item=item.name, in_stock=item.in_stock, price=pounds(item.price_pence))


@tool(effect=True, caller="anyone", timeout_s=TIMEOUT_S)
def hand_over(context: ToolContext, arguments: TopicArguments) -> Handover:
    """Hand the conversation to a person at the desk."""
    known = context.customer if context.customer and context.transaction.customer(context.customer) else None
    return Handover(ticket=f"T-{context.transaction.add_ticket(known, arguments.topic):05d}")


@tool(effect=False, caller="customer", timeout_s=TIMEOUT_S)
def delivery_slots(context: ToolContext, arguments: OrderArguments) -> DeliverySlots:
    """Days to which the delivery of an order can move."""
    order = context.order(arguments.order_id)
    days = (day for day in delivery_days(context.now, order.transit_days) if day != order.deliver_on)
    return DeliverySlots(days=tuple(islice(days, SHOWN_DAYS)))


@tool(effect=True, caller="customer", timeout_s=TIMEOUT_S)
def refund_order(context: ToolContext, arguments: RefundArguments) -> RefundReceipt:
    """Refund an order, as far as its state supports it."""
    order = context.order(arguments.order_id)
    pence = refundable(order, arguments.reason, context.now.date())
    context.transaction.add_refund(order.id, arguments.reason, pence)
    return RefundReceipt(refunded=pounds(pence))


TOOLS: Toolbox[ToolContext] = Toolbox(
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


def find_line(order: Order, item: str) -> OrderLine | None:
    """The line of an order that a customer names by `item`."""
    name = find_name(item, [line.item for line in order.lines])
    return None if name is None else order.line(name)


def ordered_line(order: Order, item: str) -> OrderLine:
    """As `find_line`.

    Raises:
        ToolError: no line of the order has that name, or more than one.
    """
    line = find_line(order, item)
    if line is None:
        raise ToolError("not_found", "That item is not in the order by this name.")
    return line


def is_fresh(order: Order, today: date) -> bool:
    """Whether the order was delivered so recently that the Fresh Arrival promise holds."""
    return order.delivered_on is not None and today - order.delivered_on <= timedelta(days=FRESH_DAYS)


def pounds(pence: int) -> str:
    return f"{pence // 100}.{pence % 100:02d}"
