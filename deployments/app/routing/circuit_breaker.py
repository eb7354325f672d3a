"""Circuit breaker: skips a failing route for a while (Nygard, Release It!, 2007).

    closed     calls go through; the breaker opens when there were `min_calls` in the last `window_s`
               seconds and `failure_ratio` of them failed
    open       no call goes through for `open_s` seconds
    half-open  one call goes through, the probe: if it succeeds the breaker closes, if it fails it
               opens again

It decides by a share and not by a count, so that a few failures among many answers do not open it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Literal

from deployments.core.settings import BreakerSettings

State = Literal["closed", "open", "half-open"]


class Call:
    """One call that a breaker let through; the first `end` counts."""

    def __init__(self, report: Callable[[bool | None], None]) -> None:
        self._report = report
        self._ended = False

    def end(self, succeeded: bool | None) -> None:
        """Report the outcome; None if it says nothing about the route: the client disconnected, or was at fault."""
        if not self._ended:
            self._ended = True
            self._report(succeeded)


class CircuitBreaker:
    """The breaker of one route. It belongs to one event loop.

    Args:
        settings: see the module's docstring.
        clock: monotonic seconds.
        on_change: called with each new state.
    """

    def __init__(
        self, settings: BreakerSettings, clock: Callable[[], float], on_change: Callable[[State], None]
    ) -> None:
        self._settings = settings
        self._clock = clock
        self._on_change = on_change
        self._state: State = "closed"
        self._ended: deque[tuple[float, bool]] = deque()
        self._opened = 0.0
        self._probing = False
        self._changes = 0

    def admit(self) -> Call | None:
        """A call, which its caller must end; None if the breaker rejects it."""
        if self._state == "open" and self._clock() >= self._opened + self._settings.open_s:
            self._enter("half-open")
        if self._state == "open" or self._probing:
            return None
        self._probing = self._state == "half-open"
        changes = self._changes
        # A call that was admitted before the last change of state says nothing about the time after it.
        return Call(lambda succeeded: self._record(succeeded) if changes == self._changes else None)

    def _record(self, succeeded: bool | None) -> None:
        self._probing = False
        if succeeded is None:
            return
        if self._state == "half-open":
            self._enter("closed" if succeeded else "open")
            return
        now = self._clock()
        self._ended.append((now, succeeded))
        while self._ended[0][0] <= now - self._settings.window_s:
            self._ended.popleft()
        failures = sum(not ok for _, ok in self._ended)
        if len(self._ended) >= self._settings.min_calls and failures >= self._settings.failure_ratio * len(self._ended):
            self._enter("open")

    def _enter(self, state: State) -> None:
        self._state = state
        self._changes += 1
        self._probing = False
        self._ended.clear()
        self._opened = self._clock()
        self._on_change(state)
