"""Whether a text refuses, by the refusal phrases of the data contract."""

from __future__ import annotations

from collections.abc import Sequence


def is_refusal(content: str, phrases: Sequence[str]) -> bool:
    """Whether an answer declines, by the phrases that the data contract keeps for refusals."""
    plain = content.lower().replace("\N{RIGHT SINGLE QUOTATION MARK}", "'")
    return any(phrase in plain for phrase in phrases)
