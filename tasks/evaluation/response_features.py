"""Response features: sizes and kind of one answer, the same in evaluation and in serving.

Drift detection compares served answers with evaluated ones, so both must be measured by the same code.
No text is stored, because a telemetry row must not contain a customer's words.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from tasks.core.records import Message, Record
from tasks.engine.protocol import Generation
from tasks.prompt.tool_calls import ParsedAnswer
from tasks.text.refusals import is_refusal

NUMERIC = ("user_chars", "turns", "prompt_tokens", "completion_tokens", "answer_chars")
CATEGORICAL = ("finish_reason", "tool_name", "refused", "valid_format")
"""The numeric and the categorical features."""
UNKNOWN = "(unknown)"
"""Stands for a name that the model made up: a name from a conversation may hold a customer's words, or HTML."""


class ResponseFeatures(Record):
    """The features of one answer; see `NUMERIC` and `CATEGORICAL`."""

    user_chars: int
    """Length of the last user message, in characters."""
    turns: int
    """Number of user messages."""
    prompt_tokens: int
    """Length of the prompt, in tokens."""
    completion_tokens: int
    """Length of the completion, in tokens."""
    answer_chars: int
    """Length of the answer's text, in characters."""
    finish_reason: str
    """`finish_reason` of the completion."""
    tool_name: str
    """Name of the first tool called, `(unknown)` if the model was not shown it; empty if none was called."""
    refused: bool
    """Whether the answer is a refusal."""
    valid_format: bool
    """Whether the completion could be parsed."""


def measure_response(
    messages: Sequence[Message],
    generation: Generation,
    answer: ParsedAnswer,
    phrases: Sequence[str],
    tools: Collection[str],
) -> ResponseFeatures:
    """The features of one answer to `messages`.

    Args:
        messages: the conversation up to the answer.
        generation: the engine's result.
        answer: the parsed completion.
        phrases: refusal phrases of the contract.
        tools: names of the tools that the model was shown.
    """
    called = answer.tool_calls[0].name if answer.tool_calls else ""
    users = [m for m in messages if m.role == "user"]
    return ResponseFeatures(
        user_chars=len(users[-1].content) if users else 0,
        turns=len(users),
        prompt_tokens=generation.prompt_tokens,
        completion_tokens=generation.completion_tokens,
        answer_chars=len(answer.content),
        finish_reason=generation.finish_reason,
        tool_name=called if called in tools or not called else UNKNOWN,
        refused=is_refusal(answer.content, phrases),
        valid_format=answer.valid,
    )
