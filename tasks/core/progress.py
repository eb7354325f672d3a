"""Progress of a long stage: a line in the terminal that the pipeline also turns into a bar.

A stage runs in a process of its own, so its progress crosses a pipe as text; `parse` is the
other end of `Progress`.
"""

from __future__ import annotations

import re
import time
from dataclasses import dataclass

_LINE = re.compile(r"^(?P<what>.+): (?P<done>\d+)/(?P<total>\d+) (?P<unit>\S+), .+ left$")


def duration(seconds: float) -> str:
    """Seconds as people say them: `45 s`, `3 min 20 s`."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


class Progress:
    """Prints `train: 12/90 steps, 310.5 tokens/s, 2 min 10 s left`, at most every few seconds.

    `amount` is what the rate counts (tokens, rows); `done` and `total` count steps.
    """

    def __init__(self, what: str, total: int, unit: str, rate_unit: str, every_s: float = 5.0, done: int = 0) -> None:
        self.what, self.total, self.unit, self.rate_unit, self.every_s = what, total, unit, rate_unit, every_s
        self._from = done
        self._started = self._last = time.monotonic()

    def update(self, done: int, amount: float) -> None:
        """Say how far it is, unless that was said a moment ago."""
        now = time.monotonic()
        if now - self._last < self.every_s and done < self.total:
            return
        self._last = now
        elapsed = max(now - self._started, 1e-9)
        left = elapsed / max(done - self._from, 1) * (self.total - done)
        rate = f"{amount / elapsed:.1f} {self.rate_unit}/s"
        print(f"{self.what}: {done}/{self.total} {self.unit}, {rate}, {duration(left)} left", flush=True)


@dataclass(frozen=True)
class Step:
    """A progress line, read back."""

    what: str
    done: int
    total: int

    @property
    def percent(self) -> float:
        return 100.0 * self.done / max(self.total, 1)


def parse(line: str) -> Step | None:
    """The progress that a line tells, or None for any other line."""
    if match := _LINE.match(line.strip()):
        return Step(match["what"], int(match["done"]), int(match["total"]))
    return None
