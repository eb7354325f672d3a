"""What can be said of one chat row alone: each check returns a short fault, or nothing when all is well."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import jsonschema

from tasks.core.errors import GraftError
from tasks.core.records import ChatRow, Message, ToolCall
from tasks.data.contract_spec import Behavior
from tasks.text.refusals import is_refusal

MAX_REASON_CHARS = 100

_NEXT = {
    "": {"system", "user"},
    "system": {"user"},
    "user": {"assistant"},
    "calling": {"tool"},
    "tool": {"assistant"},
    "assistant": {"user"},
}


def role_order(row: ChatRow) -> str:
    """The first turn that may not follow the one before it.

    An optional system turn, then user and assistant in turn; calls are followed by one tool turn
    each, then by the assistant, or end the conversation.
    """
    before, open_calls = "", 0
    for number, message in enumerate(row.messages, 1):
        role: str = message.role
        allowed = {"tool"} if before == "tool" and open_calls else _NEXT[before]
        if role not in allowed:
            after = {"": "at the start", "calling": "after a tool call"}.get(before, f"after {before}")
            return f"turn {number}: {role} {after}, where {' or '.join(sorted(allowed))} belongs"
        if role == "tool":
            open_calls -= 1
        if role == "assistant":
            open_calls = len(message.tool_calls)
        before = "calling" if role == "assistant" and open_calls else role
    return "" if row.messages else "no messages"


def content(row: ChatRow) -> str:
    """The first turn with neither words nor a tool call."""
    for number, message in enumerate(row.messages, 1):
        if not message.content.strip() and not message.tool_calls:
            return f"turn {number}: {message.role} says nothing"
    return ""


def last_turn(row: ChatRow) -> str:
    """Whether somebody else than the assistant has the last word."""
    if row.messages and row.messages[-1].role != "assistant":
        return f"the last turn is {row.messages[-1].role}'s"
    return ""


def behavior(row: ChatRow, labels: Mapping[str, Behavior]) -> str:
    """Whether no tool is called where the label promises it, or one is called where it does not."""
    expected = labels.get(row.label)
    calls = [call.name for message in row.messages for call in message.tool_calls]
    if expected == "tool" and not calls:
        return f"{row.label} promises a tool call; there is none"
    if expected in ("answer", "refusal") and calls:
        return f"{row.label} promises {'an answer' if expected == 'answer' else 'a refusal'}; {calls[0]} is called"
    return ""


def refusals(row: ChatRow, labels: Mapping[str, Behavior], phrases: Sequence[str]) -> str:
    """Whether a refusal lacks its phrase, or an assistant turn elsewhere has one."""
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
    """Tool calls against the schemas of `data/prompts/tools.json`.

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
                raise GraftError(f"tools.json: {name}: parameters are no JSON schema: {error.message}") from error
            self._validators[name] = jsonschema.Draft202012Validator(parameters)

    def __call__(self, row: ChatRow) -> str:
        """The first call of an unknown tool, with wrong arguments, or where the model is shown no tools."""
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
    """Every text of a conversation with its turn's number: words, and the values in tool calls."""
    numbered_texts = []
    for number, message in enumerate(messages, 1):
        numbered_texts.append((number, message.content))
        numbered_texts += [(number, str(value)) for call in message.tool_calls for value in call.arguments.values()]
    return numbered_texts
