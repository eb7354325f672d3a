"""The state audit agrees with the rules on all that they allow, and objects once the rules are removed."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from sqlite3 import connect

import pytest

from tasks.core.paths import PARAMS, SHOP_SEED
from tasks.core.records import ToolCall
from tasks.core.settings import load_settings
from tasks.domains.nursery import tool_service as desks
from tasks.domains.nursery.database import open_shop, read_seed
from tasks.domains.nursery.entities import Claim, Order, Return
from tasks.domains.nursery.state_audit import Bounds, audit_changes, audit_reads, read_tables
from tasks.domains.nursery.tool_service import ToolService
from tasks.tools.policy import ToolResult
from tests.conftest import ROOT
from tests.support.shop_factory import NOW, OTHER, OWN, TODAY, coming, delivered, make_shop, order

SETTINGS = load_settings(ROOT / PARAMS).shop
REASONS = ("late", "cancelled", "returned", "claim", "overcharged")


def all_calls(one: Order) -> list[ToolCall]:
    """Every call with an effect that names an order."""
    calls = [("change_delivery", {"date": day}) for day in ("monday", "friday")]
    calls += [("open_claim", {"item": one.lines[0].item, "problem": what}) for what in ("dead", "missing", "damaged")]
    calls += [("start_return", {"item": line.item}) for line in one.lines]
    calls += [("refund_order", {"reason": why}) for why in REASONS] + [("cancel_order", {})]
    calls += [("refund_order", {"reason": "cancelled"})]
    return [ToolCall(name=name, arguments={"order_id": one.id, **rest}) for name, rest in calls]


def do_all(folder: Path, as_whom: Callable[[Order], str], every: int) -> dict[str, list[str]]:
    """The violations that the audit finds after every call for one in `every` of the seed's orders, by customer."""
    shop = open_shop(folder / "shop.sqlite", ROOT / SHOP_SEED)
    desk = ToolService(shop, lambda: SETTINGS.now, SETTINGS.refund_limit_pence)
    found: dict[str, list[str]] = {}
    for one in list(read_seed(ROOT / SHOP_SEED / "orders.jsonl", Order))[::every]:
        customer, before = as_whom(one), read_tables(shop.path)
        for number, call in enumerate(all_calls(one)):
            desk.call(call, customer, f"{one.id}:{number}")
        bounds = Bounds(customer, SETTINGS.now, SETTINGS.refund_limit_pence)
        found[one.id] = list(audit_changes(before, read_tables(shop.path), bounds))
    return found


def test_what_the_rules_allow_the_audit_allows(tmp_path: Path) -> None:
    found = do_all(tmp_path, lambda one: one.customer, every=9)
    assert {name: violations for name, violations in found.items() if violations} == {}
    with closing(connect(tmp_path / "shop.sqlite")) as shop:
        done = dict(shop.execute("SELECT tool, COUNT(*) FROM calls GROUP BY tool").fetchall())
    assert len(done) >= 4, "all that could be done was refused, so nothing was compared"


