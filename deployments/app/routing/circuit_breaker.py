"""A circuit breaker: a route that keeps failing is left alone for a while (Nygard, Release It!, 2007).

    closed     calls go through; when `failure_ratio` of those of the last `window_s` seconds
               failed, and there were `min_calls`, it opens
    open       no call goes through for `open_s` seconds
    half-open  one call goes through, the probe: if it succeeds the breaker closes, if it fails it
               opens again

It decides by a share, not by a number, so that a few failures among many answers do not open it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Literal

from deployments.core.settings import BreakerSettings

State = Literal["closed", "open", "half-open"]


class Call:
    """One call that a breaker let through; the first `end` counts."""

    def __init__(self, tell: Callable[[bool | None], None]) -> None:
        self._tell = tell
        self._ended = False

    def end(self, succeeded: bool | None) -> None:
        """How it went; None where the call says nothing of the route: its client left, or was at fault."""
        if not self._ended:
            self._ended = True
            self._tell(succeeded)


class CircuitBreaker:
    """The breaker of one route. It belongs to one event loop.

    Args:
        settings: see the module's head.
        clock: seconds that only grow.
        changed: is told each new state.
    """

    def __init__(self, settings: BreakerSettings, clock: Callable[[], float], changed: Callable[[State], None]) -> None:
        self._settings = settings
        self._clock = clock
        self._changed = changed
        self._state: State = "closed"
        self._ended: deque[tuple[float, bool]] = deque()
        self._opened = 0.0
        self._probing = False
        self._changes = 0

    def admit(self) -> Call | None:
        """Let a call through, or None. Who gets one must end it."""
        if self._state == "open" and self._clock() >= self._opened + self._settings.open_s:
            self._enter("half-open")
        if self._state == "open" or self._probing:
            return None
        self._probing = self._state == "half-open"
        changes = self._changes
        # What was let through before the last change of state says nothing of the time after it.
        return Call(lambda succeeded: self._note(succeeded) if changes == self._changes else None)

    def _note(self, succeeded: bool | None) -> None:
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
        self._changed(state)
