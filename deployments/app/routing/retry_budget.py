"""Retry budget: retries are limited to a share of the requests, plus a few per minute.

A service that all callers retry gets several times its load just when it fails. So a retry spends a
token, each request deposits a share of one, and a few are added per minute, for a service with little
traffic (Google's Site Reliability Engineering, 2016, chapter 21; Finagle's RetryBudget).
"""

from __future__ import annotations

from collections.abc import Callable

from deployments.app.access.rate_limits import TokenBucket
from deployments.core.settings import RetrySettings


class RetryBudget:
    """The budget of all requests of a process; it never holds more than one minute's worth."""

    def __init__(self, settings: RetrySettings, clock: Callable[[], float]) -> None:
        self._share = settings.ratio
        self._clock = clock
        self._tokens = TokenBucket(settings.per_minute, settings.per_minute, clock())

    def deposit(self) -> None:
        """Add the share of one request."""
        self._tokens.fill(self._clock())
        self._tokens.level = min(self._tokens.per_minute, self._tokens.level + self._share)

    def spend(self) -> bool:
        """Spend a token for a retry; False if there is none."""
        self._tokens.fill(self._clock())
        if self._tokens.level < 1:
            return False
        self._tokens.level -= 1
        return True
