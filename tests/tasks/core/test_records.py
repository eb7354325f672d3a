"""The records that pass between stages, read from the shapes of people's files."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from tasks.core.records import ChatRow, Example, Message, ToolCall, dump_messages, load_messages

CALL = ToolCall(name="find_order", arguments={"order_id": "HL-20931"})


@pytest.mark.parametrize(
    "value",
    [
        {"name": "find_order", "arguments": {"order_id": "HL-20931"}},
        {"name": "find_order", "arguments": '{"order_id": "HL-20931"}'},
        {
            "id": "call_1",
            "type": "function",
            "function": {"name": "find_order", "arguments": '{"order_id": "HL-20931"}'},
        },
        {"type": "function", "function": {"name": "find_order", "arguments": {"order_id": "HL-20931"}}},
    ],
    ids=["flat", "flat text", "openai", "openai object"],
)
def test_tool_calls_are_read_in_both_shapes(value: dict[str, object]) -> None:
    assert ToolCall.model_validate(value) == CALL


def test_a_call_without_arguments_may_bring_an_empty_text() -> None:
    assert ToolCall.model_validate({"function": {"name": "ping", "arguments": ""}}).arguments == {}


@pytest.mark.parametrize(
    "value",
    [
        {"name": "find_order", "arguments": "{not json"},
        {"name": "find_order", "arguments": ["HL-20931"]},
        {"name": "find_order"},
        {"name": "find_order", "arguments": {}, "extra": 1},
    ],
    ids=["broken text", "list", "no arguments", "unknown field"],
)
def test_a_broken_tool_call_is_refused(value: dict[str, object]) -> None:
    with pytest.raises(ValueError):
        ToolCall.model_validate(value)


def test_transport_fields_of_a_message_are_dropped_and_others_refused() -> None:
    message = Message.model_validate(
        {"role": "assistant", "content": None, "refusal": None, "tool_calls": [{"function": {**CALL.model_dump()}}]}
    )
    assert message == Message(role="assistant", tool_calls=(CALL,))
    answer = Message.model_validate({"role": "tool", "tool_call_id": "call_1", "name": "find_order", "content": "sent"})
    assert answer == Message(role="tool", content="sent")
    with pytest.raises(ValidationError, match="mood"):
        Message.model_validate({"role": "user", "content": "hi", "mood": "bad"})
    with pytest.raises(ValidationError, match="role"):
        Message.model_validate({"role": "boss", "content": "hi"})


def test_messages_survive_their_text_form() -> None:
    messages = (
        Message(role="user", content="Où est ma commande ? \u2028 “HL-20931”"),
        Message(role="assistant", tool_calls=(CALL,)),
        Message(role="tool", content='{"status": "sent"}'),
        Message(role="assistant", content="Sent."),
    )
    text = dump_messages(messages)
    assert load_messages(text) == messages
    assert "\n" not in text and "Où" in text


def test_an_example_is_asked_without_its_last_turn() -> None:
    messages = (Message(role="user", content="hi"), Message(role="assistant", content="Hello."))
    example = Example(id="1", label="a", group="g", split="eval", source="a.jsonl:1", messages=messages)
    assert example.prompt == messages[:1]
    assert example.target == messages[1]


def test_records_do_not_change() -> None:
    row = ChatRow(messages=(Message(role="user", content="hi"),))
    with pytest.raises(ValidationError):
        row.label = "other"
