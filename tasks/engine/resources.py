"""Resources of the machine that an engine may use: threads, cache memory, a process of its own."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Resources:
    """Limits for one engine. On a GPU an engine uses the free memory instead of `cache_gb`."""

    threads: int | None
    """CPU threads; None: one for each core."""
    cache_gb: int
    """GiB for keys and values of open requests and kept prefixes; the transformers engine's cache has no limit."""
    in_subprocess: bool
    """Whether other threads of this process must run while the engine computes."""


EXCLUSIVE = Resources(threads=None, cache_gb=2, in_subprocess=False)
"""The resources for evaluation, during which this process serves no users."""
