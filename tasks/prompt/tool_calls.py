"""Where in a model's text a tool call may be, so that no piece of one is shown."""

from __future__ import annotations

_CALL = "<tool_call>"


def showable(text: str) -> str:
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
