"""A transaction on the shop's database: the queries and changes of its rows, without any decision.

`tasks/domains/nursery/database.py` opens transactions; tools and rules see nothing else of the database.
"""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass
from datetime import date
from typing import Any

from tasks.domains.nursery.entities import Claim, Customer, Item, Order, Reason, Return


@dataclass(frozen=True)
class ShopTransaction:
    """The rows that one transaction sees."""

    connection: sqlite3.Connection

    def customer(self, customer_id: str) -> Customer | None:
        rows = self._rows("SELECT * FROM customers WHERE id = ?", customer_id)
        return Customer.model_validate(rows[0]) if rows else None

    def item_names(self) -> list[str]:
        return [row["name"] for row in self._rows("SELECT name FROM items ORDER BY name")]

    def item(self, name: str) -> Item:
        """An item that exists."""
        return Item.model_validate(self._rows("SELECT * FROM items WHERE name = ?", name)[0])

    def order(self, order_id: str) -> Order | None:
        """An order with its lines, returns, claims and refunds."""
        rows = self._rows("SELECT * FROM orders WHERE id = ?", order_id)
        if not rows:
            return None
        parts = {
            "lines": "SELECT item, kind, quantity, price_pence, faulty FROM lines WHERE order_id = ? ORDER BY rowid",
            "returns": "SELECT item, postage, arrived_on FROM returns WHERE order_id = ? ORDER BY id",
            "claims": "SELECT item, problem, promise, accepted_on FROM claims WHERE order_id = ? ORDER BY id",
            "refunds": "SELECT reason, pence FROM refunds WHERE order_id = ? ORDER BY id",
        }
        return Order.model_validate(rows[0] | {part: self._rows(query, order_id) for part, query in parts.items()})

    def add_customer(self, customer: Customer) -> None:
        self._insert("customers", **customer.model_dump())

    def add_item(self, item: Item) -> None:
        self._insert("items", **item.model_dump())

    def add_order(self, order: Order) -> None:
        """A whole order.

        Raises:
            sqlite3.IntegrityError: the order exists, or its customer or an item does not.
        """
        row = order.model_dump(mode="json", exclude={"lines", "returns", "claims", "refunds"})
        self._insert("orders", **row)
        for line in order.lines:
            self._insert("lines", order_id=order.id, **line.model_dump())
        for done in order.returns:
            self.add_return(order.id, done)
        for claim in order.claims:
            self.add_claim(order.id, claim)
        for refund in order.refunds:
            self.add_refund(order.id, refund.reason, refund.pence)

    def cancel(self, order_id: str) -> None:
        self.connection.execute("UPDATE orders SET status = 'cancelled' WHERE id = ?", (order_id,))

    def move(self, order_id: str, dispatch: date, delivery: date) -> None:
        self.connection.execute(
            "UPDATE orders SET dispatch_on = ?, deliver_on = ? WHERE id = ?",
            (dispatch.isoformat(), delivery.isoformat(), order_id),
        )

    def add_return(self, order_id: str, done: Return) -> int:
        """Add a return; returns the number of the new row, as `add_claim`, `add_refund` and `add_ticket` do."""
        return self._insert("returns", order_id=order_id, **done.model_dump(mode="json"))

    def add_claim(self, order_id: str, claim: Claim) -> int:
        return self._insert("claims", order_id=order_id, **claim.model_dump(mode="json"))

    def add_refund(self, order_id: str, reason: Reason, pence: int) -> int:
        return self._insert("refunds", order_id=order_id, reason=reason, pence=pence)

    def add_ticket(self, customer_id: str | None, topic: str) -> int:
        return self._insert("tickets", customer=customer_id, topic=topic)

    def earlier_call(self, key: str) -> tuple[str, str] | None:
        """The hash of the arguments and the result of the call that was made with this key."""
        rows = self._rows("SELECT arguments_hash, result FROM calls WHERE key = ?", key)
        return (rows[0]["arguments_hash"], rows[0]["result"]) if rows else None

    def remember_call(self, key: str, tool: str, arguments_hash: str, result: str) -> None:
        """Store a call, so that one with the same key returns the same result.

        Args:
            key: the idempotency key.
            tool: the tool's name.
            arguments_hash: the hash of its arguments and its customer.
            result: its result as JSON.
        """
        self._insert("calls", key=key, tool=tool, arguments_hash=arguments_hash, result=result)

    def _rows(self, query: str, *values: Any) -> list[dict[str, Any]]:
        cursor = self.connection.execute(query, values)
        names = [column[0] for column in cursor.description]
        return [dict(zip(names, row, strict=True)) for row in cursor]

    def _insert(self, table: str, **row: Any) -> int:
        names, places = ", ".join(row), ", ".join(f":{name}" for name in row)
        cursor = self.connection.execute(f"INSERT INTO {table} ({names}) VALUES ({places})", row)
        assert cursor.lastrowid is not None
        return cursor.lastrowid
