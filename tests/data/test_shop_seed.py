"""The shop's seed data fit the conversations: the orders and items of their calls exist, in a fitting state."""

from __future__ import annotations

import json
import re
from collections import Counter
from itertools import pairwise
from pathlib import Path

import pytest

from tasks.core.paths import RAW, SHOP_SEED
from tasks.core.records import ChatRow, ToolCall
from tasks.data.raw_rows import read_folder
from tasks.domains.nursery.call_rules import NO_ORDER
from tasks.domains.nursery.database import Shop, open_shop, read_seed
from tasks.domains.nursery.entities import Customer, Item, Order
from tasks.domains.nursery.item_names import find_name
from tests.conftest import ROOT
from tests.support.shop_factory import ask, result_of

NOT_SOLD = {"edelweiss", "jacaranda"}
RefusedCalls = list[tuple[ToolCall, dict[str, str]]]


@pytest.fixture(scope="module")
def orders() -> dict[str, Order]:
    return {order.id: order for order in read_seed(ROOT / SHOP_SEED / "orders.jsonl", Order)}


@pytest.fixture(scope="module")
def rows() -> list[ChatRow]:
    return [line.row for line in read_folder(ROOT / RAW) if line.row]


@pytest.fixture(scope="module")
def calls(rows: list[ChatRow]) -> list[ToolCall]:
    """All calls in the conversations."""
    return [call for row in rows for message in row.messages for call in message.tool_calls]


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Shop:
    return open_shop(tmp_path_factory.mktemp("shop") / "shop.sqlite", ROOT / SHOP_SEED)


def test_customers_are_made_up() -> None:
    customers = list(read_seed(ROOT / SHOP_SEED / "customers.jsonl", Customer))
    assert len(customers) == 60
    assert all(re.fullmatch(r"C-1\d{3}", customer.id) for customer in customers)
    assert all(customer.email.endswith("@example.com") for customer in customers)


@pytest.fixture(scope="module")
def refused(rows: list[ChatRow]) -> RefusedCalls:
    """The calls that are refused in their conversation, with the tool's result there."""
    pairs = [pair for row in rows for pair in pairwise(row.messages) if pair[1].role == "tool"]
    results = [(before.tool_calls[0], json.loads(after.content)) for before, after in pairs]
    return [(call, result) for call, result in results if "error" in result]


def test_every_order_of_a_conversation_exists_unless_its_tool_result_denies_it(
    orders: dict[str, Order], calls: list[ToolCall], refused: RefusedCalls
) -> None:
    called_for = {call.arguments["order_id"] for call in calls if "order_id" in call.arguments}
    unknown = {
        call.arguments["order_id"] for call, result in refused if result == {"error": "not_found", "message": NO_ORDER}
    }
    assert called_for - set(orders) == unknown
    assert len(set(orders) - called_for) >= 60


def test_every_item_that_is_asked_about_is_sold_or_left_out_on_purpose(
    calls: list[ToolCall], refused: RefusedCalls
) -> None:
    names = [item.name for item in read_seed(ROOT / SHOP_SEED / "items.jsonl", Item)]
    refused_items = {call.arguments["item"] for call, result in refused if result["error"] == "not_sold"}
    missing = {
        call.arguments["item"]
        for call in calls
        if call.name == "check_stock" and find_name(call.arguments["item"], names) is None
    }
    assert missing <= NOT_SOLD | refused_items
    assert missing >= NOT_SOLD


def test_every_item_of_a_return_or_claim_is_in_its_order(
    orders: dict[str, Order], calls: list[ToolCall], refused: RefusedCalls
) -> None:
    refused_calls = [call for call, result in refused if result["error"] == "not_found"]
    missing = [
        call.arguments
        for call in calls
        if call.name in {"start_return", "open_claim"}
        and call not in refused_calls
        and find_name(call.arguments["item"], [line.item for line in orders[call.arguments["order_id"]].lines]) is None
    ]
    assert missing == []


def test_most_calls_make_sense_to_the_customer_whose_order_it_is(
    tmp_path: Path, orders: dict[str, Order], calls: list[ToolCall]
) -> None:
    """Each call of the conversations, once, in a fresh shop: four in five are done."""
    shop = open_shop(tmp_path / "shop.sqlite", ROOT / SHOP_SEED)
    done: Counter[str] = Counter()
    called: Counter[str] = Counter()
    for call in calls:
        order = orders.get(call.arguments.get("order_id", ""))
        customer = order.customer if order else "C-1042"
        called[call.name] += 1
        done[call.name] += "error" not in result_of(ask(shop, call.name, customer=customer, **call.arguments))
    assert {name: done[name] / called[name] for name in called if done[name] < 0.7 * called[name]} == {}
    assert sum(done.values()) >= 0.8 * sum(called.values())


def test_dates_and_money_hang_together(orders: dict[str, Order]) -> None:
    for order in orders.values():
        assert order.placed_at.date() <= order.dispatch_on, order.id
        assert order.dispatch_on <= order.deliver_on, order.id
        assert order.delivered_on is None or order.delivered_on >= order.dispatch_on, order.id
        assert order.refunded_pence <= order.charged_pence, order.id
        assert (order.courier is not None) <= (order.status in {"sent", "delivered"}), order.id
        if order.status in {"placed", "packed"}:
            assert order.charged_pence == 0, order.id
        if order.transit_days:
            assert order.dispatch_on.weekday() < 4, order.id


def test_the_database_holds_the_seed(shop: Shop, orders: dict[str, Order]) -> None:
    with shop.transaction(write=False) as transaction:
        assert [transaction.order(name) for name in orders] == list(orders.values())
