"""The shadow: a package that is asked what production has answered, to compare the two before anybody relies on it.

A copy is asked once the answer has left, past the cache, limits and tools: the shadow's first words
or its first call are compared, and a call is never run. Nobody sees them, and no failure of theirs
reaches a client. Copies are the first to be dropped when engines have much to do. What a comparison
comes to is a telemetry row of its own, with the operation `shadow`, and holds no text.
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
    """A turn meant for `beside`, the package in production, that the shadow `digest` may be asked too.

    `given` is what production's model gave first, once it has; None if another route answered, or the cache.
    """

    trace_id: str
    owner: str
    visitor: str
    ask: TurnRequest
    beside: str
    digest: str
    app: str
    given: TurnEnd | None = None

    async def watch(self, opened: RoutedAnswer) -> Events:
        """The turn's events, which are closed at the end."""
        async with aclosing(opened.events) as events:
            async for event in events:
                if isinstance(event, TurnEnd) and opened.route.digest == self.beside:
                    self.given = event.first_round or event
                yield event


class ShadowTraffic:
    """Chooses turns, and asks the shadow those. It belongs to one event loop.

    Args:
        backend: reaches packages, and runs no tools.
        settings: how many turns, and when none.
        sink: takes the rows.
        meters: counts, as the route `shadow`.
        load: how many requests are open at the engines.
        chance: gives numbers in [0, 1).
    """

    def __init__(
        self,
        backend: Backend,
        settings: ShadowSettings,
        sink: Sink,
        meters: Metrics,
        load: Callable[[], int],
        chance: Callable[[], float] = random.random,
    ) -> None:
        self._backend = backend
        self._settings = settings
        self._sink = sink
        self._meters = meters
        self._load = load
        self._chance = chance
        self._timeouts = Timeouts(first_token_s=settings.patience_s, request_s=settings.patience_s)
        self._open: set[asyncio.Task[None]] = set()

    def choose(self, routing: Routing, record: TurnRecord, ask: TurnRequest) -> ShadowCopy | None:
        """A copy of a turn that is about to be answered, if it is one of those to be copied.

        Those are greedy chats that are meant for production: not the canary's, nor who asks for a
        digest, and two answers that were drawn would differ even if one model gave both.
        """
        shadow = routing.shadow
        if shadow is None or record.route.name != "production" or ask.sampling.temperature > 0 or ask.text is not None:
            return None
        if self._chance() >= self._settings.share:
            return None
        app = routing.served[shadow].app
        return ShadowCopy(record.trace_id, record.owner, record.visitor, ask, record.meant, shadow, app)

    async def begin(self, copy: ShadowCopy) -> None:
        """Ask the shadow, if production has answered and there is room; does not wait for it."""
        if copy.given is None:
            return
        if len(self._open) >= self._settings.at_once or self._load() >= self._settings.busy:
            self._meters.route_attempt(SHADOW, "dropped")
            return
        task = asyncio.create_task(self._follow(copy, copy.given))
        self._open.add(task)
        task.add_done_callback(self._open.discard)

    async def _follow(self, copy: ShadowCopy, given: TurnEnd) -> None:
        at, started = datetime.now(UTC), time.monotonic()
        try:
            ended = await self._ask(copy)
            self._meters.route_attempt(SHADOW, ended.code if isinstance(ended, Refusal) else "ok")
            if isinstance(ended, Refusal) and ended.code == OVERLOADED:
                return
            row = TelemetryRow(
                trace_id=copy.trace_id,
                at=at,
                digest=copy.digest,
                operation=SHADOW,
                owner=copy.owner,
                visitor=copy.visitor,
                route=SHADOW,
                stream=False,
                latency_ms=(time.monotonic() - started) * 1000,
                **_outcome(copy, at, given, ended),
            )
            self._sink(row)
        except Exception:  # nobody waits for it, so nobody else would tell
            _LOG.exception("the shadow's copy of turn %s failed", copy.trace_id)

    async def _ask(self, copy: ShadowCopy) -> TurnEnd | Refusal:
        """How the shadow's turn ended."""
        ask = replace(copy.ask, whole=False, key=f"{copy.ask.key}:{SHADOW}")
        arrived = asyncio.get_running_loop().time()
        async with aclosing(within(self._timeouts, arrived, self._backend.stream(copy.app, ask))) as events:
            return [event async for event in events if isinstance(event, TurnEnd | Refusal)][-1]


def _outcome(copy: ShadowCopy, at: datetime, given: TurnEnd, ended: TurnEnd | Refusal) -> dict[str, Any]:
    """The columns of the row that depend on how it went."""
    if isinstance(ended, Refusal):
        return {"status": ended.status, "error": ended.code}
    compared = compare_answers(copy.trace_id, at, _answered(copy.beside, given), _answered(copy.digest, ended))
    features = ended.features.model_dump() if ended.features else {}
    return {"status": 200, "error": "", "shadow": compared.model_dump_json(), **features}


def _answered(digest: str, first: TurnEnd) -> ShadowAnswer:
    """One round, as it is compared; the time is the engine's."""
    return ShadowAnswer(
        digest=digest,
        text=first.answer.content,
        tool_calls=first.answer.tool_calls,
        refused=bool(first.features and first.features.refused),
        finish_reason=first.generation.finish_reason,
        latency_ms=first.generation.latency_ms,
    )
