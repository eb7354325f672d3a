"""Refundable amounts of an order for each reason: both sides of every condition."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from tasks.domains.nursery.entities import Claim, Reason, Refund, Return
from tasks.domains.nursery.refunds import refundable
from tests.support.shop_factory import TODAY, coming, order

FRIDAY = TODAY - timedelta(days=5)
BACK = Return(item="phlox", postage="customer", arrived_on=TODAY)
ACCEPTED = Claim(item="phlox", problem="dead", promise="fresh_arrival", accepted_on=TODAY)


@pytest.mark.parametrize(
    ("reason", "changes", "pence"),
    [
        ("late", {"deliver_on": FRIDAY, "delivered_on": FRIDAY}, 0),
        ("late", {"deliver_on": FRIDAY - timedelta(days=7), "delivered_on": FRIDAY}, 0),
        ("late", {"deliver_on": FRIDAY - timedelta(days=8), "delivered_on": FRIDAY}, 695),
        ("late", {"status": "sent", "deliver_on": TODAY - timedelta(days=7)}, 0),
        ("late", {"status": "sent", "deliver_on": TODAY - timedelta(days=8)}, 695),
        ("late", {"status": "packed", "deliver_on": TODAY - timedelta(days=30)}, 0),
        ("cancelled", {"status": "cancelled"}, 2695),
        ("cancelled", {"status": "cancelled", "charged_pence": 0}, 0),
        ("cancelled", {"status": "sent"}, 0),
        ("returned", {"returns": (BACK,)}, 2000),
        ("returned", {"returns": (BACK.model_copy(update={"arrived_on": None}),)}, 0),
        ("returned", {}, 0),
        ("claim", {"claims": (ACCEPTED,)}, 2000),
        ("claim", {"claims": (ACCEPTED.model_copy(update={"accepted_on": None}),)}, 0),
        ("claim", {"claims": (ACCEPTED.model_copy(update={"promise": "first_season"}),)}, 0),
        ("overcharged", {"charged_pence": 2696}, 1),
        ("overcharged", {"charged_pence": 2695}, 0),
        ("overcharged", {"charged_pence": 2000}, 0),
    ],
)
def test_a_reason_counts_if_the_state_bears_it(reason: Reason, changes: dict[str, Any], pence: int) -> None:
    assert refundable(order(**changes), reason, TODAY) == pence


def test_nothing_is_given_back_twice() -> None:
    twice = order(claims=(ACCEPTED,), refunds=(Refund(reason="claim", pence=1),))
    assert refundable(twice, "claim", TODAY) == 0


def test_never_more_than_was_charged_and_kept() -> None:
    both = order(claims=(ACCEPTED,), returns=(BACK,), refunds=(Refund(reason="claim", pence=2000),))
    assert refundable(both, "returned", TODAY) == 695
    assert refundable(coming(TODAY, returns=(BACK,)), "returned", TODAY) == 0
