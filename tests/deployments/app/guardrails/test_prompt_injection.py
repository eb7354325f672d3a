"""Prompt injection: attacks in a customer's words are refused; in data only they are left out, and its shape stays."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from deployments.app.guardrails.checks import CheckContext
from deployments.app.guardrails.prompt_injection import WITHHELD, IndirectInjectionCheck, PromptInjectionCheck
from tasks.core.paths import BUILT_PROMPT_INJECTION, KNOWLEDGE, RAW
from tasks.core.settings import load_settings
from tasks.data.raw_rows import read_folder
from tasks.prompt_injection import paragraphs
from tasks.safety.injection_classifier import open_classifier
from tests.conftest import ROOT
from tests.support.attack_texts import ATTACKS, HARMLESS


def test_a_customers_attack_is_blocked_and_a_question_is_not(tiny_classifier: Path) -> None:
    check = PromptInjectionCheck(open_classifier(tiny_classifier))
    assert check(ATTACKS[0], CheckContext()).outcome == "block"
    verdict = check(HARMLESS[0], CheckContext())
    assert (verdict.outcome, verdict.text) == ("pass", HARMLESS[0])


def test_a_poisoned_article_loses_the_line_and_keeps_the_rest(tiny_classifier: Path) -> None:
    check = IndirectInjectionCheck(open_classifier(tiny_classifier))
    verdict = check(f"{HARMLESS[0]}\n{ATTACKS[0]}\n{HARMLESS[1]}", CheckContext())
    assert verdict.outcome == "redact"
    assert verdict.text == f"{HARMLESS[0]}\n{WITHHELD}\n{HARMLESS[1]}"


def test_an_attack_broken_over_lines_is_left_out_too(tiny_classifier: Path) -> None:
    classifier = open_classifier(tiny_classifier)
    broken = ATTACKS[0].replace(" ", "\n")
    assert classifier.is_attack(broken)
    redacted = IndirectInjectionCheck(classifier)(broken, CheckContext()).text
    assert WITHHELD in redacted
    assert not classifier.is_attack(redacted)


def test_a_poisoned_order_note_leaves_the_order_readable(tiny_classifier: Path) -> None:
    check = IndirectInjectionCheck(open_classifier(tiny_classifier))
    order = {"status": "sent", "items": ["2 x lavender hidcote", ATTACKS[1]], "courier": None, "n": 3, "ok": True}
    verdict = check(json.dumps(order), CheckContext())
    assert json.loads(verdict.text) == {**order, "items": ["2 x lavender hidcote", WITHHELD]}
    hidden_in_a_name = check(json.dumps({ATTACKS[1]: 1}), CheckContext())
    assert json.loads(hidden_in_a_name.text) == {WITHHELD: 1}


@pytest.mark.parametrize("text", ['{"status":  "sent"}', "[1, 2]", "null", '"rose"', "{broken", ""])
def test_data_without_an_attack_is_passed_on_as_it_was(tiny_classifier: Path, text: str) -> None:
    verdict = IndirectInjectionCheck(open_classifier(tiny_classifier))(text, CheckContext())
    assert (verdict.outcome, verdict.text) == ("pass", text)


def test_what_stands_for_an_attack_is_none(tiny_classifier: Path) -> None:
    check = IndirectInjectionCheck(open_classifier(tiny_classifier))
    assert check(WITHHELD, CheckContext()).outcome == "pass"


@pytest.mark.skipif(not (ROOT / BUILT_PROMPT_INJECTION).is_dir(), reason="the stage `prompt_injection` has not run")
def test_of_all_the_shops_texts_hardly_any_is_taken_for_an_attack() -> None:
    """At most 1% of what customers write, and 1% of an article's paragraphs, which would be kept from the model."""
    classifier = open_classifier(ROOT / BUILT_PROMPT_INJECTION)
    own = load_settings(ROOT / "params.yaml").prompt_injection.own_attacks
    rows = [line.row for line in read_folder(ROOT / RAW) if line.row]
    questions = [
        m.content for row in rows if not {row.id, row.label} & set(own) for m in row.messages if m.role == "user"
    ]
    assert sum(map(classifier.is_attack, questions)) <= 0.01 * len(questions)
    articles = paragraphs(ROOT / KNOWLEDGE)
    assert sum(map(classifier.is_attack, articles)) <= 0.01 * len(articles)
