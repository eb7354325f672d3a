"""Fallback: when a route fails, retries first, then the next route.

    for each route:  its circuit breaker admits the call, unless the route is the last
                     attempts, while the replica can't be reached and the retry budget has a token left
                     answered -> done;  a failure of the route -> the next route

An answer may start over only while no part of it has reached the client: a whole answer until its
end, a stream until its first event. An error of the request itself (4xx) is returned as it is. The last
route is always tried, because its own refusal says more than an open breaker does.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from itertools import count

from deployments.app.routing.circuit_breaker import Call, CircuitBreaker
from deployments.app.routing.retry_budget import RetryBudget
from deployments.app.routing.routing import Route
from deployments.app.routing.timeouts import Timeouts, within
from deployments.app.steps.retrieval import PendingPassages
from deployments.app.steps.tool_loop import PackageBackend
from deployments.core.messages import OVERLOADED, Delta, Event, Events, Refusal, TurnEnd, TurnRequest
from deployments.core.metrics import Metrics
from deployments.core.settings import FallbackSettings
from tasks.engine.protocol import Generation
from tasks.evaluation.response_features import measure_response
from tasks.prompt.tool_calls import ParsedAnswer

UNAVAILABLE = "engine_unavailable"


@dataclass(frozen=True)
class PendingTurn:
    """A turn that has not started."""

    request: TurnRequest
    """The turn's request."""
    passages: PendingPassages
    """Its retrieval."""
    arrived: float
    """When it arrived, by the event loop's clock."""
    on_event: Callable[[Delta | TurnEnd], None]
    """Called with each event of the model as it comes."""
    on_reset: Callable[[], None]
    """Called when the events so far will not be sent."""


@dataclass(frozen=True)
class RoutedAnswer:
    """A turn that has started, or was refused by the last route."""

    route: Route
    """The route that answers."""
    retries: int
    """Attempts of that route after its first."""
    skipped: tuple[str, ...]
    """The routes before it, each with the reason: `production=timeout`."""
    events: Events
    """All events of the turn."""


class Fallback:
    """Starts turns; keeps one circuit breaker for each package, and one retry budget for all.

    Args:
        backend: reaches packages.
        settings: the order of routes, the bounds of circuit breakers and retries, the static message.
        timeouts: of the last route; those before it have `settings.first_token_s` to begin. Together they
            have the time of one request.
        metrics: counts route attempts, retries and breaker states.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        backend: PackageBackend,
        settings: FallbackSettings,
        timeouts: Timeouts,
        metrics: Metrics,
        clock: Callable[[], float],
    ) -> None:
        self._backend = backend
        self._settings = settings
        self._timeouts = timeouts
        first_token_s = min(settings.first_token_s, timeouts.first_token_s)
        self._early_timeouts = timeouts.model_copy(update={"first_token_s": first_token_s})
        self._metrics = metrics
        self._clock = clock
        self._budget = RetryBudget(settings.retries, clock)
        self._breakers: dict[str, CircuitBreaker] = {}

    def keep(self, digests: set[str]) -> None:
        """Drop the circuit breakers of packages that are no longer served."""
        self._breakers = {digest: breaker for digest, breaker in self._breakers.items() if digest in digests}

    async def open(self, routes: Sequence[Route], turn: PendingTurn) -> RoutedAnswer:
        """Start `turn` on the first route that can answer.

        Args:
            routes: at least one, best first.
            turn: the turn.
        """
        self._budget.deposit()
        skipped: list[str] = []
        for route in routes[:-1]:
            call = self._breaker(route).admit()
            if call is None:
                self._metrics.route_attempt(route.name, "circuit_open")
                skipped.append(f"{route.name}=circuit_open")
                continue
            attempt = await self._begin(route, turn, call, self._early_timeouts)
            if attempt.failure is None:
                return attempt.routed(route, skipped)
            skipped.append(f"{route.name}={attempt.failure.code}")
            await attempt.close()
            turn.on_reset()
        attempt = await self._begin(routes[-1], turn, self._breaker(routes[-1]).admit(), self._timeouts)
        return attempt.routed(routes[-1], skipped)

    def _breaker(self, route: Route) -> CircuitBreaker:
        if route.model not in self._breakers:

            def on_change(state: str) -> None:
                self._metrics.breaker_state(route.model, state)

            self._breakers[route.model] = CircuitBreaker(self._settings.breaker, self._clock, on_change)
        return self._breakers[route.model]

    async def _begin(self, route: Route, turn: PendingTurn, call: Call | None, timeouts: Timeouts) -> _Attempt:
        """Try one route, with retries while its replica can't be reached."""
        retries = self._settings.retries
        try:
            for number in count():
                events = self._events(route, turn, timeouts)
                first_events = await _first_events(events, turn)
                last = number + 1 == retries.attempts
                if last or not _is_unreachable(first_events[-1]) or not self._may_retry(route, turn):
                    break
                await events.aclose()
                turn.on_reset()
                await asyncio.sleep(random.uniform(0, retries.backoff_s * 2**number))
        except BaseException:
            _end(call, None)
            raise
        attempt = _Attempt(first_events, events, number, call)
        self._metrics.route_attempt(route.name, "ok" if attempt.refusal is None else attempt.refusal.code)
        return attempt

    def _may_retry(self, route: Route, turn: PendingTurn) -> bool:
        if asyncio.get_running_loop().time() >= turn.arrived + self._timeouts.request_s:
            return False
        granted = self._budget.spend()
        self._metrics.retry(route.name, granted)
        return granted

    def _events(self, route: Route, turn: PendingTurn, timeouts: Timeouts) -> Events:
        if route.served is None:
            return _static_message(self._settings.static_message, turn.request)
        return within(timeouts, turn.arrived, self._backend.stream(route.served.app, turn.request, turn.passages))


