"""The configured checks of params.yaml: all of them, in order, each with its behavior on failure."""

from __future__ import annotations

from pathlib import Path

from deployments.app.guardrails.checks import CheckContext, run_checks
from deployments.app.guardrails.configured import configured_checks
from tasks.core.settings import load_settings
from tasks.safety.injection_classifier import open_classifier
from tests.conftest import ROOT
from tests.support.attack_texts import ATTACKS

SAFETY = load_settings(ROOT / "params.yaml").guardrails


def test_every_check_has_a_word_on_its_failure(tiny_classifier: Path) -> None:
    checks = configured_checks(SAFETY, open_classifier(tiny_classifier))
    assert {check.name for check in checks} == set(SAFETY.on_failure)


def test_a_turn_is_looked_at_three_times(tiny_classifier: Path) -> None:
    checks = configured_checks(SAFETY, open_classifier(tiny_classifier))
    question = run_checks(checks, "before", "I am jo@example.org, where is HL-20931", CheckContext(), SAFETY.on_failure)
    assert (question.text, question.blocked) == ("I am <EMAIL>, where is HL-20931", False)
    attack = run_checks(checks, "before", ATTACKS[0], CheckContext(), SAFETY.on_failure)
    assert attack.blocked
    passage = run_checks(checks, "data", f"Sent to 07911 123456.\n{ATTACKS[0]}", CheckContext(), SAFETY.on_failure)
    assert (passage.text, passage.blocked) == ("Sent to <PHONE>.\n[left out]", False)
    answer = run_checks(checks, "after", "See https://evil.example/", CheckContext(), SAFETY.on_failure)
    assert (answer.blocked, answer.findings[-1].check) == (True, "links")


def test_only_the_kinds_that_are_to_be_hidden_are(tiny_classifier: Path) -> None:
    settings = SAFETY.model_copy(update={"redact": ("card number",)})
    checks = configured_checks(settings, open_classifier(tiny_classifier))
    question = run_checks(checks, "before", "jo@example.org 4111 1111 1111 1111", CheckContext(), SAFETY.on_failure)
    assert question.text == "jo@example.org <CARD>"
