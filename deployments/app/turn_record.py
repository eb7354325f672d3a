"""Telemetry of turns: one row per answer, refused, failed and abandoned ones too."""

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
    """What is known of one turn so far. It becomes one row, by whichever ending comes first."""

    def __init__(self, sink: Sink, operation: str) -> None:
        self.operation = operation
        self.trace_id = uuid.uuid4().hex
        self.at = datetime.now(UTC)
        self.route = Route("")
        self.meant = ""
        self.passed_over = ""
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
        """What the answer's head says of the turn."""
        ways = {
            ROUTE_HEADER: self.route.name,
            FALLBACK_HEADER: self.passed_over,
            RETRIES_HEADER: str(self.retries or ""),
            CACHE_HEADER: self.cache,
        }
        told = {name: value for name, value in ways.items() if value}
        return {TRACE_HEADER: self.trace_id, **told, **(self.permit.headers if self.permit else {})}

    @property
    def head(self) -> Head:
        """What the answer's bodies begin with, once it is known who answers."""
        return Head(self.trace_id, int(self.at.timestamp()), self.route.model)

    @property
    def elapsed_ms(self) -> float:
        return (time.monotonic() - self._started) * 1000

    def set_intended_route(self, route: Route) -> None:
        """Who is to answer. Another may: see `opened`."""
        self.route, self.meant = route, route.digest

    def add_findings(self, taken: CheckedInput) -> None:
        """What the checks said of the request."""
        self.checks.findings = merge_findings((), taken.findings)
        self.checks.blocked_by = taken.blocked_by

    def count_tokens(self, event: Delta | TurnEnd) -> None:
        """The model gave tokens: the first of them is timed, and they are charged however the turn ends."""
        if self._first_token_ms is None:
            self._first_token_ms = self.elapsed_ms
        counted = event if isinstance(event, Delta) else event.generation
        self._so_far = {"prompt_tokens": counted.prompt_tokens, "completion_tokens": counted.completion_tokens}

    def reset(self) -> None:
        """What the model gave so far goes to nobody."""
        self._first_token_ms = None
        self._so_far = {}

    def set_route(self, opened: RoutedAnswer) -> None:
        """A route answers, or was the last to refuse."""
        self.route = opened.route
        self.retries = opened.retries
        self.passed_over = ", ".join(opened.skipped)

    def finish(self, finished: TurnEnd) -> None:
        """The answer is whole."""
        self.count_tokens(finished)
        self._write(200, "", finished)

    def finish_embedding(self, tokens: int) -> None:
        """The answer is whole, and is vectors of so many tokens."""
        self._so_far = {"prompt_tokens": tokens}
        self._write(200, "", None)

    def fail(self, status: int, code: str) -> None:
        """It was refused, or broke off."""
        self._write(status, code, None)

    def client_closed(self) -> None:
        """The client is gone. Does nothing if the turn was over by then."""
        self._write(499, CLIENT_CLOSED, None)

    def _write(self, status: int, error: str, finished: TurnEnd | None) -> None:
        if self._written:
            return
        self._written = True
        if self.permit:
            self.permit.settle(sum(self._so_far.values()))
        given = self.passages.so_far.shown if self.passages else ()
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
            meant=self.meant,
            passed_over=self.passed_over,
            retries=self.retries,
            cache=self.cache,
            first_token_ms=self._first_token_ms,
            queue_ms=finished.queue_ms if finished else None,
            cached_tokens=finished.cached_tokens if finished else None,
            all_prompt_tokens=self._so_far.get("prompt_tokens"),
            all_completion_tokens=self._so_far.get("completion_tokens"),
            engine_ms=finished.generation.latency_ms if finished else None,
            steps=_json(_STEPS, finished.steps if finished else ()),
            passages=_json(_IDS, tuple(chunk.id for chunk in given)),
            findings=_json(_FINDINGS, self.checks.findings),
            decisions=_json(_DECISIONS, self.checks.decisions),
            blocked_by=self.checks.blocked_by,
            **(finished.features.model_dump() if finished and finished.features else self._so_far),
        )
        try:
            self._sink(row)
        except OSError:
            # An answer is worth more than its row, but the loss must be seen.
            _LOG.exception("telemetry row of turn %s was lost", self.trace_id)


def _json(adapter: TypeAdapter[Any], value: tuple[Any, ...]) -> str:
    """As JSON text, empty where there is nothing."""
    return adapter.dump_json(value).decode() if value else ""
