"""Progress of a long stage: a line in the terminal that the pipeline also turns into a progress bar.

A stage runs in a process of its own, so its progress crosses a pipe as text; `parse` is the
other end of `Progress`.
"""

from __future__ import annotations

import re
import time
from dataclasses import dataclass

_LINE = re.compile(r"^(?P<name>.+): (?P<done>\d+)/(?P<total>\d+) (?P<unit>\S+), .+ left$")


def duration(seconds: float) -> str:
    """A duration in seconds as readable text: `45 s`, `3 min 20 s`."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


class Progress:
    """Prints `train: 12/90 steps, 310.5 tokens/s, 2 min 10 s left`, at most every few seconds.

    Args:
        name: the stage's name, with which each line begins.
        total: the number of steps of the whole stage.
        unit: the plural noun of a step, such as `rows`.
        rate_unit: the plural noun that the rate counts, such as `tokens`.
        every_s: the shortest time between two lines, in seconds.
        done: the steps that were already done before this process started; they do not count for the time left.
    """

    def __init__(self, name: str, total: int, unit: str, rate_unit: str, every_s: float = 5.0, done: int = 0) -> None:
        self.name, self.total, self.unit, self.rate_unit, self.every_s = name, total, unit, rate_unit, every_s
        self._from = done
        self._started = self._last = time.monotonic()

    def update(self, done: int, amount: float) -> None:
        """Print a line, unless one was printed less than `every_s` ago; the last step is always printed.

        `done` counts steps out of `total`; `amount` counts `rate_unit` since the start (tokens, rows).
        """
        now = time.monotonic()
        if now - self._last < self.every_s and done < self.total:
            return
        self._last = now
        elapsed = max(now - self._started, 1e-9)
        remaining_s = elapsed / max(done - self._from, 1) * (self.total - done)
        rate = f"{amount / elapsed:.1f} {self.rate_unit}/s"
        print(f"{self.name}: {done}/{self.total} {self.unit}, {rate}, {duration(remaining_s)} left", flush=True)


@dataclass(frozen=True)
class Step:
    """A progress line, read back."""

    name: str
    """The stage's name."""
    done: int
    """Steps done so far."""
    total: int
    """Steps of the whole stage."""

    @property
    def percent(self) -> float:
        return 100.0 * self.done / max(self.total, 1)


def parse(line: str) -> Step | None:
    """The progress in a line of output, or None for any other line."""
    if match := _LINE.match(line.strip()):
        return Step(match["name"], int(match["done"]), int(match["total"]))
    return None