class _Attempt:
    """The result of trying a route: its events up to the end of a whole answer, else up to the first."""

    def __init__(self, first_events: list[Event], rest: Events, retries: int, call: Call | None) -> None:
        self._first_events = first_events
        self._rest = rest
        self._retries = retries
        self._call = call
        last = first_events[-1]
        self.refusal = last if isinstance(last, Refusal) else None
        _report_outcome(call, last)

    @property
    def failure(self) -> Refusal | None:
        """The refusal, if it is one that another route might not give."""
        return self.refusal if self.refusal and self.refusal.status >= 500 else None

    async def close(self) -> None:
        """Close the remaining events."""
        await self._rest.aclose()

    def routed(self, route: Route, skipped: list[str]) -> RoutedAnswer:
        return RoutedAnswer(route, self._retries, tuple(skipped), self._events())

    async def _events(self) -> Events:
        try:
            for event in self._first_events:
                yield event
            async with aclosing(self._rest):
                async for event in self._rest:
                    _report_outcome(self._call, event)
                    yield event
        finally:
            _end(self._call, None)


def _report_outcome(call: Call | None, event: Event) -> None:
    """Report the outcome of a call to the circuit breaker. Overload is no failure of the route."""
    if isinstance(event, TurnEnd):
        _end(call, True)
    elif isinstance(event, Refusal):
        _end(call, False if event.status >= 500 and event.code != OVERLOADED else None)


def _end(call: Call | None, succeeded: bool | None) -> None:
    if call:
        call.end(succeeded)


def _is_unreachable(event: Event) -> bool:
    return isinstance(event, Refusal) and event.code == UNAVAILABLE


async def _first_events(events: Events, turn: PendingTurn) -> list[Event]:
    """The events that are needed before the client gets any: all of a whole answer, the first of a stream."""
    first_events: list[Event] = []
    while not first_events or (turn.request.whole and isinstance(first_events[-1], Delta)):
        event = await anext(events)
        first_events.append(event)
        if not isinstance(event, Refusal):
            turn.on_event(event)
    return first_events


async def _static_message(words: str, request: TurnRequest) -> Events:
    """The static message as a turn, without a model."""
    generation = Generation(words, (), 0, "stop", 0.0, 0.0)
    answer = ParsedAnswer(words, (), True)
    yield TurnEnd(generation, answer, measure_response(request.messages, generation, answer, (), ()), 0.0)
