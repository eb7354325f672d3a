"""Tests of the semantic cache benchmark: the hits that it counts as false, on a few pairs written by hand."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import numpy as np
import pytest

from benchmarks.semantic_cache import Case, changes, contradict, measure, same
from deployments.core.messages import Vectors
from tasks.core.records import Message, ToolCall


def says(text: str) -> Message:
    return Message(role="assistant", content=text)


def stock(item: str) -> Message:
    return Message(role="assistant", tool_calls=(ToolCall(name="check_stock", arguments={"item": item}),))


def order(number: str) -> Message:
    return Message(role="assistant", tool_calls=(ToolCall(name="find_order", arguments={"order": number}),))


async def by_first_letter(texts: Sequence[str]) -> Vectors:
    return np.stack([np.eye(26, dtype=np.float32)[ord(text[0].lower()) - 97] for text in texts])


CASES = [
    Case("Is HL-1 on its way?", order("HL-1")),
    Case("Is HL-2 on its way?", order("HL-2")),
    Case("Got any musa left?", stock("musa")),
    Case("Got any ferns left?", stock("ferns")),
    Case("Where are you", says("In Kent.")),
    Case("Whereabouts in England", says("Kent, near Ashford.")),
]


def test_rates_of_pairs_by_hand() -> None:
    without = asyncio.run(measure(CASES, by_first_letter, 0.9, rules=False))
    assert (without.hits, without.false, without.certainly_false) == (1, 1, pytest.approx(4 / 6))
    assert (without.other_number, without.other_name, without.negated) == (0.5, 0.5, pytest.approx(2 / 3))
    rules = asyncio.run(measure(CASES, by_first_letter, 0.9, rules=True))
    assert (rules.hits, rules.false, rules.certainly_false) == (pytest.approx(4 / 6),) * 2 + (pytest.approx(2 / 6),)
    assert (rules.other_number, rules.other_name, rules.negated) == (0, 0.5, 0)
    assert rules.respelled > 0


def test_questions_are_changed_as_it_says() -> None:
    changed = changes(CASES)
    assert changed["other_number"] == {0: "Is HL-2 on its way?", 1: "Is HL-1 on its way?"}
    assert changed["other_name"] == {2: "Got any ferns left?", 3: "Got any musa left?"}
    assert changed["negated"] == {
        0: "Is not HL-1 on its way?",
        1: "Is not HL-2 on its way?",
        4: "Where are not you",
    }
    assert changed["respelled"][2] == "got any musa left"


def test_answers_that_may_both_be_right_are_not_certainly_wrong() -> None:
    assert same(says("Two days. "), says("two days."))
    assert not same(says("Two days."), says("2 days, then."))
    assert not contradict(says("Two days."), says("2 days, then."))
    assert contradict(says("Two days."), says("3 days."))
    assert contradict(says("You can."), says("You can't."))
    assert contradict(stock("musa"), stock("ferns"))
    assert contradict(stock("musa"), says("We have it."))
