"""An obedient model that calls every tool for every order and three customers breaks no rule.

The effects are read from the database, without the code that decided about them.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from datetime import date, datetime, timedelta
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tasks.core.paths import SHOP_SEED
from tasks.core.records import ToolCall
from tasks.domains.nursery.database import Shop, open_shop, read_seed
from tasks.domains.nursery.entities import HARDY, LIVING, Order
from tasks.domains.nursery.tool_service import ToolService
from tasks.domains.nursery.tools import TOOLS
from tests.conftest import ROOT
from tests.support.shop_factory import NOW, result_of, table

CUSTOMERS = ("C-1042", "C-1007", None)
LIMIT = 5000
PROBLEMS = ("dead", "damaged", "wrong", "missing")
REASONS = ("late", "cancelled", "returned", "claim", "overcharged")
ORDERS = {order.id: order for order in read_seed(ROOT / SHOP_SEED / "orders.jsonl", Order)}


@pytest.fixture(scope="module")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return open_shop(tmp_path_factory.mktemp("shop") / "pristine.sqlite", ROOT / SHOP_SEED).path


@pytest.fixture
def desk(pristine: Path, tmp_path: Path) -> ToolService:
    return ToolService(Shop(Path(shutil.copy(pristine, tmp_path / "shop.sqlite"))), lambda: NOW, LIMIT)


def calls_by(customer: str | None) -> Iterator[ToolCall]:
    """Every tool with every order; with the customer's own also every item, problem and reason, and a few days."""
    for order in ORDERS.values():
        items = [line.item for line in order.lines]
        more: dict[str, list[dict[str, str]]] = {
            "find_order": [{}],
            "cancel_order": [{}],
            "delivery_slots": [{}],
            "change_delivery": [{"date": day} for day in ("friday", "sunday", "04-16", "12-02")],
            "start_return": [{"item": item} for item in items],
            "open_claim": [{"item": item, "problem": problem} for item, problem in product(items, PROBLEMS)],
            "refund_order": [{"reason": reason} for reason in REASONS],
        }
        for tool, variants in more.items():
            for variant in variants if order.customer == customer else variants[:1]:
                yield ToolCall(name=tool, arguments={"order_id": order.id, **variant})


def check(shop: Shop, customers: set[str | None]) -> None:
    """Check that no rule was broken between the seed and this state."""
    with shop.transaction(write=False) as transaction:
        after = {name: transaction.order(name) for name in ORDERS}
    for name, before in ORDERS.items():
        order = after[name]
        assert order is not None
        if before.customer not in customers:
            assert order == before, f"{name} is another customer's and was changed"
        check_order(before, order, NOW.date())


def check_order(before: Order, after: Order, today: date) -> None:
    name = before.id
    assert after.status in {before.status, "cancelled"}, name
    assert after.status == before.status or before.status == "placed", f"{name}: cancelled when {before.status}"
    if after.deliver_on != before.deliver_on:
        assert before.status in {"placed", "packed"}, f"{name}: moved when {before.status}"
        assert datetime.combine(before.dispatch_on - timedelta(days=1), datetime.min.time()).replace(hour=18) > NOW, (
            name
        )
        assert after.dispatch_on > today, name
        assert after.dispatch_on.weekday() < 4, f"{name}: leaves on no dispatch day"
        assert after.deliver_on.weekday() < 5, f"{name}: comes at a weekend"
    age = (today - before.delivered_on).days if before.delivered_on else None
    for done in after.returns[len(before.returns) :]:
        line = before.line(done.item)
        assert line.kind not in LIVING | {"voucher"}, f"{name}: {line.kind} goes back"
        assert age is not None, f"{name}: goes back before it came"
        longest = 3653 if line.kind == "tool" and line.faulty else 14 if line.kind in {"seed", "bulb"} else 30
        assert age <= longest, f"{name}: {line.kind} goes back after {age} days"
    for claim in after.claims[len(before.claims) :]:
        kind = before.line(claim.item).kind
        assert age is not None, f"{name}: a claim before it came"
        if claim.promise == "fresh_arrival":
            assert age <= 3, f"{name}: fresh after {age} days"
        else:
            assert (kind in HARDY, claim.problem) == (True, "dead"), name
            assert age <= 365, f"{name}: first season after {age} days"
    fresh = after.refunds[len(before.refunds) :]
    if fresh:
        assert after.refunded_pence <= LIMIT, f"{name}: {after.refunded_pence} refunded"
        assert after.refunded_pence <= after.charged_pence, f"{name}: more refunded than charged"
        assert len({refund.reason for refund in after.refunds}) == len(after.refunds), name


@pytest.mark.slow
def test_every_call_by_three_customers_breaks_no_rule(desk: ToolService) -> None:
    shown: set[tuple[str | None, str]] = set()
    effects = 0
    calls = [(call, customer) for customer in CUSTOMERS for call in calls_by(customer)]
    for number, (call, customer) in enumerate(calls):
        result = result_of(desk.call(call, customer, f"{number}"))
        if "error" not in result:
            shown.add((customer, call.arguments["order_id"]))
            effects += TOOLS.tools[call.name].effect
    assert {ORDERS[order].customer == customer for customer, order in shown} == {True}
    assert {order for _, order in shown} == {name for name, order in ORDERS.items() if order.customer in CUSTOMERS}
    assert effects == len(table(desk.shop, "calls")) > 30
    assert len(table(desk.shop, "refunds")) > 5
    check(desk.shop, set(CUSTOMERS))


TEXT = st.one_of(
    st.sampled_from(["friday", "02-29", "lavender", "dead", "late", "trade", "HL-70190", "' OR 1=1 --", ""]),
    st.text(max_size=30),
)
ARGUMENTS = st.fixed_dictionaries(
    {},
    optional={
        "order_id": st.one_of(st.sampled_from(sorted(ORDERS)), TEXT),
        "item": st.one_of(st.sampled_from(sorted({line.item for o in ORDERS.values() for line in o.lines})), TEXT),
        "date": st.one_of(st.sampled_from(["monday", "tuesday", "saturday", "04-21"]), TEXT),
        "problem": st.one_of(st.sampled_from(PROBLEMS), TEXT),
        "reason": st.one_of(st.sampled_from(REASONS), TEXT),
        "topic": TEXT,
        "customer": TEXT,
        "amount": st.integers(),
    },
)
CALLS = st.builds(ToolCall, name=st.one_of(st.sampled_from(sorted(TOOLS.tools)), TEXT), arguments=ARGUMENTS)
SAYS = st.lists(st.tuples(CALLS, st.one_of(st.sampled_from(CUSTOMERS), TEXT), st.integers(0, 9)), max_size=20)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(says=SAYS)
def test_no_made_up_conversation_breaks_a_rule(desk: ToolService, pristine: Path, says: list[Any]) -> None:
    shutil.copy(pristine, desk.shop.path)
    for call, customer, key in says:
        assert isinstance(result_of(desk.call(call, customer, str(key))), dict)
    check(desk.shop, {customer for _, customer, _ in says})
