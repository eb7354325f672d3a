"""How far two token sequences begin alike."""

from __future__ import annotations

from collections.abc import Sequence


def shared_length(first: Sequence[int], second: Sequence[int]) -> int:
    """How many tokens the two begin with alike."""
    shorter = min(len(first), len(second))
    return next((place for place in range(shorter) if first[place] != second[place]), shorter)
