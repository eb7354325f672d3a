"""Row checks, each of one chat row by itself: a check returns a short fault, or an empty text for a sound row."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import jsonschema

from tasks.core.errors import GraftError
from tasks.core.records import ChatRow, Message, ToolCall
from tasks.data.contract_spec import Behavior
from tasks.text.refusals import is_refusal

MAX_REASON_CHARS = 100
"""The longest fault of a call's arguments, in characters."""

_NEXT = {
    "": {"system", "user"},
    "system": {"user"},
    "user": {"assistant"},
    "calling": {"tool"},
    "tool": {"assistant"},
    "assistant": {"user"},
}


def role_order(row: ChatRow) -> str:
    """The fault of the first turn whose role may not follow the one before it.

    The order is an optional system turn, then user and assistant alternately; tool calls are followed by one
    tool turn each and then by the assistant, or they end the conversation.
    """
    previous, open_calls = "", 0
    for number, message in enumerate(row.messages, 1):
        role: str = message.role
        allowed = {"tool"} if previous == "tool" and open_calls else _NEXT[previous]
        if role not in allowed:
            after = {"": "at the start", "calling": "after a tool call"}.get(previous, f"after {previous}")
            return f"turn {number}: {role} {after}, where {' or '.join(sorted(allowed))} belongs"
        if role == "tool":
            open_calls -= 1
        if role == "assistant":
            open_calls = len(message.tool_calls)
        previous = "calling" if role == "assistant" and open_calls else role
    return "" if row.messages else "no messages"


def content(row: ChatRow) -> str:
    """The fault of the first turn with neither words nor a tool call."""
    for number, message in enumerate(row.messages, 1):
        if not message.content.strip() and not message.tool_calls:
            return f"turn {number}: {message.role} says nothing"
    return ""


def last_turn(row: ChatRow) -> str:
    """The fault of a last turn that is not the assistant's."""
    if row.messages and row.messages[-1].role != "assistant":
        return f"the last turn is {row.messages[-1].role}'s"
    return ""


def behavior(row: ChatRow, labels: Mapping[str, Behavior]) -> str:
    """The fault of a row without a tool call although its label expects one, or with a call although it does not."""
    expected = labels.get(row.label)
    calls = [call.name for message in row.messages for call in message.tool_calls]
    if expected == "tool" and not calls:
        return f"{row.label} expects a tool call; there is none"
    if expected in ("answer", "refusal") and calls:
        return f"{row.label} expects {'an answer' if expected == 'answer' else 'a refusal'}; {calls[0]} is called"
    return ""


def refusals(row: ChatRow, labels: Mapping[str, Behavior], phrases: Sequence[str]) -> str:
    """The fault of a refusal without a refusal phrase, or of another row with one in an assistant turn."""
    expected = labels.get(row.label)
    if expected is None or not row.messages:
        return ""
    if expected == "refusal":
        return "" if is_refusal(row.messages[-1].content, phrases) else "a refusal without a refusal phrase at its end"
    for number, message in enumerate(row.messages, 1):
        if message.role == "assistant" and is_refusal(message.content, phrases):
            return f"turn {number}: a refusal phrase, though {row.label} is no refusal"
    return ""


class ToolCheck:
    """The check of tool calls against the schemas of `data/prompts/tools.json`.

    Raises:
        GraftError: a tool's `parameters` are not a JSON schema.
    """

    def __init__(self, tools: Sequence[dict[str, Any]]) -> None:
        self._validators: dict[str, jsonschema.Draft202012Validator] = {}
        for tool in tools:
            name, parameters = tool["function"]["name"], tool["function"]["parameters"]
            try:
                jsonschema.Draft202012Validator.check_schema(parameters)
            except jsonschema.SchemaError as error:
                raise GraftError(f"tools.json: {name}: parameters are not a JSON schema: {error.message}") from error
            self._validators[name] = jsonschema.Draft202012Validator(parameters)

    def __call__(self, row: ChatRow) -> str:
        """The fault of the first call of an unknown tool, with wrong arguments, or in a row that shows no tools."""
        for number, message in enumerate(row.messages, 1):
            if message.tool_calls and message.role != "assistant":
                return f"turn {number}: {message.role} calls a tool"
            if message.tool_calls and row.messages[0].role == "system":
                return f"turn {number}: a tool call, but the row's own system turn hides the tools from the model"
            for call in message.tool_calls:
                if fault := self._fault(call):
                    return f"turn {number}: {fault}"
        return ""

    def _fault(self, call: ToolCall) -> str:
        if call.name not in self._validators:
            return f"unknown tool {call.name}"
        for error in self._validators[call.name].iter_errors(call.arguments):
            return f"{call.name}: {error.message}"[:MAX_REASON_CHARS]
        return ""


def texts(messages: Sequence[Message]) -> list[tuple[int, str]]:
    """Every text of a conversation with its turn's number, from 1: contents, and argument values of tool calls."""
    numbered_texts = []
    for number, message in enumerate(messages, 1):
        numbered_texts.append((number, message.content))
        numbered_texts += [(number, str(value)) for call in message.tool_calls for value in call.arguments.values()]
    return numbered_texts
