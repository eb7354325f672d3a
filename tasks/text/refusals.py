"""Refusal detection in an answer, by the refusal phrases of the data contract."""

from __future__ import annotations

from collections.abc import Sequence


def is_refusal(content: str, phrases: Sequence[str]) -> bool:
    """Whether an answer refuses the request: whether it contains one of the data contract's refusal phrases.

    The phrases are in lower case; a typographic apostrophe in the answer counts as a plain one.
    """
    plain = content.lower().replace("\N{RIGHT SINGLE QUOTATION MARK}", "'")
    return any(phrase in plain for phrase in phrases)
