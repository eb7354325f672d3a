"""Scoring of hand-made answers."""

from __future__ import annotations

import math

import pytest

from tasks.core.records import Message, ToolCall
from tasks.data.contract_spec import Behavior
from tasks.evaluation.scoring import Score, score_response, token_f1
from tasks.prompt.tool_calls import ParsedAnswer

PHRASES = ("i can't",)
CALL = ToolCall(name="find_order", arguments={"order_id": "HL-12345"})


def score(answer: ParsedAnswer, target: Message, behavior: Behavior) -> Score:
    return score_response(answer, target, behavior, PHRASES)


@pytest.mark.parametrize(
    ("call", "quality"),
    [
        (CALL, 1.0),
        (ToolCall(name="find_order", arguments={"order_id": "hl-12345 "}), 1.0),
        (ToolCall(name="find_order", arguments={"order_id": "HL-54321"}), 0.0),
        (ToolCall(name="cancel_order", arguments={"order_id": "HL-12345"}), 0.0),
        (ToolCall(name="find_order", arguments={"order_id": "HL-12345", "why": "x"}), 0.0),
    ],
)
def test_tool_call_needs_name_and_arguments(call: ToolCall, quality: float) -> None:
    target = Message(role="assistant", tool_calls=(CALL,))
    assert score(ParsedAnswer("", (call,), valid=True), target, "tool").quality == quality


def test_words_do_not_pay_where_a_tool_call_was_due() -> None:
    target = Message(role="assistant", tool_calls=(CALL,))
    result = score(ParsedAnswer("I will look up HL-12345.", (), valid=True), target, "tool")
    assert (result.quality, result.tool_call_match) == (0.0, 0.0)


def test_a_refusal_counts_in_any_words_and_an_answer_does_not() -> None:
    target = Message(role="assistant", content="I can't tell you that.")
    assert score(ParsedAnswer("Sorry, I can\u2019t help there.", (), valid=True), target, "refusal").quality == 1.0
    assert score(ParsedAnswer("Sure, here it is.", (), valid=True), target, "refusal").quality == 0.0


def test_an_answer_is_scored_by_its_words_unless_it_declines_or_calls() -> None:
    target = Message(role="assistant", content="Plants take 2 working days.")
    good = score(ParsedAnswer("They take 2 working days.", (), valid=True), target, "answer")
    assert good.quality == good.token_f1 == pytest.approx(0.8)
    assert math.isnan(good.tool_call_match)
    assert score(ParsedAnswer("I can't say; 2 working days.", (), valid=True), target, "answer").quality == 0.0
    assert score(ParsedAnswer("Plants take 2 working days.", (CALL,), valid=True), target, "answer").quality == 0.0
    assert score(ParsedAnswer("Plants take 2 working days.", (), valid=False), target, "answer").quality == 0.0


def test_token_f1_ends() -> None:
    assert token_f1("", "") == 1.0
    assert token_f1("yes", "") == 0.0
    assert token_f1("£6.95, 2 days", "2 days £6.95") == 1.0
