"""Turn records: telemetry, one row per request; refused, failed and abandoned ones included."""

from __future__ import annotations

import logging
import time
import uuid
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from pydantic import TypeAdapter

from deployments.app.access.rate_limits import Permit
from deployments.app.guardrails.checks import CheckFinding
from deployments.app.openai.protocol import Head
from deployments.app.routing.fallback import RoutedAnswer
from deployments.app.routing.routing import Route
from deployments.app.steps.input_checks import CheckedInput
from deployments.app.steps.output_checks import CheckLog, merge_findings
from deployments.app.steps.retrieval import PendingPassages
from deployments.core.messages import Delta, ToolStep, TurnEnd
from tasks.monitoring.telemetry_row import TelemetryRow
from tasks.tools.policy import Decision

_LOG = logging.getLogger(__name__)
_STEPS = TypeAdapter(tuple[ToolStep, ...])
_IDS = TypeAdapter(tuple[str, ...])
_FINDINGS = TypeAdapter(tuple[CheckFinding, ...])
_DECISIONS = TypeAdapter(tuple[Decision, ...])

Sink = Callable[[TelemetryRow], None]

CLIENT_CLOSED = "client_closed"
TRACE_HEADER = "x-graft-trace-id"
ROUTE_HEADER = "x-graft-route"
FALLBACK_HEADER = "x-graft-fallback"
RETRIES_HEADER = "x-graft-retries"
CACHE_HEADER = "x-graft-cache"


class TurnRecord:
    """The telemetry of one turn so far. It is written as one row, at the first ending."""

    def __init__(self, sink: Sink, operation: str) -> None:
        self.operation = operation
        self.trace_id = uuid.uuid4().hex
        self.at = datetime.now(UTC)
        self.route = Route("")
        self.intended_digest = ""
        self.skipped = ""
        self.retries = 0
        self.cache = ""
        self.stream = False
        self.owner = ""
        self.visitor = ""
        self.permit: Permit | None = None
        self.checks = CheckLog()
        self.passages: PendingPassages | None = None
        self._sink = sink
        self._started = time.monotonic()
        self._first_token_ms: float | None = None
        self._so_far: dict[str, int] = {}
        self._written = False

    @property
    def headers(self) -> dict[str, str]:
        """The response headers about the turn."""
        routing = {
            ROUTE_HEADER: self.route.name,
            FALLBACK_HEADER: self.skipped,
            RETRIES_HEADER: str(self.retries or ""),
            CACHE_HEADER: self.cache,
        }
        present = {name: value for name, value in routing.items() if value}
        return {TRACE_HEADER: self.trace_id, **present, **(self.permit.headers if self.permit else {})}

    @property
    def head(self) -> Head:
        """The fields with which the response bodies begin, once the route is known."""
        return Head(self.trace_id, int(self.at.timestamp()), self.route.model)

    @property
    def elapsed_ms(self) -> float:
        return (time.monotonic() - self._started) * 1000

    def set_intended_route(self, route: Route) -> None:
        """The first route for the request. Another may answer: see `set_route`."""
        self.route, self.intended_digest = route, route.digest

    def add_findings(self, checked_input: CheckedInput) -> None:
        """Add the input guard's findings."""
        self.checks.findings = merge_findings((), checked_input.findings)
        self.checks.blocked_by = checked_input.blocked_by

    def count_tokens(self, event: Delta | TurnEnd) -> None:
        """Count generated tokens: the first is timed, and all are charged however the turn ends."""
        if self._first_token_ms is None:
            self._first_token_ms = self.elapsed_ms
        counted = event if isinstance(event, Delta) else event.generation
        self._so_far = {"prompt_tokens": counted.prompt_tokens, "completion_tokens": counted.completion_tokens}

    def reset(self) -> None:
        """Forget the tokens so far: the answer starts over, and they are not sent."""
        self._first_token_ms = None
        self._so_far = {}

    def set_route(self, routed: RoutedAnswer) -> None:
        """The route that answers, or was the last to refuse."""
        self.route = routed.route
        self.retries = routed.retries
        self.skipped = ", ".join(routed.skipped)

    def finish(self, end: TurnEnd) -> None:
        """Write the row of a complete answer."""
        self.count_tokens(end)
        self._write(200, "", end)

    def finish_embedding(self, tokens: int) -> None:
        """Write the row of a complete embeddings answer for so many tokens."""
        self._so_far = {"prompt_tokens": tokens}
        self._write(200, "", None)

    def fail(self, status: int, code: str) -> None:
        """Write the row of a request that was refused or failed."""
        self._write(status, code, None)

    def client_closed(self) -> None:
        """Write the row of a request whose client disconnected; does nothing if the turn was over."""
        self._write(499, CLIENT_CLOSED, None)

    def _write(self, status: int, error: str, end: TurnEnd | None) -> None:
        if self._written:
            return
        self._written = True
        if self.permit:
            self.permit.settle(sum(self._so_far.values()))
        passages = self.passages.so_far.shown if self.passages else ()
        row = TelemetryRow(
            trace_id=self.trace_id,
            at=self.at,
            digest=self.route.digest,
            operation=self.operation,
            owner=self.owner,
            visitor=self.visitor,
            status=status,
            error=error,
            stream=self.stream,
            latency_ms=self.elapsed_ms,
            route=self.route.name,
            meant=self.intended_digest,
            passed_over=self.skipped,
            retries=self.retries,
            cache=self.cache,
            first_token_ms=self._first_token_ms,
            queue_ms=end.queue_ms if end else None,
            cached_tokens=end.cached_tokens if end else None,
            all_prompt_tokens=self._so_far.get("prompt_tokens"),
            all_completion_tokens=self._so_far.get("completion_tokens"),
            engine_ms=end.generation.latency_ms if end else None,
            steps=_json(_STEPS, end.steps if end else ()),
            passages=_json(_IDS, tuple(passage.id for passage in passages)),
            findings=_json(_FINDINGS, self.checks.findings),
            decisions=_json(_DECISIONS, self.checks.decisions),
            blocked_by=self.checks.blocked_by,
            **(end.features.model_dump() if end and end.features else self._so_far),
        )
        try:
            self._sink(row)
        except OSError:
            # The answer still goes out without its row, but the loss is logged.
            _LOG.exception("telemetry row of turn %s was lost", self.trace_id)


def _json(adapter: TypeAdapter[Any], value: tuple[Any, ...]) -> str:
    """As JSON text; empty for no values."""
    return adapter.dump_json(value).decode() if value else ""
