"""Small shops for tests: a few items, two customers, and orders in any state."""

from __future__ import annotations

import json
import sqlite3
import uuid
from collections.abc import Sequence
from contextlib import closing
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Any

from tasks.core.records import Record, ToolCall
from tasks.domains.nursery.database import Shop, open_shop
from tasks.domains.nursery.entities import Customer, Item, Kind, Order, OrderLine
from tasks.domains.nursery.tool_service import ToolService
from tasks.tools.domain_interface import ToolAnswer
from tasks.tools.toolbox import dump_result

NOW = datetime(2026, 4, 15, 10)
"""A Wednesday."""
TODAY = NOW.date()
OWN, OTHER = "C-1001", "C-1002"
KINDS: dict[str, Kind] = {
    "zinc pot": "goods",
    "hand fork": "tool",
    "poppy seeds": "seed",
    "lily bulbs": "bulb",
    "phlox": "perennial",
    "hebe": "shrub",
    "acer": "tree",
    "cosmos": "annual",
    "fuchsia": "tender",
    "calathea": "houseplant",
    "gift voucher": "voucher",
}


def order(number: int = 1, item: str = "phlox", **changes: Any) -> Order:
    """A delivered order of one item, two at 10.00 each, with postage of 6.95, all charged."""
    faulty = changes.pop("faulty", False)
    values: dict[str, Any] = {
        "id": f"HL-{number:05d}",
        "customer": OWN,
        "status": "delivered",
        "placed_at": NOW - timedelta(days=9),
        "dispatch_on": TODAY - timedelta(days=6),
        "deliver_on": TODAY - timedelta(days=2),
        "transit_days": 2,
        "postage_pence": 695,
        "charged_pence": 2695,
        "lines": (OrderLine(item=item, kind=KINDS[item], quantity=2, price_pence=1000, faulty=faulty),),
    } | changes
    if values["status"] == "delivered":
        values.setdefault("delivered_on", values["deliver_on"])
    return Order.model_validate(values)


def delivered(days: int, item: str, **changes: Any) -> Order:
    """An order that came so many days ago."""
    day = TODAY - timedelta(days=days)
    return order(item=item, deliver_on=day, delivered_on=day, **changes)


def coming(dispatch: date, status: str = "placed", **changes: Any) -> Order:
    """An order that has not left, and that comes two days after it does."""
    values = {"dispatch_on": dispatch, "deliver_on": dispatch + timedelta(days=2), "charged_pence": 0} | changes
    return order(status=status, **values)


def make_shop(folder: Path, *orders: Order) -> Shop:
    """A shop with these orders, two customers, and one item of each kind."""
    seed = folder / "seed"
    customers = [Customer(id=name, name=name, email=f"{name.lower()}@example.com") for name in (OWN, OTHER)]
    items = [Item(name=name, kind=kind, price_pence=1000, in_stock=3) for name, kind in KINDS.items()]
    for name, rows in {"customers": customers, "items": items, "orders": orders}.items():
        write_rows(seed / f"{name}.jsonl", rows)
    return open_shop(folder / "shop.sqlite", seed)


def write_rows(path: Path, rows: Sequence[Record]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(row.model_dump_json() + "\n" for row in rows), encoding="utf-8")


def ask(
    shop: Shop,
    tool: str,
    *,
    customer: str | None = OWN,
    now: datetime = NOW,
    key: str = "",
    limit: int = 5000,
    **arguments: str,
) -> ToolAnswer:
    """The tool service's answer to one call, with a new key unless `key` is set."""
    desk = ToolService(shop, lambda: now, limit)
    return desk.call(ToolCall(name=tool, arguments=arguments), customer, key or uuid.uuid4().hex)


def result_of(answered: ToolAnswer) -> dict[str, Any]:
    """The result as a model reads it."""
    return json.loads(dump_result(answered.result))


def table(shop: Shop, name: str) -> list[tuple[Any, ...]]:
    """The rows of a table, read without the shop's code."""
    with closing(sqlite3.connect(shop.path)) as connection:
        return connection.execute(f"SELECT * FROM {name} ORDER BY rowid").fetchall()
