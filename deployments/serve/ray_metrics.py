"""Ray Serve metrics: the assistant's counters for Prometheus.

Ray's agent on the node exposes them to Prometheus, with Serve's own, at the address in
`prom_metrics_service_discovery.json` in Ray's session folder; it is on the loopback interface, as Ray is.
"""

from __future__ import annotations

from typing import Any

from ray.serve import metrics

from tasks.monitoring.telemetry_row import TelemetryRow


class RayMetrics:
    """`Metrics` with one Ray Counter each. Create it in a replica: Serve adds the replica's name as a tag."""

    def __init__(self) -> None:
        self._attempts = _counter("graft_routes", "Routes tried or skipped", "way", "outcome")
        self._retries = _counter(
            "graft_retries", "Retries requested, by whether the budget granted them", "way", "granted"
        )
        self._breaker = _counter("graft_breaker_changes", "State changes of circuit breakers", "model", "state")
        self._lookups = _counter("graft_cache_lookups", "Lookups in the answer cache", "result")
        self._prompts = _counter("graft_prompt_tokens", "Prompt tokens, from the prefix cache or computed", "kept")

    def route_attempt(self, route: str, outcome: str) -> None:
        """See `Metrics.route_attempt`."""
        self._attempts.inc(tags={"way": route, "outcome": outcome})

    def retry(self, route: str, granted: bool) -> None:
        """See `Metrics.retry`."""
        self._retries.inc(tags={"way": route, "granted": str(granted).lower()})

    def breaker_state(self, model: str, state: str) -> None:
        """See `Metrics.breaker_state`."""
        self._breaker.inc(tags={"model": model, "state": state})

    def cache_lookup(self, result: str) -> None:
        """See `Metrics.cache_lookup`."""
        self._lookups.inc(tags={"result": result})

    def answer(self, row: TelemetryRow) -> None:
        """Count an answer's prompt tokens, by whether they came from the prefix cache, where that is known."""
        if row.all_prompt_tokens is None or row.cached_tokens is None:
            return
        for kept, tokens in (("true", row.cached_tokens), ("false", row.all_prompt_tokens - row.cached_tokens)):
            if tokens:  # Ray's counter raises an error on an increment of 0
                self._prompts.inc(tokens, tags={"kept": kept})


def _counter(name: str, description: str, *tags: str) -> Any:
    # Ray's annotations allow only one tag. The tag is `way`, since `route` is Serve's own, for the HTTP path.
    counter: Any = metrics.Counter
    return counter(name, description=description, tag_keys=tags)