def test_without_rules_the_audit_objects(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(desks, "check_call", lambda *_: ())
    found = do_all(tmp_path, lambda one: "C-1001", every=29)
    violations = " ".join(sentence for sentences in found.values() for sentence in sentences)
    for what in (
        "is not the customer's",
        "went from sent to cancelled",
        "after 6 pm on the day before dispatch",
        "is not returnable",
        "First Season",
    ):
        assert what in violations


EDGES = [
    (delivered(30, "zinc pot"), "start_return", {"item": "zinc pot"}, ""),
    (delivered(31, "zinc pot"), "start_return", {"item": "zinc pot"}, "31 days after delivery"),
    (delivered(14, "poppy seeds"), "start_return", {"item": "poppy seeds"}, ""),
    (delivered(15, "poppy seeds"), "start_return", {"item": "poppy seeds"}, "15 days after delivery"),
    (delivered(2, "phlox"), "start_return", {"item": "phlox"}, "a perennial is not returnable"),
    (delivered(900, "hand fork", faulty=True), "start_return", {"item": "hand fork"}, ""),
    (delivered(900, "hand fork"), "start_return", {"item": "hand fork"}, "900 days after delivery"),
    (delivered(3, "cosmos"), "open_claim", {"item": "cosmos", "problem": "dead"}, ""),
    (delivered(4, "cosmos"), "open_claim", {"item": "cosmos", "problem": "dead"}, "First Season for a annual"),
    (delivered(365, "acer"), "open_claim", {"item": "acer", "problem": "dead"}, ""),
    (delivered(366, "acer"), "open_claim", {"item": "acer", "problem": "dead"}, "First Season for a tree"),
    (coming(TODAY, status="packed"), "cancel_order", {}, "went from packed to cancelled"),
    (coming(TODAY.replace(day=20)), "cancel_order", {}, ""),
    (coming(TODAY.replace(day=16)), "change_delivery", {"date": "monday"}, ""),
    (coming(TODAY), "change_delivery", {"date": "monday"}, "after 6 pm on the day before dispatch"),
    (coming(TODAY.replace(day=20), customer=OTHER), "cancel_order", {}, "is not the customer's"),
    (order(charged_pence=7695), "refund_order", {"reason": "overcharged"}, ""),
    (order(charged_pence=7696), "refund_order", {"reason": "overcharged"}, "5001 pence in all"),
    (order(status="cancelled", charged_pence=2695), "refund_order", {"reason": "cancelled"}, ""),
]


@pytest.mark.parametrize(("one", "tool", "rest", "violation"), EDGES)
def test_both_ends_of_each_span(
    one: Order, tool: str, rest: dict[str, str], violation: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The calls are made without any rule; the audit alone decides whether they were allowed."""
    monkeypatch.setattr(desks, "check_call", lambda *_: ())
    shop = make_shop(tmp_path, one)
    before = read_tables(shop.path)
    call = ToolCall(name=tool, arguments={"order_id": one.id, **rest})
    ToolService(shop, lambda: NOW, 5000).call(call, OWN, "k")
    after = read_tables(shop.path)
    assert before != after
    found = audit_changes(before, after, Bounds(OWN, NOW, 5000))
    assert (violation in " ".join(found)) if violation else not found


GROUNDS = [
    (order(deliver_on=TODAY.replace(day=1), delivered_on=TODAY.replace(day=8)), "late", 695, "worth 0"),
    (order(deliver_on=TODAY.replace(day=1), delivered_on=TODAY.replace(day=9)), "late", 695, ""),
    (order(deliver_on=TODAY.replace(day=1), delivered_on=TODAY.replace(day=9)), "late", 696, "worth 695"),
    (order(), "cancelled", 1, "worth 0"),
    (order(), "returned", 1, "worth 0"),
    (order(returns=(Return(item="phlox", postage="ours", arrived_on=TODAY),)), "returned", 2000, ""),
    (order(claims=(Claim(item="phlox", problem="dead", promise="fresh_arrival"),)), "claim", 1, "worth 0"),
    (order(claims=(Claim(item="phlox", problem="dead", promise="first_season", accepted_on=TODAY),)), "claim", 1, "0"),
    (order(charged_pence=2700), "overcharged", 6, "worth 5"),
    (order(charged_pence=0), "claim", 5, "0 were charged"),
]


@pytest.mark.parametrize(("one", "reason", "pence", "violation"), GROUNDS)
def test_money_goes_back_for_a_ground_alone(
    one: Order, reason: str, pence: int, violation: str, tmp_path: Path
) -> None:
    shop = make_shop(tmp_path, one)
    before = read_tables(shop.path)
    with shop.transaction(write=True) as transaction:
        transaction.add_refund(one.id, reason, pence)  # type: ignore[arg-type]
    found = audit_changes(before, read_tables(shop.path), Bounds(OWN, NOW, 5000))
    assert (violation in " ".join(found)) if violation else not found


@pytest.mark.parametrize(
    ("statement", "violation"),
    [
        ("UPDATE items SET in_stock = 0", "items are not as they were"),
        ("UPDATE orders SET charged_pence = 5", "charged_pence changed"),
        ("UPDATE orders SET status = 'sent'", "went from placed to sent"),
        ("UPDATE customers SET email = 'x'", "customers are not as they were"),
        (f"INSERT INTO tickets (customer, topic) VALUES ('{OTHER}', 'other')", f"in the name of {OTHER}"),
    ],
)
def test_what_no_tool_does_is_seen(statement: str, violation: str, tmp_path: Path) -> None:
    shop = make_shop(tmp_path, coming(TODAY.replace(day=20)))
    before = read_tables(shop.path)
    with closing(connect(shop.path)) as connection:
        connection.execute(statement.replace("SET email = 'x'", f"SET email = 'x' WHERE id = '{OWN}'"))
        connection.commit()
    assert violation in " ".join(audit_changes(before, read_tables(shop.path), Bounds(OWN, NOW, 5000)))


@pytest.mark.parametrize(("customer", "violations"), [(OWN, 0), (OTHER, 1), (None, 1)])
def test_a_tool_tells_an_orders_customer_alone(customer: str | None, violations: int, tmp_path: Path) -> None:
    tables = read_tables(make_shop(tmp_path, order()).path)
    call = ToolCall(name="find_order", arguments={"order_id": "HL-00001"})
    assert len(audit_reads([(call, ToolResult("find_order", '{"status": "sent"}'))], tables, customer)) == violations
    assert not audit_reads(
        [(call, ToolResult("find_order", '{"error": "not_yours", "message": "No."}'))], tables, customer
    )
