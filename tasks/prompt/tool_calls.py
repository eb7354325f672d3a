"""Where in a model's text a tool call may be, so that no piece of one is shown."""

from __future__ import annotations

import json
from dataclasses import dataclass

from tasks.core.records import Message, ToolCall

_CALL = "<tool_call>"


def visible_text(text: str) -> str:
    """The part of an unfinished turn that is content whatever follows.

    Nothing from a tool call on, nothing that may be the start of one, no space at the ends: so
    that the pieces of a stream add up to the content of the whole answer.
    """
    head, tag, _ = text.partition(_CALL)
    if not tag:
        sizes = range(len(_CALL) - 1, 0, -1)
        held = next((size for size in sizes if head.endswith(_CALL[:size])), 0)
        head = head[: len(head) - held]
    return head.strip()


CALL_OPENS, CALL_ENDS = "<tool_call>", "</tool_call>"


@dataclass(frozen=True)
class ParsedAnswer:
    """A model's text, parsed. `valid` is false when a tool call is there but cannot be read."""

    content: str
    tool_calls: tuple[ToolCall, ...]
    valid: bool

    def message(self) -> Message:
        return Message(role="assistant", content=self.content, tool_calls=self.tool_calls)


def around_arguments(name: str) -> tuple[str, str]:
    """What stands before and after the arguments of a call of tool `name`, as the template writes calls."""
    return f'{CALL_OPENS}{{"name": {json.dumps(name, ensure_ascii=False)}, "arguments": ', f"}}{CALL_ENDS}"
