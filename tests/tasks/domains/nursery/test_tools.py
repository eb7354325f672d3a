"""The nine tools: what each does to the shop, and the results that a model reads."""

from __future__ import annotations

import json
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from tasks.core.paths import PROMPTS
from tasks.domains.nursery.entities import Claim, OrderLine
from tasks.domains.nursery.tools import TOOLS
from tasks.retrieval import lookup_tool
from tests.conftest import ROOT
from tests.support.shop_factory import OWN, TODAY, ask, coming, delivered, make_shop, order, result_of, table

MONDAY = TODAY + timedelta(days=5)
TWO = (
    OrderLine(item="phlox", kind="perennial", quantity=2, price_pence=1000),
    OrderLine(item="zinc pot", kind="goods", quantity=1, price_pence=1850, faulty=True),
)


def test_the_prompts_tools_are_written_from_the_functions() -> None:
    written = (ROOT / PROMPTS / "tools.json").read_text(encoding="utf-8")
    assert written == json.dumps([*TOOLS.schemas(), lookup_tool.SCHEMA], indent=2) + "\n"


def test_what_changes_nothing_says_so() -> None:
    assert [tool.name for tool in TOOLS.tools.values() if not tool.effect] == [
        "find_order",
        "check_stock",
        "delivery_slots",
    ]


@pytest.mark.parametrize(
    ("changes", "result"),
    [
        (
            {"courier": "Parcelway"},
            '{"status": "delivered", "items": [ITEMS], "courier": "Parcelway", "day": "2026-04-13"}',
        ),
        (
            {"status": "sent", "courier": "Parcelway"},
            '{"status": "sent", "items": [ITEMS], "courier": "Parcelway", "day": "2026-04-09"}',
        ),
        ({"status": "placed"}, '{"status": "placed", "items": [ITEMS], "courier": null, "day": "2026-04-09"}'),
        ({"status": "cancelled"}, '{"status": "cancelled", "items": [ITEMS], "courier": null, "day": null}'),
    ],
)
def test_find_order(tmp_path: Path, changes: dict[str, Any], result: str) -> None:
    shop = make_shop(tmp_path, order(lines=TWO, **changes))
    found = json.dumps(result_of(ask(shop, "find_order", order_id="HL-00001")))
    assert found == result.replace("ITEMS", '"2 x phlox", "1 x zinc pot"')


def test_change_delivery_moves_dispatch_with_it(tmp_path: Path) -> None:
    shop = make_shop(tmp_path, coming(MONDAY))
    assert result_of(ask(shop, "change_delivery", order_id="HL-00001", date="tuesday")) == {"moved_to": "2026-04-21"}
    assert result_of(ask(shop, "change_delivery", order_id="HL-00001", date="05-22")) == {"moved_to": "2026-05-22"}
    (row,) = table(shop, "orders")
    assert row[4:6] == ("2026-05-20", "2026-05-22")


@pytest.mark.parametrize("date", ["sunday", "04-16", "never", ""])
def test_change_delivery_to_a_day_without_delivery(tmp_path: Path, date: str) -> None:
    shop = make_shop(tmp_path, coming(MONDAY))
    before = table(shop, "orders")
    answered = ask(shop, "change_delivery", order_id="HL-00001", date=date)
    assert result_of(answered)["error"] == "bad_date"
    assert [d.outcome for d in answered.decisions] == ["allow", "allow", "allow"]
    assert table(shop, "orders") == before


def test_delivery_slots_are_days_to_which_it_can_move(tmp_path: Path) -> None:
    shop = make_shop(tmp_path, coming(MONDAY))
    days = result_of(ask(shop, "delivery_slots", order_id="HL-00001"))["days"]
    assert days == ["2026-04-20", "2026-04-21", "2026-04-23", "2026-04-24", "2026-04-27"]
    for day in days:
        assert result_of(ask(shop, "change_delivery", order_id="HL-00001", date=day[5:])) == {"moved_to": day}


def test_cancel_order(tmp_path: Path) -> None:
    shop = make_shop(tmp_path, coming(MONDAY), coming(MONDAY, number=2))
    assert result_of(ask(shop, "cancel_order", order_id="HL-00002")) == {"cancelled": True}
    assert [row[2] for row in table(shop, "orders")] == ["placed", "cancelled"]


@pytest.mark.parametrize(("faulty", "postage"), [(False, "customer"), (True, "ours")])
def test_start_return(tmp_path: Path, faulty: bool, postage: str) -> None:
    shop = make_shop(tmp_path, delivered(3, "zinc pot", faulty=faulty))
    result = result_of(ask(shop, "start_return", order_id="HL-00001", item="Zinc Pots"))
    assert result == {"return_id": "R-00001", "postage": postage}
    assert table(shop, "returns") == [(1, "HL-00001", "zinc pot", postage, None)]
    again = result_of(ask(shop, "start_return", order_id="HL-00001", item="zinc pot"))
    assert again["error"] == "not_allowed"
    assert len(table(shop, "returns")) == 1


@pytest.mark.parametrize(("days", "promise"), [(3, "fresh_arrival"), (4, "first_season")])
def test_open_claim(tmp_path: Path, days: int, promise: str) -> None:
    shop = make_shop(tmp_path, delivered(days, "phlox"))
    result = result_of(ask(shop, "open_claim", order_id="HL-00001", item="phloxes", problem="dead"))
    assert result == {"claim_id": "K-00001", "promise": promise}
    assert table(shop, "claims") == [(1, "HL-00001", "phlox", "dead", promise, None)]
    again = result_of(ask(shop, "open_claim", order_id="HL-00001", item="phlox", problem="dead"))
    assert again["error"] == "not_allowed"
    assert len(table(shop, "claims")) == 1


@pytest.mark.parametrize(("tool", "more"), [("start_return", {}), ("open_claim", {"problem": "dead"})])
def test_what_is_not_in_the_order_is_not_found(tmp_path: Path, tool: str, more: dict[str, str]) -> None:
    shop = make_shop(tmp_path, order(lines=TWO))
    assert result_of(ask(shop, tool, order_id="HL-00001", item="tree fern", **more))["error"] == "not_found"


def test_check_stock(tmp_path: Path) -> None:
    shop = make_shop(tmp_path)
    assert json.dumps(result_of(ask(shop, "check_stock", item="zinc pots"))) == (
        '{"item": "zinc pot", "in_stock": 3, "price": "10.00"}'
    )
    assert result_of(ask(shop, "check_stock", item="edelweiss"))["error"] == "not_sold"


def test_hand_over_notes_who_asked(tmp_path: Path) -> None:
    shop = make_shop(tmp_path)
    assert result_of(ask(shop, "hand_over", topic="wedding")) == {"ticket": "T-00001"}
    assert result_of(ask(shop, "hand_over", topic="other", customer=None)) == {"ticket": "T-00002"}
    assert table(shop, "tickets") == [(1, OWN, "wedding"), (2, None, "other")]


def test_refund_order(tmp_path: Path) -> None:
    accepted = Claim(item="phlox", problem="dead", promise="fresh_arrival", accepted_on=TODAY)
    shop = make_shop(tmp_path, order(claims=(accepted,), charged_pence=3000))
    assert result_of(ask(shop, "refund_order", order_id="HL-00001", reason="claim")) == {"refunded": "20.00"}
    assert result_of(ask(shop, "refund_order", order_id="HL-00001", reason="overcharged")) == {"refunded": "3.05"}
    assert table(shop, "refunds") == [(1, "HL-00001", "claim", 2000), (2, "HL-00001", "overcharged", 305)]
