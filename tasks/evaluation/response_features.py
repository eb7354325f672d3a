"""What is counted of one answer, whether in evaluation or in service.

Drift compares served answers with evaluated ones, so both sides must count with the same code.
No text is kept: a telemetry row holds no customer's words.
"""

from __future__ import annotations

from collections.abc import Sequence

from tasks.core.records import Message, Record
from tasks.engine.protocol import Generation
from tasks.prompt.tool_calls import ParsedAnswer
from tasks.text.refusals import is_refusal

NUMERIC = ("user_chars", "turns", "prompt_tokens", "completion_tokens", "answer_chars")
CATEGORICAL = ("finish_reason", "tool_name", "refused", "valid_format")


class ResponseFeatures(Record):
    """Sizes in characters, turns and tokens, and the kind of answer; see `NUMERIC`, `CATEGORICAL`."""

    user_chars: int
    turns: int
    prompt_tokens: int
    completion_tokens: int
    answer_chars: int
    finish_reason: str
    tool_name: str
    refused: bool
    valid_format: bool


def measure_response(
    messages: Sequence[Message], generation: Generation, answer: ParsedAnswer, phrases: Sequence[str]
) -> ResponseFeatures:
    """The features of one answer to `messages`."""
    users = [m for m in messages if m.role == "user"]
    return ResponseFeatures(
        user_chars=len(users[-1].content) if users else 0,
        turns=len(users),
        prompt_tokens=generation.prompt_tokens,
        completion_tokens=generation.completion_tokens,
        answer_chars=len(answer.content),
        finish_reason=generation.finish_reason,
        tool_name=answer.tool_calls[0].name if answer.tool_calls else "",
        refused=is_refusal(answer.content, phrases),
        valid_format=answer.valid,
    )
