"""Retrieval queries of a conversation: the customer's last turns."""

from __future__ import annotations

from collections.abc import Sequence

from tasks.core.records import Message

_QUERY_CHARS = 600
"""Length of a query. A longer turn is cut to its end, where the question mostly is, as the embedding model's maximum
length is limited."""


def retrieval_queries(messages: Sequence[Message], turns: int) -> list[str]:
    """The queries for a customer's last `turns` turns, the last one first.

    There are none in a conversation with a system text of its own: such a conversation is for another
    assistant, which is shown neither the shop's tools nor its documents.
    """
    if not messages or messages[0].role == "system":
        return []
    queries = [message.content[-_QUERY_CHARS:] for message in messages if message.role == "user"]
    return queries[: -turns - 1 : -1]
