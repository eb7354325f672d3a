"""Tool calls in a model's text: their tags, the parsed answer, and the part of a stream that is safe to show."""

from __future__ import annotations

import json
from dataclasses import dataclass

from tasks.core.records import Message, ToolCall

_CALL_TAG = "<tool_call>"


def visible_text(text: str) -> str:
    """The part of an unfinished turn that is content, whatever text follows.

    It excludes everything from a tool call on, anything that may be the start of one, and spaces at both
    ends, so that the parts of a stream add up to the content of the whole answer.
    """
    head, tag, _ = text.partition(_CALL_TAG)
    if not tag:
        sizes = range(len(_CALL_TAG) - 1, 0, -1)
        held_back = next((size for size in sizes if head.endswith(_CALL_TAG[:size])), 0)
        head = head[: len(head) - held_back]
    return head.strip()


CALL_OPENS, CALL_ENDS = "<tool_call>", "</tool_call>"


@dataclass(frozen=True)
class ParsedAnswer:
    """A model's answer, parsed."""

    content: str
    """The text outside tool calls; the whole text if the answer is invalid."""
    tool_calls: tuple[ToolCall, ...]
    """The tool calls in their order."""
    valid: bool
    """False if a tool call cannot be parsed, or if the answer has neither text nor calls."""

    def message(self) -> Message:
        """The answer as an assistant turn."""
        return Message(role="assistant", content=self.content, tool_calls=self.tool_calls)


def around_arguments(name: str) -> tuple[str, str]:
    """The text before and after the arguments of a call of tool `name`, as the template writes calls."""
    return f'{CALL_OPENS}{{"name": {json.dumps(name, ensure_ascii=False)}, "arguments": ', f"}}{CALL_ENDS}"
