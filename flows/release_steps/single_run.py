"""One run of a flow at a time on this machine, one more that waits, and none beyond.

Prefect's own limit is a lease that a paused run loses: another one would start beside it, and its
process would be ended for the lost lease. A lock of the kernel's lasts as long as the process.
"""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager

from tasks.core.paths import RUN


@contextmanager
def single_run(name: str) -> Iterator[bool]:
    """Wait for the turn of this process and keep it for the block.

    Gives False at once if another one waits already: whatever this one was to see to, that one will.
    """
    RUN.mkdir(parents=True, exist_ok=True)
    with (RUN / f"{name}.next").open("w") as place, (RUN / f"{name}.turn").open("w") as lock:
        try:
            fcntl.flock(place, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        fcntl.flock(lock, fcntl.LOCK_EX)
        fcntl.flock(place, fcntl.LOCK_UN)
        yield True
