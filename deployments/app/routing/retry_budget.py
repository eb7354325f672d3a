"""The budget for retries: they may be a share of the requests, and a few more.

A service whose every caller retries gets several times its load just when it fails. So a retry
takes a token, each request puts in a share of one, and a few flow in by themselves, for a service
that is asked rarely (Google's Site Reliability Engineering, 2016, chapter 21; Finagle's RetryBudget).
"""

from __future__ import annotations

from collections.abc import Callable

from deployments.app.access.rate_limits import TokenBucket
from deployments.core.settings import RetrySettings


class RetryBudget:
    """Shared by all requests of a process; never holds more than one minute's own flow."""

    def __init__(self, settings: RetrySettings, clock: Callable[[], float]) -> None:
        self._share = settings.ratio
        self._clock = clock
        self._tokens = TokenBucket(settings.per_minute, settings.per_minute, clock())

    def deposit(self) -> None:
        """A request came."""
        self._tokens.fill(self._clock())
        self._tokens.level = min(self._tokens.per_minute, self._tokens.level + self._share)

    def spend(self) -> bool:
        """Whether a retry may be made now; if so, it is paid for."""
        self._tokens.fill(self._clock())
        if self._tokens.level < 1:
            return False
        self._tokens.level -= 1
        return True
