"""Shadow traffic: copies of production's requests for a candidate whose answers are compared and never shown.

A copy runs once the answer has been sent, without the cache, limits and tools: the shadow's first
words or its first call are compared, and a call is never run. Clients never see the shadow's answers,
and no failure of the shadow reaches a client. Copies are the first work to be dropped when engines
are busy. The result of a comparison is a telemetry row of its own, with the operation `shadow`, and
holds no text.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Callable
from contextlib import aclosing
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

from deployments.app.routing.fallback import RoutedAnswer
from deployments.app.routing.routing import Routing
from deployments.app.routing.timeouts import Timeouts, within
from deployments.app.turn_record import Sink, TurnRecord
from deployments.core.messages import OVERLOADED, Backend, Events, Refusal, TurnEnd, TurnRequest
from deployments.core.metrics import Metrics
from deployments.core.settings import ShadowSettings
from tasks.monitoring.telemetry_row import TelemetryRow
from tasks.rollout.shadow_comparison import SHADOW, ShadowAnswer, compare_answers

_LOG = logging.getLogger(__name__)


@dataclass
class ShadowCopy:
    """A copy of a turn for the shadow, which runs only if production's own model answers the turn."""

    trace_id: str
    """The turn's trace id."""
    owner: str
    """The API key's owner."""
    visitor: str
    """The user's pseudonym."""
    request: TurnRequest
    """The request to the shadow."""
    production: str
    """Digest of the package in production, with which the shadow is compared."""
    digest: str
    """Digest of the shadow."""
    app: str
    """Serve application of the shadow."""
    production_answer: TurnEnd | None = None
    """The first model call of production's answer; None if another route or the cache answered."""

    async def watch(self, routed: RoutedAnswer) -> Events:
        """The turn's events, which are closed at the end."""
        async with aclosing(routed.events) as events:
            async for event in events:
                if isinstance(event, TurnEnd) and routed.route.digest == self.production:
                    self.production_answer = event.first_round or event
                yield event


class ShadowTraffic:
    """Samples turns and sends copies of them to the shadow. It belongs to one event loop.

    Args:
        backend: reaches packages, and runs no tools.
        settings: the share of turns, and the load above which copies are dropped.
        sink: receives the telemetry rows.
        metrics: counts, as the route `shadow`.
        load: the number of requests that are open at the engines.
        random_number: returns numbers in [0, 1).
    """

    def __init__(
        self,
        backend: Backend,
        settings: ShadowSettings,
        sink: Sink,
        metrics: Metrics,
        load: Callable[[], int],
        random_number: Callable[[], float] = random.random,
    ) -> None:
        self._backend = backend
        self._settings = settings
        self._sink = sink
        self._metrics = metrics
        self._load = load
        self._random_number = random_number
        self._timeouts = Timeouts(first_token_s=settings.timeout_s, request_s=settings.timeout_s)
        self._open: set[asyncio.Task[None]] = set()

    def choose(self, routing: Routing, record: TurnRecord, request: TurnRequest) -> ShadowCopy | None:
        """A copy of a turn that is about to be answered, if it is in the sample.

        Only greedy chats for production are sampled: not the canary's, nor those that name a digest.
        Two sampled answers would differ even if one model gave both.
        """
        shadow = routing.shadow
        is_greedy_chat = request.sampling.temperature == 0 and request.text is None
        if shadow is None or record.route.name != "production" or not is_greedy_chat:
            return None
        if self._random_number() >= self._settings.fraction:
            return None
        app = routing.served[shadow].app
        return ShadowCopy(record.trace_id, record.owner, record.visitor, request, record.intended_digest, shadow, app)

    async def begin(self, shadow_copy: ShadowCopy) -> None:
        """Send the copy, if production has answered and there is capacity; does not wait for the answer."""
        if shadow_copy.production_answer is None:
            return
        if len(self._open) >= self._settings.concurrency or self._load() >= self._settings.max_open_requests:
            self._metrics.route_attempt(SHADOW, "dropped")
            return
        task = asyncio.create_task(self._compare(shadow_copy, shadow_copy.production_answer))
        self._open.add(task)
        task.add_done_callback(self._open.discard)

    async def _compare(self, shadow_copy: ShadowCopy, production_answer: TurnEnd) -> None:
        at, started = datetime.now(UTC), time.monotonic()
        try:
            answer = await self._answer(shadow_copy)
            self._metrics.route_attempt(SHADOW, answer.code if isinstance(answer, Refusal) else "ok")
            if isinstance(answer, Refusal) and answer.code == OVERLOADED:
                return
            row = TelemetryRow(
                trace_id=shadow_copy.trace_id,
                at=at,
                digest=shadow_copy.digest,
                operation=SHADOW,
                owner=shadow_copy.owner,
                visitor=shadow_copy.visitor,
                route=SHADOW,
                stream=False,
                latency_ms=(time.monotonic() - started) * 1000,
                **_outcome(shadow_copy, at, production_answer, answer),
            )
            self._sink(row)
        except Exception:  # a background task: without this the failure would be silent
            _LOG.exception("the shadow's copy of turn %s failed", shadow_copy.trace_id)

    async def _answer(self, shadow_copy: ShadowCopy) -> TurnEnd | Refusal:
        """The last event of the shadow's turn."""
        request = replace(shadow_copy.request, whole=False, key=f"{shadow_copy.request.key}:{SHADOW}")
        arrived = asyncio.get_running_loop().time()
        stream = self._backend.stream(shadow_copy.app, request)
        async with aclosing(within(self._timeouts, arrived, stream)) as events:
            return [event async for event in events if isinstance(event, TurnEnd | Refusal)][-1]


def _outcome(
    shadow_copy: ShadowCopy, at: datetime, production_answer: TurnEnd, answer: TurnEnd | Refusal
) -> dict[str, Any]:
    """The columns of the row that depend on the outcome."""
    if isinstance(answer, Refusal):
        return {"status": answer.status, "error": answer.code}
    pair = (_shadow_answer(shadow_copy.production, production_answer), _shadow_answer(shadow_copy.digest, answer))
    comparison = compare_answers(shadow_copy.trace_id, at, *pair)
    features = answer.features.model_dump() if answer.features else {}
    return {"status": 200, "error": "", "shadow": comparison.model_dump_json(), **features}


def _shadow_answer(digest: str, first_call: TurnEnd) -> ShadowAnswer:
    """One model call, as it is compared; the time is the engine's."""
    return ShadowAnswer(
        digest=digest,
        text=first_call.answer.content,
        tool_calls=first_call.answer.tool_calls,
        refused=bool(first_call.features and first_call.features.refused),
        finish_reason=first_call.generation.finish_reason,
        latency_ms=first_call.generation.latency_ms,
    )
