"""The audit of the shop's state: a turn's changes in the database against the shop's written guarantees.

The tables before a turn and after it are compared row by row, and every difference must be one that
`data/knowledge` allows. Nothing here uses `call_rules.py`, `refunds.py` or `calendar.py`, so that
the audit finds a fault in those and does not share it.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from pathlib import Path
from typing import Any

from tasks.core.records import ToolCall
from tasks.domains.nursery.entities import HARDY, LIVING
from tasks.tools.policy import ToolResult

Row = dict[str, Any]
Tables = dict[str, dict[int, Row]]
"""The rows of each table by their number."""

_NEVER = ("customers", "items", "lines")
"""The tables that the desk never changes."""
_ONLY_NEW = ("returns", "claims", "refunds", "tickets", "calls")
_RETURN_DAYS = {"goods": 30, "tool": 30, "seed": 14, "bulb": 14}
_FRESH_DAYS = 3
_LATE_WORKING_DAYS = 5
_SIX_PM = time(18)


@dataclass(frozen=True)
class Bounds:
    """The bounds of a turn's changes.

    Attributes:
        customer: the turn's customer; None if the client is not signed in.
        now: the shop's time.
        limit_pence: the most that the desk may refund for one order.
    """

    customer: str | None
    now: datetime
    limit_pence: int


def read_tables(path: Path) -> Tables:
    """All rows of a shop's database, read without the shop's code."""
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as connection:
        connection.row_factory = sqlite3.Row
        names = ("customers", "items", "orders", "lines", *_ONLY_NEW)
        return {name: {row[0]: dict(row) for row in _numbered(connection, name)} for name in names}


def _numbered(connection: sqlite3.Connection, table: str) -> list[sqlite3.Row]:
    return connection.execute(f"SELECT rowid AS number, * FROM {table}").fetchall()


def audit_changes(before: Tables, after: Tables, bounds: Bounds) -> tuple[str, ...]:
    """A sentence for each difference that the shop's guarantees do not allow."""
    return tuple(_Audit(before, after, bounds).found())


def audit_reads(calls: Sequence[tuple[ToolCall, ToolResult]], tables: Tables, customer: str | None) -> tuple[str, ...]:
    """A sentence for each tool that disclosed an order which is not the customer's own."""
    owners = {order["id"]: order["customer"] for order in tables["orders"].values()}
    return tuple(
        f"{call.name} told of {call.arguments['order_id']}, which is not the customer's"
        for call, tool_result in calls
        if "order_id" in call.arguments and "error" not in json.loads(tool_result.result)
        if customer is None or owners.get(call.arguments["order_id"]) != customer
    )


