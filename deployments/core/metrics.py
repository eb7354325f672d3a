"""Metrics: the protocol by which the request path counts events; the caller chooses the implementation."""

from __future__ import annotations

from typing import Protocol


class Metrics(Protocol):
    """Counts events by a few short labels, never by a customer's text."""

    def route_attempt(self, route: str, outcome: str) -> None:
        """Count a try of a route: `ok`, `circuit_open`, `dropped` (the shadow), or the code of its refusal."""
        ...

    def retry(self, route: str, granted: bool) -> None:
        """Count a request for a retry, and whether the retry budget granted it."""
        ...

    def breaker_state(self, model: str, state: str) -> None:
        """Count a change of a package's circuit breaker to `closed`, `open` or `half-open`."""
        ...

    def cache_lookup(self, result: str) -> None:
        """Count a lookup in the answer cache: `hit`, `semantic`, `miss` or `off`."""
        ...
