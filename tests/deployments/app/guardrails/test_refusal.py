"""Refusals are recognized as such by the contract, and do not reveal what was found."""

from __future__ import annotations

import pytest

from deployments.app.guardrails.checks import CheckedText, CheckFinding
from deployments.app.guardrails.refusal import ANSWER, ATTACK, FAILED, FINISH_REASON, refusal_text
from tasks.core.paths import CONTRACT
from tasks.data.contract_spec import load_contract
from tests.conftest import ROOT


@pytest.mark.parametrize("text", [ATTACK, ANSWER, FAILED])
def test_a_refusal_opens_as_one_and_holds_a_phrase_of_the_contract(text: str) -> None:
    assert text.startswith("I can't help with that")
    assert any(phrase in text.casefold() for phrase in load_contract(ROOT / CONTRACT).refusal_phrases)
    assert not any(word in text.casefold() for word in ("injection", "attack", "detect", "filter", "instruction"))


def test_the_words_depend_on_what_ended_it() -> None:
    def blocked(check: str, outcome: str) -> CheckedText:
        finding = CheckFinding(check, outcome, "", 0.1)  # type: ignore[arg-type]
        return CheckedText("", (CheckFinding("personal", "pass", "", 0.1), finding), blocked=True)

    assert refusal_text(blocked("injection", "block")) == ATTACK
    assert refusal_text(blocked("links", "block")) == ANSWER
    assert refusal_text(blocked("injection", "failed")) == FAILED
    assert FINISH_REASON == "content_filter"
