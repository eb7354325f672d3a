"""The shop's rules for calls, one by one, at both ends of every span, through the tool service.

Also covers `tasks/domains/nursery/rule_facts.py`.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from tasks.domains.nursery.call_rules import RULES
from tasks.domains.nursery.entities import Claim, Order, Refund, Return
from tasks.domains.nursery.rule_facts import anniversary
from tasks.tools.policy import first_refusal
from tests.support.shop_factory import NOW, OTHER, OWN, TODAY, ask, coming, delivered, make_shop, order, result_of

ACCEPTED = Claim(item="phlox", problem="dead", promise="fresh_arrival", accepted_on=TODAY)


def barred_by(folder: Path, placed: Order, tool: str, **arguments: Any) -> tuple[str, str]:
    """Rule and code of the first refusal, two empty strings if there is none."""
    answered = ask(make_shop(folder, placed), tool, order_id=placed.id, **arguments)
    barred = first_refusal(answered.decisions)
    if barred is None:
        assert "error" not in result_of(answered)
        return "", ""
    assert result_of(answered) == {"error": barred.code, "message": barred.reason}
    return barred.rule, barred.code


def test_every_rule_has_a_name_of_its_own_an_owner_and_a_reason_to_be() -> None:
    assert len({rule.name for rule in RULES}) == len(RULES)
    assert all(rule.owner and rule.check.__doc__ for rule in RULES)


@pytest.mark.parametrize("tool", ["find_order", "cancel_order", "delivery_slots"])
@pytest.mark.parametrize("customer", [None, "", "C-9999", "c-1001"])
def test_signed_in(tmp_path: Path, tool: str, customer: str | None) -> None:
    placed = coming(TODAY + timedelta(days=5))
    assert barred_by(tmp_path, placed, tool, customer=customer) == ("signed_in", "sign_in")
    assert barred_by(tmp_path / "own", placed, tool, customer=OWN) == ("", "")


def test_stock_and_people_are_for_anyone(tmp_path: Path) -> None:
    shop = make_shop(tmp_path)
    assert result_of(ask(shop, "check_stock", customer=None, item="phlox"))["in_stock"] == 3
    assert result_of(ask(shop, "hand_over", customer="C-9999", topic="press")) == {"ticket": "T-00001"}


@pytest.mark.parametrize(
    ("tool", "more"),
    [
        ("find_order", {}),
        ("change_delivery", {"date": "friday"}),
        ("cancel_order", {}),
        ("start_return", {"item": "phlox"}),
        ("open_claim", {"item": "phlox", "problem": "dead"}),
        ("delivery_slots", {}),
        ("refund_order", {"reason": "claim"}),
    ],
)
def test_order_of_customer(tmp_path: Path, tool: str, more: dict[str, str]) -> None:
    shop = make_shop(tmp_path, order(claims=(ACCEPTED,)))
    theirs = ask(shop, tool, customer=OTHER, order_id="HL-00001", **more)
    nobodys = ask(shop, tool, customer=OTHER, order_id="HL-99999", **more)
    assert result_of(theirs)["error"] == "not_yours"
    assert result_of(nobodys)["error"] == "not_found"
    assert result_of(theirs)["message"] == result_of(nobodys)["message"]
    assert [d.rule for d in theirs.decisions] == ["signed_in", "order_of_customer"]


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        ("placed", ("", "")),
        ("packed", ("cancel_window", "too_late")),
        ("sent", ("cancel_window", "too_late")),
        ("cancelled", ("cancel_window", "not_allowed")),
    ],
)
def test_cancel_window(tmp_path: Path, status: str, expected: tuple[str, str]) -> None:
    assert barred_by(tmp_path, coming(TODAY + timedelta(days=5), status), "cancel_order") == expected


def test_a_delivered_order_is_not_cancelled(tmp_path: Path) -> None:
    assert barred_by(tmp_path, order(), "cancel_order") == ("cancel_window", "too_late")


@pytest.mark.parametrize("tool", ["change_delivery", "delivery_slots"])
@pytest.mark.parametrize(
    ("status", "now", "expected"),
    [
        ("placed", datetime(2026, 4, 19, 17, 59, 59), ("", "")),
        ("packed", datetime(2026, 4, 19, 17, 59, 59), ("", "")),
        ("placed", datetime(2026, 4, 19, 18), ("delivery_cutoff", "too_late")),
        ("packed", datetime(2026, 4, 20, 9), ("delivery_cutoff", "too_late")),
        ("sent", NOW, ("delivery_cutoff", "too_late")),
        ("cancelled", NOW, ("delivery_cutoff", "not_allowed")),
    ],
)
def test_delivery_cutoff(tmp_path: Path, tool: str, status: str, now: datetime, expected: tuple[str, str]) -> None:
    monday = coming((NOW + timedelta(days=5)).date(), status)
    more = {"date": "friday"} if tool == "change_delivery" else {}
    assert barred_by(tmp_path, monday, tool, now=now, **more) == expected


@pytest.mark.parametrize("item", ["phlox", "hebe", "acer", "cosmos", "fuchsia", "calathea"])
def test_living_plants(tmp_path: Path, item: str) -> None:
    barred = barred_by(tmp_path, delivered(1, item), "start_return", item=item)
    assert barred == ("living_plants", "not_allowed")


LATE, UNDUE = ("return_window", "too_late"), ("return_window", "not_allowed")


@pytest.mark.parametrize(
    ("item", "days", "faulty", "expected"),
    [
        ("zinc pot", 0, False, ("", "")),
        ("zinc pot", 30, False, ("", "")),
        ("zinc pot", 31, False, LATE),
        ("zinc pot", 31, True, LATE),
        ("hand fork", 30, False, ("", "")),
        ("hand fork", 31, False, LATE),
        ("hand fork", 31, True, ("", "")),
        ("hand fork", 3652, True, ("", "")),
        ("hand fork", 3653, True, LATE),
        ("poppy seeds", 14, False, ("", "")),
        ("poppy seeds", 15, False, LATE),
        ("lily bulbs", 14, False, ("", "")),
        ("lily bulbs", 15, False, LATE),
        ("gift voucher", 1, False, UNDUE),
    ],
)
def test_return_window(tmp_path: Path, item: str, days: int, faulty: bool, expected: tuple[str, str]) -> None:
    assert barred_by(tmp_path, delivered(days, item, faulty=faulty), "start_return", item=item) == expected


@pytest.mark.parametrize("status", ["placed", "packed", "sent", "cancelled"])
def test_what_has_not_come_cannot_go_back(tmp_path: Path, status: str) -> None:
    assert barred_by(tmp_path, coming(TODAY, status, item="zinc pot"), "start_return", item="zinc pot") == UNDUE


TOO_LATE, UNDUE_CLAIM = ("claim_window", "too_late"), ("claim_window", "not_allowed")
NOT_HARDY = ("first_season_kind", "not_allowed")


@pytest.mark.parametrize(
    ("item", "problem", "days", "expected"),
    [
        ("phlox", "damaged", 3, ("", "")),
        ("phlox", "damaged", 4, TOO_LATE),
        ("phlox", "wrong", 3, ("", "")),
        ("phlox", "wrong", 4, TOO_LATE),
        ("phlox", "missing", 3, ("", "")),
        ("phlox", "missing", 4, TOO_LATE),
        ("zinc pot", "missing", 3, ("", "")),
        ("zinc pot", "damaged", 1, UNDUE_CLAIM),
        ("hand fork", "wrong", 1, UNDUE_CLAIM),
        ("calathea", "dead", 3, ("", "")),
        ("calathea", "dead", 4, NOT_HARDY),
        ("cosmos", "dead", 4, NOT_HARDY),
        ("fuchsia", "dead", 4, NOT_HARDY),
        ("lily bulbs", "dead", 4, NOT_HARDY),
        ("phlox", "dead", 4, ("", "")),
        ("phlox", "dead", 365, ("", "")),
        ("phlox", "dead", 366, TOO_LATE),
        ("hebe", "dead", 365, ("", "")),
        ("acer", "dead", 365, ("", "")),
    ],
)
def test_claim_window_and_first_season_kind(
    tmp_path: Path, item: str, problem: str, days: int, expected: tuple[str, str]
) -> None:
    assert barred_by(tmp_path, delivered(days, item), "open_claim", item=item, problem=problem) == expected


@pytest.mark.parametrize("status", ["placed", "packed", "sent", "cancelled"])
def test_what_has_not_come_cannot_be_claimed(tmp_path: Path, status: str) -> None:
    barred = barred_by(tmp_path, coming(TODAY, status), "open_claim", item="phlox", problem="missing")
    assert barred == UNDUE_CLAIM


def test_a_year_from_the_29th_of_february_ends_on_the_first_of_march() -> None:
    leap = datetime(2024, 2, 29).date()
    assert anniversary(leap, 1) == datetime(2025, 3, 1).date()
    assert anniversary(leap, 4) == datetime(2028, 2, 29).date()


@pytest.mark.parametrize(
    ("changes", "reason", "expected"),
    [
        ({}, "claim", ("refund_grounds", "not_allowed")),
        ({"claims": (ACCEPTED,)}, "claim", ("", "")),
        ({"claims": (ACCEPTED,)}, "returned", ("refund_grounds", "not_allowed")),
        (
            {"claims": (ACCEPTED,), "refunds": (Refund(reason="claim", pence=2000),)},
            "claim",
            ("refund_grounds", "not_allowed"),
        ),
    ],
)
def test_refund_grounds(tmp_path: Path, changes: dict[str, Any], reason: str, expected: tuple[str, str]) -> None:
    assert barred_by(tmp_path, order(**changes), "refund_order", reason=reason) == expected


@pytest.mark.parametrize(("charged", "expected"), [(5000, ("", "")), (5001, ("refund_limit", "needs_person"))])
def test_refund_limit(tmp_path: Path, charged: int, expected: tuple[str, str]) -> None:
    cancelled = coming(TODAY, "cancelled", charged_pence=charged)
    assert barred_by(tmp_path, cancelled, "refund_order", reason="cancelled") == expected


def test_the_refund_limit_counts_all_refunds_of_an_order(tmp_path: Path) -> None:
    back = Return(item="phlox", postage="ours", arrived_on=TODAY)
    both = order(returns=(back,), charged_pence=9000, refunds=(Refund(reason="claim", pence=3000),))
    assert barred_by(tmp_path, both, "refund_order", reason="returned") == ("", "")
    more = both.model_copy(update={"refunds": (Refund(reason="claim", pence=3001),)})
    barred = barred_by(tmp_path / "more", more, "refund_order", reason="returned")
    assert barred == ("refund_limit", "needs_person")


def test_all_that_applied_is_told(tmp_path: Path) -> None:
    answered = ask(make_shop(tmp_path, order(claims=(ACCEPTED,))), "refund_order", order_id="HL-00001", reason="claim")
    assert [(d.rule, d.owner, d.outcome) for d in answered.decisions] == [
        ("signed_in", "account team", "allow"),
        ("order_of_customer", "account team", "allow"),
        ("refund_grounds", "accounts", "allow"),
        ("refund_limit", "accounts", "allow"),
    ]
