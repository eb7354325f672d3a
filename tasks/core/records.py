"""The records that pass between stages: a chat row, its messages, and a prepared example.

A raw row has the shape of OpenAI's fine-tuning files, with a `label` (the request kind):

    {"id": "…", "label": "order_status", "messages": [{"role": "user", "content": "…"}, …]}
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, model_validator

Role = Literal["system", "user", "assistant", "tool"]


class Record(BaseModel):
    """A frozen record that refuses fields it does not know."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class ToolCall(Record):
    """One call of a tool by the model: its name and its arguments, already parsed.

    Reads OpenAI's nested shape (`{"type": "function", "function": {"name", "arguments"}}`, where
    the arguments may be a JSON string) as well as the flat one.
    """

    name: str
    """The tool's name."""
    arguments: dict[str, Any]
    """The arguments' values by name."""

    @model_validator(mode="before")
    @classmethod
    def _flatten(cls, value: Any) -> Any:
        if isinstance(value, dict) and isinstance(value.get("function"), dict):
            value = value["function"]
        if isinstance(value, dict) and isinstance(value.get("arguments"), str):
            value = {**value, "arguments": json.loads(value["arguments"] or "{}")}
        return value


class Message(Record):
    """One turn of a conversation, without its transport fields (call ids, names)."""

    role: Role
    """The author of the turn."""
    content: str = ""
    """The turn's text; empty in a turn of tool calls alone."""
    context: str = ""
    """The passages that retrieval found for a user's turn; the model reads them through the lookup tool."""
    tool_calls: tuple[ToolCall, ...] = ()
    """The tool calls of an assistant turn, in their order."""

    @model_validator(mode="before")
    @classmethod
    def _drop_transport(cls, value: Any) -> Any:
        """`content: null` beside tool calls, call ids and names are transport, not content."""
        if not isinstance(value, dict):
            return value
        kept = {k: v for k, v in value.items() if k not in {"tool_call_id", "name", "refusal"}}
        return {k: v for k, v in kept.items() if v is not None}


class ChatRow(Record):
    """One line of `data/raw/*.jsonl`."""

    id: str = ""
    """The row's name; empty until the row is read, when it becomes `FILE:LINE` by default."""
    label: str = ""
    """The request kind, one of the data contract's labels."""
    group: str = ""
    """The split group: rows of one group stay in one split; the id by default."""
    messages: tuple[Message, ...]
    """The conversation."""


class Example(Record):
    """A chat row that passed the data contract, with its split and its source."""

    id: str
    """The row's name."""
    label: str
    """The request kind, one of the data contract's labels."""
    group: str
    """The split group: rows of one group stay in one split."""
    split: Literal["train", "eval", "test"]
    """The split that the row is assigned to."""
    source: str
    """The file and line that the row was read from, as `FILE:LINE`."""
    messages: tuple[Message, ...]
    """The conversation; its last turn is the assistant's."""

    @property
    def prompt(self) -> tuple[Message, ...]:
        """The conversation before its last assistant turn."""
        return self.messages[:-1]

    @property
    def target(self) -> Message:
        """The last assistant turn: the reference that evaluation compares an answer with."""
        return self.messages[-1]


def dump_messages(messages: Sequence[Message]) -> str:
    """Messages as compact JSON, for a table column or a hash."""
    return json.dumps([m.model_dump(mode="json", exclude_defaults=True) for m in messages], ensure_ascii=False)


def load_messages(text: str) -> tuple[Message, ...]:
    """The inverse of `dump_messages`."""
    return tuple(Message.model_validate(m) for m in json.loads(text))
