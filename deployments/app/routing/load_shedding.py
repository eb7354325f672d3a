"""Load shedding: refuses requests above an application's capacity at once, without sending them to it.

Sending a request costs three processes some milliseconds each, which are missing under overload: even
with a bounded queue before an engine, refused requests would wait behind one another for their
refusal.
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
    """A `PackageBackend` that passes requests on to another one up to its capacity.

    An application is full while this process has as many requests open there as all its replicas
    take, and for a moment after one of them refused for overload, because other processes may be
    sending requests too.

    Args:
        backend: reaches applications.
        capacity: requests that the replicas of one application take together, queued ones included.
        clock: monotonic seconds.
    """

    def __init__(self, backend: PackageBackend, capacity: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._backend = backend
        self._capacity = capacity
        self._clock = clock
        self._open: Counter[str] = Counter()
        self._full: dict[str, tuple[float, Refusal]] = {}

    @property
    def open(self) -> int:
        """The number of requests that this process has open at all applications together."""
        return self._open.total()

    async def stream(self, app: str, request: TurnRequest, pending_passages: PendingPassages) -> Events:
        """See `PackageBackend.stream`."""
        if refusal := self._refusal(app):
            yield refusal
            return
        self._open[app] += 1
        try:
            async with aclosing(self._backend.stream(app, request, pending_passages)) as events:
                async for event in events:
                    if isinstance(event, Refusal) and event.code == OVERLOADED:
                        self._full[app] = (self._clock() + _STAYS_FULL_S, event)
                    yield event
        finally:
            self._open[app] -= 1

    def _refusal(self, app: str) -> Refusal | None:
        until, refusal = self._full.get(app, (0.0, None))
        if refusal and self._clock() < until:
            return refusal
        if self._open[app] < self._capacity:
            return None
        message = f"too many requests are waiting; try again in {_RETRY_AFTER_S} s"
        return Refusal(503, OVERLOADED, message, _RETRY_AFTER_S)
