"""PII redaction: each kind by its placeholder, and not one of the shop's own texts is changed."""

from __future__ import annotations

import pytest

from deployments.app.guardrails.checks import CheckContext
from deployments.app.guardrails.pii import PLACEHOLDERS, PiiCheck, redact
from tasks.core.paths import KNOWLEDGE, RAW
from tasks.data.raw_rows import read_folder
from tasks.prompt_injection import paragraphs
from tasks.text.pii import FINDERS, find_spans
from tests.conftest import ROOT

CHECK = PiiCheck(find_spans, "before")


def shop_texts() -> list[str]:
    rows = [line.row for line in read_folder(ROOT / RAW) if line.row]
    return [message.content for row in rows for message in row.messages] + paragraphs(ROOT / KNOWLEDGE)


def test_what_is_personal_is_replaced_by_its_kind_and_the_rest_stays() -> None:
    text = "a@example.org or 07911 123456, card 4111 1111 1111 1111, HL-20931, £12.50 on 2026-04-17"
    verdict = CHECK(text, CheckContext())
    assert verdict.outcome == "redact"
    assert verdict.text == "<EMAIL> or <PHONE>, card <CARD>, HL-20931, £12.50 on 2026-04-17"
    assert verdict.reason == "card number, email address, telephone number"


def test_redacting_twice_changes_nothing_more() -> None:
    once = CHECK("GB82 WEST 1234 5698 7654 32 and sk-9fA3kLmQ2zXv7TbR1cWy", CheckContext()).text
    assert once == "<IBAN> and <API_KEY>"
    assert CHECK(once, CheckContext()).outcome == "pass"


@pytest.mark.parametrize("text", ["HL-12345", "£14.50", "12 Feb 2026", "2026-04-17", "order 20931 and 20932", "11 am"])
def test_order_numbers_prices_and_dates_stay(text: str) -> None:
    assert CHECK(text, CheckContext()).outcome == "pass"


def test_no_text_of_the_shop_is_changed() -> None:
    texts = shop_texts()
    assert len(texts) > 2500
    assert [text for text in texts if redact(text, find_spans(text, frozenset(FINDERS))) != text] == []


def test_every_kind_has_a_placeholder() -> None:
    assert PLACEHOLDERS.keys() == FINDERS.keys()
