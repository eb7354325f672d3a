"""Personal data is found by kind, and numbers that only look like it are let be."""

from __future__ import annotations

import pytest

from tasks.personal import find_personal


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("write to jo.bloggs+shop@mail.example.co.uk, thanks", "email address"),
        ("call 07911 123456 after six", "telephone number"),
        ("my number is (020) 7946-0958", "telephone number"),
        ("+49 30 901820 is my office", "telephone number"),
        ("card 4111 1111 1111 1111 exp 09/31", "card number"),
        ("amex 378282246310005", "card number"),
        ("refund to GB82 WEST 1234 5698 7654 32 PLEASE", "bank account number"),
        ("de89370400440532013000", "bank account number"),
    ],
)
def test_personal_data_is_named_by_kind(text: str, kind: str) -> None:
    assert find_personal(text) == (kind,)


@pytest.mark.parametrize(
    "text",
    [
        "HL-20931 and HL-20932 and HL-20933",
        "order no 20931, 20932, 20933",
        "4111 1111 1111 1112 fails its check digit",
        "GB82 WEST 1234 5698 7654 33 fails its check digits",
        "on 2031-01-15 at 10:30 I paid 1,200.00 for 3 trees",
        "tracking JD0002123456789012",
        "@hollowlane on the socials, 10 @ 2.50 each",
        "open 9-5, 7 days, 365 days a year, since 1998, 2 doors down from 114",
    ],
)
def test_numbers_that_only_look_like_it_are_let_be(text: str) -> None:
    assert find_personal(text) == ()


def test_every_kind_in_one_text() -> None:
    assert find_personal("a@example.org or 07911 123456") == ("email address", "telephone number")
