"""The shop's entities: customers, items, and orders with their returns, claims and refunds.

The same records are the lines of `data/shop/*.jsonl` and the facts of the rules. Money is in pence;
times are the nursery's own clock, without a zone.
"""

from __future__ import annotations

from datetime import date, datetime
from typing import Literal

from tasks.core.records import Record

Kind = Literal[
    "perennial", "shrub", "tree", "annual", "tender", "houseplant", "bulb", "seed", "goods", "tool", "voucher"
]
Status = Literal["placed", "packed", "sent", "delivered", "cancelled"]
Problem = Literal["dead", "damaged", "wrong", "missing"]
Promise = Literal["fresh_arrival", "first_season"]
Postage = Literal["customer", "ours"]
Reason = Literal["late", "cancelled", "returned", "claim", "overcharged"]

HARDY: frozenset[Kind] = frozenset({"perennial", "shrub", "tree"})
LIVING: frozenset[Kind] = HARDY | {"annual", "tender", "houseplant"}


class Customer(Record):
    """A customer with an account. `id` is the user that the shop's site sends with a request, such as C-1042."""

    id: str
    name: str
    email: str


class Item(Record):
    """An item that is sold. `perennial`, `shrub` and `tree` are the hardy kinds; climbers count as shrubs."""

    name: str
    kind: Kind
    price_pence: int
    in_stock: int


class OrderLine(Record):
    """An item of an order. `faulty`: the nursery knows that what it sent was at fault."""

    item: str
    kind: Kind
    quantity: int
    price_pence: int
    faulty: bool = False

    @property
    def total_pence(self) -> int:
        return self.quantity * self.price_pence


class Return(Record):
    """A return of an item; `arrived_on` once it is back at the nursery."""

    item: str
    postage: Postage
    arrived_on: date | None = None


class Claim(Record):
    """A claim for an item; `accepted_on` once a person has agreed to it."""

    item: str
    problem: Problem
    promise: Promise
    accepted_on: date | None = None


class Refund(Record):
    """A refund with its reason."""

    reason: Reason
    pence: int


class Order(Record):
    """An order and its state. `deliver_on` is the planned day, `transit_days` the working days on the road."""

    id: str
    customer: str
    status: Status
    placed_at: datetime
    dispatch_on: date
    deliver_on: date
    delivered_on: date | None = None
    courier: str | None = None
    transit_days: int
    postage_pence: int
    charged_pence: int
    lines: tuple[OrderLine, ...]
    returns: tuple[Return, ...] = ()
    claims: tuple[Claim, ...] = ()
    refunds: tuple[Refund, ...] = ()

    @property
    def due_pence(self) -> int:
        """The price of the order with postage."""
        return self.postage_pence + sum(line.total_pence for line in self.lines)

    @property
    def refunded_pence(self) -> int:
        return sum(refund.pence for refund in self.refunds)

    def line(self, item: str) -> OrderLine:
        """The line of an item that is in the order, by its exact name."""
        return next(line for line in self.lines if line.item == item)
