"""A model of the prefix cache of an engine that does not report how much of a prompt it had cached.

OpenVINO keeps whole blocks of tokens, each identified by all tokens up to its end: the blocks of prompts
once they are computed, and those of the tokens generated after them. A block that no open request uses
is evicted when space is needed, the least recently used first. `PrefixCacheModel` does the same accounting.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from cachetools import LRUCache


class PrefixCacheModel:
    """The accounting of the blocks of tokens in a prefix cache.

    Args:
        block_size: tokens in a block.
        capacity: blocks that the cache holds.
    """

    def __init__(self, block_size: int, capacity: int) -> None:
        self._block_size = block_size
        self._blocks_kept: LRUCache[int, None] = LRUCache(max(1, capacity))

    def cached_tokens(self, ids: Sequence[int]) -> int:
        """The number of a prompt's tokens that need not be computed; the last token always is."""
        hits = 0
        for block in self._blocks(ids):
            if block not in self._blocks_kept:
                break
            self._blocks_kept[block] = None  # marks it as most recently used
            hits += 1
        return max(0, min(hits * self._block_size, len(ids) - 1))

    def keep(self, ids: Sequence[int]) -> None:
        """Record that the engine has computed `ids`."""
        for block in self._blocks(ids):
            self._blocks_kept[block] = None

    def _blocks(self, ids: Sequence[int]) -> Iterator[int]:
        block = 0
        for end in range(self._block_size, len(ids) + 1, self._block_size):
            block = hash((block, *ids[end - self._block_size : end]))
            yield block


def common_prefix_length(first: Sequence[int], second: Sequence[int]) -> int:
    """The length of the common prefix of two token sequences, in tokens."""
    shorter = min(len(first), len(second))
    return next((index for index in range(shorter) if first[index] != second[index]), shorter)
