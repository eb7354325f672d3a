"""Refusing at once what an application has no room for, without asking it.

To ask costs three processes some milliseconds each, which overload has not got: the queue before an
engine may be bounded, and those who are refused still wait behind one another to hear it.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from contextlib import aclosing

from deployments.app.steps.retrieval import PendingPassages
from deployments.app.steps.tool_loop import PackageBackend
from deployments.core.messages import OVERLOADED, Events, Refusal, TurnRequest

_STAYS_FULL_S = 0.5
_RETRY_AFTER_S = 5


class LoadShedding:
    """A `PackageBackend` that lets through to another one what that may have room for.

    An application is full while this process has as many requests open there as all its replicas
    take, and for a moment after one of them said so, because others may be asking it too.

    Args:
        desk: reaches applications.
        room: requests that the replicas of one application take together, those that wait included.
        clock: seconds that only grow.
    """

    def __init__(self, desk: PackageBackend, room: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._desk = desk
        self._room = room
        self._clock = clock
        self._open: Counter[str] = Counter()
        self._full: dict[str, tuple[float, Refusal]] = {}

    @property
    def open(self) -> int:
        """Requests that this process has open at all applications together."""
        return self._open.total()

    async def stream(self, app: str, ask: TurnRequest, reading: PendingPassages) -> Events:
        """See `PackageBackend.stream`."""
        if refused := self._refusal(app):
            yield refused
            return
        self._open[app] += 1
        try:
            async with aclosing(self._desk.stream(app, ask, reading)) as events:
                async for event in events:
                    if isinstance(event, Refusal) and event.code == OVERLOADED:
                        self._full[app] = (self._clock() + _STAYS_FULL_S, event)
                    yield event
        finally:
            self._open[app] -= 1

    def _refusal(self, app: str) -> Refusal | None:
        until, refused = self._full.get(app, (0.0, None))
        if refused and self._clock() < until:
            return refused
        if self._open[app] < self._room:
            return None
        message = f"too many requests are waiting; try again in {_RETRY_AFTER_S} s"
        return Refusal(503, OVERLOADED, message, _RETRY_AFTER_S)
