"""The tool by which a model reads what was found for its customer's turn: no arguments, no effect.

The search itself is done before the model is asked, as the rules for words lean on what was found
whether the model reads it or not; what it would read waits at the turn (`Message.context`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tasks.core.records import Message, ToolCall
from tasks.retrieval.chunks import Chunk
from tasks.retrieval.spotlight import mark_data

NAME = "look_up"
SCHEMA: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": NAME,
        "description": "What the shop's pages say to the customer's last message.",
        "parameters": {"type": "object", "properties": {}, "additionalProperties": False},
    },
}
NOTHING = "Nothing about that was found."


def with_context(messages: Sequence[Message], chunks: Sequence[Chunk]) -> tuple[Message, ...]:
    """The conversation with what was found for its customer's last turn, which there must be."""
    last = _last_turn(messages)
    context = "\n".join(mark_data(chunk.embedded) for chunk in chunks)
    return (*messages[:last], messages[last].model_copy(update={"context": context}), *messages[last + 1 :])


def call_message() -> Message:
    """The model's turn that looks something up."""
    return Message(role="assistant", tool_calls=(ToolCall(name=NAME, arguments={}),))


def read_message(messages: Sequence[Message]) -> Message:
    """What the model then reads."""
    return Message(role="tool", content=messages[_last_turn(messages)].context or NOTHING)


def _last_turn(messages: Sequence[Message]) -> int:
    return max(place for place, message in enumerate(messages) if message.role == "user")
