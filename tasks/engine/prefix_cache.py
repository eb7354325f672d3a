"""What a paged key-value cache that keeps prefixes has of a prompt, where its engine does not say.

OpenVINO keeps whole blocks of tokens, each known by all tokens up to its end: those of prompts once
they are computed, and what was written after them. A block that no open request uses is given up
when the room is needed, the one that was used longest ago first. This keeps the same books.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from cachetools import LRUCache


class PrefixCacheModel:
    """The blocks of tokens that are kept.

    Args:
        size: tokens in a block.
        room: blocks that the cache holds.
    """

    def __init__(self, size: int, room: int) -> None:
        self._size = size
        self._kept: LRUCache[int, None] = LRUCache(max(1, room))

    def cached_tokens(self, ids: Sequence[int]) -> int:
        """How many of a prompt's tokens need not be computed; the last one always is."""
        found = 0
        for block in self._blocks(ids):
            if block not in self._kept:
                break
            self._kept[block] = None  # used just now
            found += 1
        return max(0, min(found * self._size, len(ids) - 1))

    def keep(self, ids: Sequence[int]) -> None:
        """`ids` have been computed."""
        for block in self._blocks(ids):
            self._kept[block] = None

    def _blocks(self, ids: Sequence[int]) -> Iterator[int]:
        block = 0
        for end in range(self._size, len(ids) + 1, self._size):
            block = hash((block, *ids[end - self._size : end]))
            yield block


def common_prefix_length(first: Sequence[int], second: Sequence[int]) -> int:
    """How many tokens the two begin with alike."""
    shorter = min(len(first), len(second))
    return next((place for place in range(shorter) if first[place] != second[place]), shorter)