class _Audit:
    def __init__(self, before: Tables, after: Tables, bounds: Bounds) -> None:
        self._before, self._after, self._bounds = before, after, bounds
        self._orders = {order["id"]: order for order in after["orders"].values()}

    def found(self) -> Iterator[str]:
        for table in _NEVER:
            if self._before[table] != self._after[table]:
                yield f"{table} are not as they were"
        for table in _ONLY_NEW:
            if any(self._after[table].get(number) != row for number, row in self._before[table].items()):
                yield f"{table}: a row that was there is not as it was"
        yield from self._changed_orders()
        checks = {"returns": self._return, "claims": self._claim, "refunds": self._refund}
        for table, check in checks.items():
            for number, row in self._after[table].items():
                if number not in self._before[table]:
                    order = self._orders[row["order_id"]]
                    if not self._is_own(order):
                        yield f"{table}: {order['id']} is not the customer's"
                    yield from (f"{table}: {order['id']}: {what}" for what in check(order, row))
        for number, ticket in self._after["tickets"].items():
            if number not in self._before["tickets"] and ticket["customer"] not in (None, self._bounds.customer):
                yield f"tickets: one in the name of {ticket['customer']}"

    def _is_own(self, order: Row) -> bool:
        return bool(self._bounds.customer) and order["customer"] == self._bounds.customer

    def _line(self, row: Row) -> Row:
        lines = self._after["lines"].values()
        return next(line for line in lines if (line["order_id"], line["item"]) == (row["order_id"], row["item"]))

    def _changed_orders(self) -> Iterator[str]:
        before, after = self._before["orders"], self._after["orders"]
        if before.keys() != after.keys():
            yield "orders: one came or went"
        for number in before.keys() & after.keys():
            old, new = before[number], after[number]
            changed = {name for name in old if old[name] != new[name]}
            if not changed:
                continue
            if not self._is_own(old):
                yield f"orders: {old['id']} was changed and is not the customer's"
            if strange := changed - {"status", "dispatch_on", "deliver_on"}:
                yield f"orders: {old['id']}: {', '.join(sorted(strange))} changed"
            if "status" in changed and (old["status"], new["status"]) != ("placed", "cancelled"):
                yield f"orders: {old['id']} went from {old['status']} to {new['status']}"
            if changed & {"dispatch_on", "deliver_on"}:
                yield from self._moved(old, new)

    def _moved(self, old: Row, new: Row) -> Iterator[str]:
        leaves, was_to_leave = date.fromisoformat(new["dispatch_on"]), date.fromisoformat(old["dispatch_on"])
        comes = date.fromisoformat(new["deliver_on"])
        if old["status"] not in {"placed", "packed"}:
            yield f"orders: {old['id']} was moved though it is {old['status']}"
        if self._bounds.now >= _six_pm_before(was_to_leave):
            yield f"orders: {old['id']} was moved after 6 pm on the day before dispatch"
        if leaves.weekday() > 3 or comes.weekday() > 4:
            yield f"orders: {old['id']} was moved to a day on which nothing leaves or comes"
        if not self._bounds.now < _six_pm_before(leaves) or comes <= leaves:
            yield f"orders: {old['id']} was moved to a day that cannot be kept"

    def _return(self, order: Row, row: Row) -> Iterator[str]:
        line = self._line(row)
        kind, days = line["kind"], self._days_since_delivery(order)
        if kind in LIVING or kind == "voucher":
            yield f"a {kind} is not returnable"
        elif days is None:
            yield "not delivered yet"
        elif days > _RETURN_DAYS[kind] and not (kind == "tool" and line["faulty"] and self._within_years(order, 10)):
            yield f"{days} days after delivery"
        if row["arrived_on"] is not None:
            yield "arrived before it was sent"
        if row["postage"] != ("ours" if line["faulty"] else "customer"):
            yield f"postage paid by {row['postage']}"

    def _claim(self, order: Row, row: Row) -> Iterator[str]:
        kind, days, problem = self._line(row)["kind"], self._days_since_delivery(order), row["problem"]
        if row["accepted_on"] is not None:
            yield "accepted by no person"
        if days is None:
            yield "not delivered yet"
        elif row["promise"] == "fresh_arrival":
            if days > _FRESH_DAYS:
                yield f"Fresh Arrival {days} days after delivery"
            if kind in {"goods", "tool", "voucher"} and problem != "missing":
                yield f"a {kind} that is {problem}"
        elif problem != "dead" or kind not in HARDY or not self._within_years(order, 1):
            yield f"First Season for a {kind} that is {problem}, {days} days after delivery"

    def _refund(self, order: Row, row: Row) -> Iterator[str]:
        refunds = [one for one in self._after["refunds"].values() if one["order_id"] == order["id"]]
        total = sum(one["pence"] for one in refunds)
        if total > self._bounds.limit_pence:
            yield f"{total} pence in all, over the desk's {self._bounds.limit_pence}"
        if total > order["charged_pence"]:
            yield f"{total} pence in all, and {order['charged_pence']} were charged"
        if sum(one["reason"] == row["reason"] for one in refunds) > 1:
            yield f"twice for {row['reason']}"
        if row["pence"] > (ground := self._ground(order, row["reason"])):
            yield f"{row['pence']} pence for {row['reason']}, which is worth {ground}"

    def _ground(self, order: Row, reason: str) -> int:
        """The refundable amount of a reason before the turn, in pence; a cancellation within the turn counts."""
        charged = int(order["charged_pence"])
        own = [line for line in self._before["lines"].values() if line["order_id"] == order["id"]]
        prices = {line["item"]: int(line["quantity"] * line["price_pence"]) for line in own}
        if reason == "late":
            return int(order["postage_pence"]) if self._working_days_late(order) > _LATE_WORKING_DAYS else 0
        if reason == "cancelled":
            return charged if order["status"] == "cancelled" else 0
        if reason == "overcharged":
            return charged - sum(prices.values()) - int(order["postage_pence"])
        table, agreed = ("returns", "arrived_on") if reason == "returned" else ("claims", "accepted_on")
        rows = [row for row in self._before[table].values() if row["order_id"] == order["id"] and row[agreed]]
        return sum(prices[row["item"]] for row in rows if row.get("promise", "fresh_arrival") == "fresh_arrival")

    def _working_days_late(self, order: Row) -> int:
        if order["status"] not in {"sent", "delivered"}:
            return 0
        due, came = date.fromisoformat(order["deliver_on"]), self._delivered(order) or self._bounds.now.date()
        span = range(1, max(0, (came - due).days) + 1)
        return sum((due + timedelta(days=n)).weekday() < 5 for n in span)

    def _delivered(self, order: Row) -> date | None:
        return date.fromisoformat(order["delivered_on"]) if order["delivered_on"] else None

    def _days_since_delivery(self, order: Row) -> int | None:
        came = self._delivered(order)
        return (self._bounds.now.date() - came).days if came else None

    def _within_years(self, order: Row, years: int) -> bool:
        came, today = self._delivered(order), self._bounds.now.date()
        return came is not None and (today.year - years, today.month, today.day) <= (came.year, came.month, came.day)


def _six_pm_before(dispatch: date) -> datetime:
    return datetime.combine(dispatch - timedelta(days=1), _SIX_PM)
