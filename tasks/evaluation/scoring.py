"""How an answer is scored against the one that was expected: per row, without a model."""

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
    """One row's scores. `quality`, in [0, 1], is the one that the gate compares.

    It asks of each row what its label promises: a tool call, a refusal, or an answer's words.
    `tool_call_match` is NaN where no tool call was expected.
    """

    quality: float
    exact_match: bool
    tool_call_match: float
    token_f1: float
    refusal_correct: bool
    valid_format: bool


def token_f1(answer: str, expected: str) -> float:
    """Harmonic mean of word precision and recall, in [0, 1], as in SQuAD (Rajpurkar et al., 2016)."""
    found, wanted = Counter(_WORD.findall(answer.lower())), Counter(_WORD.findall(expected.lower()))
    common = (found & wanted).total()
    if not common:
        return float(found == wanted)
    return 2 * common / (found.total() + wanted.total())


def _normal(call: ToolCall) -> tuple[str, dict[str, str]]:
    return call.name, {key: str(value).strip().lower() for key, value in call.arguments.items()}


def tool_call_match(found: Sequence[ToolCall], expected: Sequence[ToolCall]) -> float:
    """1.0 if the calls agree in name and arguments (letter case aside), else 0.0; NaN if none is expected."""
    if not expected:
        return math.nan
    return float([_normal(call) for call in found] == [_normal(call) for call in expected])


def score_response(answer: ParsedAnswer, target: Message, behaviour: Behavior, phrases: Sequence[str]) -> Score:
    """Compare a parsed answer with the expected turn of a row with this behaviour."""
    refused = is_refusal(answer.content, phrases)
    refusal_correct = refused == is_refusal(target.content, phrases)
    calls = tool_call_match(answer.tool_calls, target.tool_calls)
    f1 = token_f1(answer.content, target.content)
    if not answer.valid:
        quality = 0.0
    elif target.tool_calls:
        quality = calls
    elif behaviour == "refusal":
        quality = float(refusal_correct)
    else:
        # An answer that calls a tool or declines where it should have spoken has not answered.
        quality = f1 if refusal_correct and not answer.tool_calls else 0.0
    return Score(
        quality=quality,
        exact_match=answer.content == target.content and (math.isnan(calls) or calls == 1.0),
        tool_call_match=calls,
        token_f1=f1,
        refusal_correct=refusal_correct,
        valid_format=answer.valid,
    )
