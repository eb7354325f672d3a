"""Peak memory of a function: it runs in a new process, so that earlier memory use of the caller is not counted.

A GPU's memory is not counted, nor is the memory of further processes that the function starts (vLLM's, say).
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
    """The result of `work` and the peak resident memory of its process, in MiB.

    Args:
        work: the function to run; it must be picklable.
        name: names the work in the error.

    Raises:
        GraftError: the process was killed.
        Exception: any exception that `work` raises.
    """
    with ProcessPoolExecutor(max_workers=1, mp_context=get_context("spawn")) as pool:
        try:
            return pool.submit(work).result(), pool.submit(_peak_mb).result()
        except BrokenProcessPool:
            raise GraftError(
                f"{name}: its process was killed, most likely because memory ran out; give the machine more memory, "
                "or lower the batch size (evaluate.batch_size in params.yaml)"
            ) from None


def _peak_mb() -> float:
    """Peak resident memory of this process, in MiB.

    On Linux `ru_maxrss` of `getrusage` is of no use, because it starts with the memory of the parent process.
    """
    if sys.platform == "linux" and (match := _PEAK.search(Path("/proc/self/status").read_text(encoding="utf-8"))):
        return int(match[1]) / 2**10
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)
