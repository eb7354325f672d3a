"""Resource usage of a system: CPU seconds and memory of a process and all its descendants."""

from __future__ import annotations

from contextlib import suppress

import psutil


def cpu_seconds(pid: int) -> dict[int, float]:
    """CPU seconds so far, user and system, of each running process, by pid."""
    seconds = {}
    for process in _family(pid):
        with suppress(psutil.NoSuchProcess):
            times = process.cpu_times()
            seconds[process.pid] = times.user + times.system
    return seconds


def spent(before: dict[int, float], after: dict[int, float]) -> float:
    """CPU seconds between two readings; those of a process that ended meanwhile are not known."""
    return sum(seconds - before.get(pid, 0.0) for pid, seconds in after.items())


def memory_mb(pid: int) -> float:
    """Proportional set size in MiB: a page that several processes share is divided among them."""
    total = 0.0
    for process in _family(pid):
        with suppress(psutil.NoSuchProcess):
            total += process.memory_full_info().pss / 2**20
    return total


def _family(pid: int) -> list[psutil.Process]:
    process = psutil.Process(pid)
    return [process, *process.children(recursive=True)]
