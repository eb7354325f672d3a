"""Single-run lock: one run of a flow at a time on this machine, one more that waits, and none beyond.

Prefect's own concurrency limit is a lease that a paused run loses: another run would start beside it, and its
process would be ended for the lost lease. A lock of the kernel (`flock`) lasts as long as the process.
"""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager

from tasks.core.paths import RUN


@contextmanager
def single_run(name: str) -> Iterator[bool]:
    """Wait for the lock of the flow `name`, hold it for the block, and yield True.

    If another process is waiting already, yield False immediately, since that one will do the same work.
    """
    RUN.mkdir(parents=True, exist_ok=True)
    with (RUN / f"{name}.next").open("w") as queue, (RUN / f"{name}.turn").open("w") as lock:
        try:
            fcntl.flock(queue, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        fcntl.flock(lock, fcntl.LOCK_EX)
        fcntl.flock(queue, fcntl.LOCK_UN)
        yield True
