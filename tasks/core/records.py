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
    arguments: dict[str, Any]

    @model_validator(mode="before")
    @classmethod
    def _flatten(cls, value: Any) -> Any:
        if isinstance(value, dict) and isinstance(value.get("function"), dict):
            value = value["function"]
        if isinstance(value, dict) and isinstance(value.get("arguments"), str):
            value = {**value, "arguments": json.loads(value["arguments"] or "{}")}
        return value


class Message(Record):
    """One turn of a conversation. `context` was found for a user's turn and waits to be looked up."""

    role: Role
    content: str = ""
    context: str = ""
    tool_calls: tuple[ToolCall, ...] = ()

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
    label: str = ""
    group: str = ""
    messages: tuple[Message, ...]


class Example(Record):
    """A chat row that passed the contract, with its split and where it came from."""

    id: str
    label: str
    group: str
    split: Literal["train", "eval", "test"]
    source: str
    messages: tuple[Message, ...]

    @property
    def prompt(self) -> tuple[Message, ...]:
        """The conversation before its last assistant turn."""
        return self.messages[:-1]

    @property
    def target(self) -> Message:
        """The last assistant turn: what evaluation compares an answer with."""
        return self.messages[-1]


def dump_messages(messages: Sequence[Message]) -> str:
    """Messages as compact JSON, for a table column or a hash."""
    return json.dumps([m.model_dump(mode="json", exclude_defaults=True) for m in messages], ensure_ascii=False)


def load_messages(text: str) -> tuple[Message, ...]:
    """The inverse of `dump_messages`."""
    return tuple(Message.model_validate(m) for m in json.loads(text))
