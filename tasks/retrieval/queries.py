"""The retrieval queries of a conversation: the customer's last turns."""

from __future__ import annotations

from collections.abc import Sequence

from tasks.core.records import Message

_QUERY_CHARS = 600
"""A longer turn is looked up by its end, where the question mostly is: a retrieval model reads so much."""


def retrieval_queries(messages: Sequence[Message], turns: int) -> list[str]:
    """What to look up for a customer's last `turns` turns, the last one first.

    Nothing in a conversation with a system text of its own: that is another assistant, which is shown
    neither the shop's tools nor its documents.
    """
    if not messages or messages[0].role == "system":
        return []
    asked = [message.content[-_QUERY_CHARS:] for message in messages if message.role == "user"]
    return asked[: -turns - 1 : -1]
