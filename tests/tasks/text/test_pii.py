"""PII is found by kind, and numbers that only look like it are not reported."""

from __future__ import annotations

from itertools import pairwise

import pytest

from tasks.text.pii import FINDERS, Span, find_pii, find_spans


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("write to jo.bloggs+shop@mail.example.co.uk, thanks", "email address"),
        ("call 07911 123456 after six", "telephone number"),
        ("my number is (020) 7946-0958", "telephone number"),
        ("+49 30 901820 is my office", "telephone number"),
        ("card 4111 1111 1111 1111 exp 09/31", "card number"),
        ("4111 1111 1111 1111 09/31 123", "card number"),
        ("amex 378282246310005", "card number"),
        ("refund to GB82 WEST 1234 5698 7654 32 PLEASE", "bank account number"),
        ("de89370400440532013000", "bank account number"),
        ("key sk-proj-9fA3kLmQ2zXv7TbR1cWy please", "API key"),
        ("use ghp_16C7e42F292c6912E7710c838347Ae178B4a", "API key"),
        ("AKIAIOSFODNN7EXAMPLEQ2Z9", "API key"),
        ("token 9fA3kLmQ2zXv7TbR1cWyPq8sNd5eGh0J", "API key"),
    ],
)
def test_personal_data_is_named_by_kind(text: str, kind: str) -> None:
    assert find_pii(text) == (kind,)


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
        "sk-xxxxxxxxxxxxxxxxxxxx is where your key goes",
        "https://example.org/photos/IMG20260415aBcDeFgHiJkLmNoPqRsTuV.jpg",
        "donaudampfschifffahrtselektrizitaetenhauptbetriebswerk",
        "deliver it to SW1A 1AA",
        "open 9-5, 7 days, 365 days a year, since 1998, 2 doors down from 114",
    ],
)
def test_numbers_that_only_look_like_it_are_let_be(text: str) -> None:
    assert find_pii(text) == ()


def test_every_kind_in_one_text() -> None:
    assert find_pii("a@example.org or 07911 123456") == ("email address", "telephone number")


@pytest.mark.parametrize(
    ("text", "spans"),
    [
        ("mail a@example.org, now", [(5, 18, "email address")]),
        ("card 4111 1111 1111 1111 exp 09/31", [(5, 24, "card number")]),
        ("to GB82 WEST 1234 5698 7654 32 PLEASE", [(3, 30, "bank account number")]),
        ("ring 07911 123456 or 020 7946 0958", [(5, 17, "telephone number"), (21, 34, "telephone number")]),
        ("live at SW1A 1AA", [(8, 16, "postcode")]),
    ],
)
def test_each_is_found_where_it_is(text: str, spans: list[tuple[int, int, str]]) -> None:
    found = find_spans(text, frozenset(FINDERS))
    assert [(span.start, span.end, span.kind) for span in found] == spans


def test_two_kinds_never_claim_the_same_characters() -> None:
    text = "4111 1111 1111 1111, 07911 123456, GB82WEST12345698765432 sk-9fA3kLmQ2zXv7TbR1cWy@example.org"
    found = find_spans(text, frozenset(FINDERS))
    assert {span.kind for span in found} >= {"card number", "telephone number", "bank account number"}
    assert all(one.end <= other.start for one, other in pairwise(found))


def test_only_the_kinds_that_are_asked_for_are_found() -> None:
    assert find_spans("a@example.org or 07911 123456", frozenset({"email address"})) == (Span(0, 13, "email address"),)
