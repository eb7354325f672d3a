"""What of the machine an engine may take."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Resources:
    """Threads (None: one for each core) and GiB for keys and values of open requests and kept prefixes.

    An engine on a GPU takes what it finds there; the transformers engine's cache grows as it must.
    `apart`: other threads of this process must go on while the engine computes.
    """

    threads: int | None
    cache_gb: int
    in_subprocess: bool


EXCLUSIVE = Resources(threads=None, cache_gb=2, in_subprocess=False)
"""For who evaluates: nobody else is served meanwhile."""
