"""How much memory a piece of work takes. It is done in a new process, so what others held before is not in it.

A GPU's memory is not counted, nor is what further processes of the work hold (vLLM's, say).
"""

from __future__ import annotations

import re
import resource
import sys
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from pathlib import Path
from typing import TypeVar

from tasks.core.errors import GraftError

T = TypeVar("T")
_PEAK = re.compile(r"^VmHWM:\s+(\d+) kB$", re.MULTILINE)


def with_peak_memory(work: Callable[[], T], name: str) -> tuple[T, float]:
    """What `work`, which must be picklable, gives; and the most RAM that its process held at once, in MiB.

    Raises:
        GraftError: the process was killed.
        Exception: what `work` raises.
    """
    with ProcessPoolExecutor(max_workers=1, mp_context=get_context("spawn")) as pool:
        try:
            return pool.submit(work).result(), pool.submit(_peak_mb).result()
        except BrokenProcessPool:
            raise GraftError(
                f"{name}: its process was killed, most likely for want of memory; give the machine more, "
                "or ask for less at once (evaluate.batch_size in params.yaml)"
            ) from None


def _peak_mb() -> float:
    """Linux's own figure in `getrusage` is of no use here: it begins with what the parent held."""
    if sys.platform == "linux" and (found := _PEAK.search(Path("/proc/self/status").read_text(encoding="utf-8"))):
        return int(found[1]) / 2**10
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)
