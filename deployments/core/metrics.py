"""What is counted while turns are taken. Who counts, and where one reads it, is the caller's affair."""

from __future__ import annotations

from typing import Protocol


class Metrics(Protocol):
    """Counts events by a few short words, never by what a customer wrote."""

    def route_attempt(self, route: str, outcome: str) -> None:
        """A route was tried, or left out: `ok`, `circuit_open`, `dropped` (the shadow), or the code of its refusal."""
        ...

    def retry(self, route: str, granted: bool) -> None:
        """A route wanted another attempt; the retry budget had one left, or not."""
        ...

    def breaker_state(self, model: str, state: str) -> None:
        """A package's circuit breaker changed to `closed`, `open` or `half-open`."""
        ...

    def cache_lookup(self, result: str) -> None:
        """The cache was asked for an answer: `hit`, `semantic`, `miss` or `off`."""
        ...
