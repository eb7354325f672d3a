"""The assistant's counters as Ray Serve metrics.

Ray's agent on the node offers them to Prometheus, with Serve's own, at the address that
`prom_metrics_service_discovery.json` in Ray's session folder names: on loopback, where Ray is.
"""

from __future__ import annotations

from typing import Any

from ray.serve import metrics

from tasks.monitoring.telemetry_row import TelemetryRow


class RayMetrics:
    """`Metrics`, one Counter for each; create it in a replica, whose name Serve adds."""

    def __init__(self) -> None:
        self._tried = _counter("graft_routes", "Routes tried or left out", "way", "outcome")
        self._retried = _counter("graft_retries", "Further attempts that were wanted", "way", "granted")
        self._breaker = _counter("graft_breaker_changes", "Circuit breakers that changed", "model", "state")
        self._looked_up = _counter("graft_cache_lookups", "Answers looked for in the cache", "result")
        self._prompts = _counter("graft_prompt_tokens", "Prompt tokens, kept from before or computed", "kept")

    def route_attempt(self, route: str, outcome: str) -> None:
        """See `Metrics.route_attempt`."""
        self._tried.inc(tags={"way": route, "outcome": outcome})

    def retry(self, route: str, granted: bool) -> None:
        """See `Metrics.retry`."""
        self._retried.inc(tags={"way": route, "granted": str(granted).lower()})

    def breaker_state(self, model: str, state: str) -> None:
        """See `Metrics.breaker_state`."""
        self._breaker.inc(tags={"model": model, "state": state})

    def cache_lookup(self, result: str) -> None:
        """See `Metrics.cache_lookup`."""
        self._looked_up.inc(tags={"result": result})

    def answer(self, row: TelemetryRow) -> None:
        """Count how much of an answer's prompts was kept from before, where that is known."""
        if row.all_prompt_tokens is None or row.cached_tokens is None:
            return
        for kept, tokens in (("true", row.cached_tokens), ("false", row.all_prompt_tokens - row.cached_tokens)):
            if tokens:  # a counter refuses to be raised by nothing
                self._prompts.inc(tokens, tags={"kept": kept})


def _counter(name: str, description: str, *tags: str) -> Any:
    # Its annotations allow one tag only. `route` is Serve's own tag, for the HTTP path.
    counter: Any = metrics.Counter
    return counter(name, description=description, tag_keys=tags)
