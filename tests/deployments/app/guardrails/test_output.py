"""Output guardrails: an answer with the instructions, a foreign link or other people's data is not sent as it is."""

from __future__ import annotations

import json

import pytest

from deployments.app.guardrails.checks import CheckContext
from deployments.app.guardrails.output import DataLeakageCheck, LinkCheck, PromptLeakageCheck
from tasks.core.paths import KNOWLEDGE, PROMPTS, RAW
from tasks.core.settings import load_settings
from tasks.data.raw_rows import read_folder
from tasks.prompt.template import PromptSource
from tasks.prompt_injection import paragraphs
from tasks.text.pii import find_spans
from tests.conftest import ROOT

SAFETY = load_settings(ROOT / "params.yaml").guardrails
SOURCE = PromptSource.read(ROOT / PROMPTS)
INSTRUCTIONS = CheckContext(instructions=(SOURCE.system, json.dumps(SOURCE.tools)))
LEAKS = PromptLeakageCheck(SAFETY.leaked_words)
LINKS = LinkCheck(("hollowlane.example",))
OTHERS = DataLeakageCheck(find_spans)


def answers() -> list[str]:
    rows = [line.row for line in read_folder(ROOT / RAW) if line.row]
    texts = [m.content for row in rows for m in row.messages if m.role == "assistant" and m.content]
    return texts + paragraphs(ROOT / KNOWLEDGE)


def test_no_answer_of_the_shop_is_stopped() -> None:
    texts = answers()
    assert len(texts) > 1000
    for check in (LEAKS, LINKS, OTHERS):
        assert [text for text in texts if check(text, INSTRUCTIONS).outcome != "pass"] == []


def test_reading_out_the_instructions_is_blocked_whatever_the_case_and_punctuation() -> None:
    for text in (f"Sure: {SOURCE.system}", SOURCE.system.upper(), SOURCE.system.replace(" ", "\n* ")):
        assert LEAKS(text, INSTRUCTIONS).outcome == "block"
    tools = json.dumps(SOURCE.tools, indent=4)
    assert LEAKS(tools, INSTRUCTIONS).outcome == "block"


def test_a_few_words_of_the_instructions_are_not_reading_them_out() -> None:
    assert LEAKS("This is the Hollow Lane desk, the support line.", INSTRUCTIONS).outcome == "pass"
    words = " ".join(SOURCE.system.split()[:8])
    assert LEAKS(words, INSTRUCTIONS).outcome == "block"
    assert LEAKS(words, CheckContext()).outcome == "pass"


@pytest.mark.parametrize(
    "text",
    [
        "see https://hollowlane.example/returns for more",
        "see help.hollowlane.example/x, or www.hollowlane.example.",
        "[returns](https://hollowlane.example/returns)",
        "Pots and/or trays, 24/7, 3/4 full.",
        "Yes! (see above)",
        "sow thinly.Then water",
    ],
)
def test_own_links_and_plain_words_pass(text: str) -> None:
    assert LINKS(text, CheckContext()).outcome == "pass"


@pytest.mark.parametrize(
    "text",
    [
        "![x](https://hollowlane.example/p.png)",
        "![x] (https://evil.example/?q=order)",
        "![x][1]",
        '<img src="https://hollowlane.example/p.png">',
        "go to https://evil.example/",
        "[returns](http://evil.example)",
        "www.evil.example",
        "evil.example/track?o=HL-20931",
        "https://hollowlane.example.evil.example/",
        "https://evilhollowlane.example/",
        "https://hollowlane.example@evil.example/",
        "https://evil.example\\@hollowlane.example/",
        "//evil.example/x",
        "ftp://hollowlane.example/x",
        "javascript:alert(1)",
        "[a](data:text/html;base64,x)",
        "http://[::1",
        "HTTPS://EVIL.EXAMPLE",
    ],
)
def test_images_and_foreign_links_are_blocked(text: str) -> None:
    assert LINKS(text, CheckContext()).outcome == "block"


def test_others_data_is_redacted_and_the_customers_own_is_not() -> None:
    text = "We will write to jo@example.org and ring 07911 123456."
    assert OTHERS(text, CheckContext()).text == "We will write to <EMAIL> and ring <PHONE>."
    known = CheckContext(user_messages=("I'm Jo@Example.org",), results=('{"phone": "07911-123456"}',))
    assert OTHERS(text, known).outcome == "pass"
    half = OTHERS(text, CheckContext(user_messages=("jo@example.org",)))
    assert (half.outcome, half.text) == ("redact", "We will write to jo@example.org and ring <PHONE>.")
    assert half.reason == "telephone number"
