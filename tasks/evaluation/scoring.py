"""Scoring of an answer against the expected one: per row, by code, without a judge model."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence

from tasks.core.records import Message, Record, ToolCall
from tasks.data.contract_spec import Behavior
from tasks.prompt.tool_calls import ParsedAnswer
from tasks.text.refusals import is_refusal

_WORD = re.compile(r"\w+(?:[.,']\w+)*")


class Score(Record):
    """The scores of one eval row."""

    quality: float
    """The score that the gate compares, in [0, 1]. It depends on the behavior of the row's label: the match of the tool
    call, the correctness of the refusal, or the token F1 of the answer."""
    exact_match: bool
    """Whether text and tool calls equal the expected ones."""
    tool_call_match: float
    """1.0 or 0.0; NaN where no tool call was expected."""
    token_f1: float
    """F1 over words, in [0, 1]."""
    refusal_correct: bool
    """Whether the answer is a refusal exactly where one was expected."""
    valid_format: bool
    """Whether the completion could be parsed."""


def token_f1(answer: str, expected: str) -> float:
    """Harmonic mean of word precision and recall, in [0, 1], as in SQuAD (Rajpurkar et al., 2016)."""
    words, expected_words = Counter(_WORD.findall(answer.lower())), Counter(_WORD.findall(expected.lower()))
    common = (words & expected_words).total()
    if not common:
        return float(words == expected_words)
    return 2 * common / (words.total() + expected_words.total())


def _normalized(call: ToolCall) -> tuple[str, dict[str, str]]:
    return call.name, {key: str(value).strip().lower() for key, value in call.arguments.items()}


def tool_call_match(calls: Sequence[ToolCall], expected: Sequence[ToolCall]) -> float:
    """1.0 if the calls agree in name and arguments (ignoring case), else 0.0; NaN if none is expected."""
    if not expected:
        return math.nan
    return float([_normalized(call) for call in calls] == [_normalized(call) for call in expected])


def score_response(answer: ParsedAnswer, target: Message, behavior: Behavior, phrases: Sequence[str]) -> Score:
    """Compare a parsed answer with the expected turn of an eval row.

    Args:
        answer: the parsed completion.
        target: the expected turn.
        behavior: how rows of this label are answered: in words, by a tool call or by a refusal.
        phrases: refusal phrases of the contract.
    """
    refused = is_refusal(answer.content, phrases)
    refusal_correct = refused == is_refusal(target.content, phrases)
    calls = tool_call_match(answer.tool_calls, target.tool_calls)
    f1 = token_f1(answer.content, target.content)
    if not answer.valid:
        quality = 0.0
    elif target.tool_calls:
        quality = calls
    elif behavior == "refusal":
        quality = float(refusal_correct)
    else:
        # An answer that calls a tool or refuses where words were expected has not answered.
        quality = f1 if refusal_correct and not answer.tool_calls else 0.0
    return Score(
        quality=quality,
        exact_match=answer.content == target.content and (math.isnan(calls) or calls == 1.0),
        tool_call_match=calls,
        token_f1=f1,
        refusal_correct=refusal_correct,
        valid_format=answer.valid,
    )
