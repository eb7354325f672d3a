"""The way to an answer when the first choice fails: another attempt, then the next route.

    for each route:  its breaker lets the call through, unless it is the last
                     attempts, while the replica can't be reached and the retry budget has one left
                     answered -> done;  refused for a fault of its own -> the next route

Only what has not reached the client may begin anew: a whole answer until its end, a stream until
its first piece. A request's own fault (4xx) is told as it is. The last route is always tried,
because its own refusal says more than an open breaker does.
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
    """A turn that wants to begin.

    Args:
        ask: what the model is asked.
        reading: what is being found for it.
        arrived: when, by the event loop's clock.
        saw: is told each event of the model as it comes.
        starts_over: is told when what was seen so far won't be sent.
    """

    request: TurnRequest
    passages: PendingPassages
    arrived: float
    on_event: Callable[[Delta | TurnEnd], None]
    on_reset: Callable[[], None]


@dataclass(frozen=True)
class RoutedAnswer:
    """A turn that has begun, or was refused by the last route that was tried.

    `retries` are the attempts of `route` after its first; `passed_over` the routes before it, each
    with its reason: `production=timeout`. `events` are all of the turn's.
    """

    route: Route
    retries: int
    skipped: tuple[str, ...]
    events: Events


class Fallback:
    """Opens turns; keeps one breaker for each package, and one retry budget for all.

    Args:
        desk: reaches packages.
        settings: the order of routes, their breakers' and retries' bounds, the fixed words.
        timeouts: of the last route; those before it have `settings.first_token_s` to begin. Together they
            have the time of one request.
        meters: counts.
        clock: seconds that only grow.
    """

    def __init__(
        self,
        desk: PackageBackend,
        settings: FallbackSettings,
        timeouts: Timeouts,
        meters: Metrics,
        clock: Callable[[], float],
    ) -> None:
        self._desk = desk
        self._settings = settings
        self._timeouts = timeouts
        impatient = min(settings.first_token_s, timeouts.first_token_s)
        self._impatient = timeouts.model_copy(update={"first_token_s": impatient})
        self._meters = meters
        self._clock = clock
        self._budget = RetryBudget(settings.retries, clock)
        self._breakers: dict[str, CircuitBreaker] = {}

    def keep(self, digests: set[str]) -> None:
        """Forget the breakers of packages that are no longer served."""
        self._breakers = {digest: breaker for digest, breaker in self._breakers.items() if digest in digests}

    async def open(self, routes: Sequence[Route], turn: PendingTurn) -> RoutedAnswer:
        """Begin `turn` by the first route that can.

        Args:
            routes: at least one, best first.
            turn: the turn.
        """
        self._budget.deposit()
        passed_over: list[str] = []
        for route in routes[:-1]:
            call = self._breaker(route).admit()
            if call is None:
                self._meters.route_attempt(route.name, "circuit_open")
                passed_over.append(f"{route.name}=circuit_open")
                continue
            begun = await self._begin(route, turn, call, self._impatient)
            if begun.failure is None:
                return begun.routed(route, passed_over)
            passed_over.append(f"{route.name}={begun.failure.code}")
            await begun.close()
            turn.on_reset()
        begun = await self._begin(routes[-1], turn, self._breaker(routes[-1]).admit(), self._timeouts)
        return begun.routed(routes[-1], passed_over)

    def _breaker(self, route: Route) -> CircuitBreaker:
        if route.model not in self._breakers:

            def changed(state: str) -> None:
                self._meters.breaker_state(route.model, state)

            self._breakers[route.model] = CircuitBreaker(self._settings.breaker, self._clock, changed)
        return self._breakers[route.model]

    async def _begin(self, route: Route, turn: PendingTurn, call: Call | None, timeouts: Timeouts) -> _Attempt:
        """Try one route, as often as it makes sense."""
        retries = self._settings.retries
        try:
            for attempt in count():
                events = self._events(route, turn, timeouts)
                seen = await _first(events, turn)
                last = attempt + 1 == retries.attempts
                if last or not _unreachable(seen[-1]) or not self._may_retry(route, turn):
                    break
                await events.aclose()
                turn.on_reset()
                await asyncio.sleep(random.uniform(0, retries.backoff_s * 2**attempt))
        except BaseException:
            _end(call, None)
            raise
        begun = _Attempt(seen, events, attempt, call)
        self._meters.route_attempt(route.name, "ok" if begun.refused is None else begun.refused.code)
        return begun

    def _may_retry(self, route: Route, turn: PendingTurn) -> bool:
        if asyncio.get_running_loop().time() >= turn.arrived + self._timeouts.request_s:
            return False
        granted = self._budget.spend()
        self._meters.retry(route.name, granted)
        return granted

    def _events(self, route: Route, turn: PendingTurn, timeouts: Timeouts) -> Events:
        if route.served is None:
            return _static_message(self._settings.static_message, turn.request)
        return within(timeouts, turn.arrived, self._desk.stream(route.served.app, turn.request, turn.passages))


class _Attempt:
    """What a route gave: until its end for a whole answer, else until its first event."""

    def __init__(self, seen: list[Event], rest: Events, retries: int, call: Call | None) -> None:
        self._seen = seen
        self._rest = rest
        self._retries = retries
        self._call = call
        self.refused = seen[-1] if isinstance(seen[-1], Refusal) else None
        _report_outcome(call, seen[-1])

    @property
    def failure(self) -> Refusal | None:
        """The refusal, if it is one that another route might not give."""
        return self.refused if self.refused and self.refused.status >= 500 else None

    async def close(self) -> None:
        """End what is left of it."""
        await self._rest.aclose()

    def routed(self, route: Route, passed_over: list[str]) -> RoutedAnswer:
        return RoutedAnswer(route, self._retries, tuple(passed_over), self._events())

    async def _events(self) -> Events:
        try:
            for event in self._seen:
                yield event
            async with aclosing(self._rest):
                async for event in self._rest:
                    _report_outcome(self._call, event)
                    yield event
        finally:
            _end(self._call, None)


def _report_outcome(call: Call | None, event: Event) -> None:
    """Tell the breaker how a call ended. That many ask at once is no fault of the route."""
    if isinstance(event, TurnEnd):
        _end(call, True)
    elif isinstance(event, Refusal):
        _end(call, False if event.status >= 500 and event.code != OVERLOADED else None)


def _end(call: Call | None, succeeded: bool | None) -> None:
    if call:
        call.end(succeeded)


def _unreachable(event: Event) -> bool:
    return isinstance(event, Refusal) and event.code == UNAVAILABLE


async def _first(events: Events, turn: PendingTurn) -> list[Event]:
    """The events that must be there before the client gets any: all of a whole answer, one of a stream."""
    seen: list[Event] = []
    while not seen or (turn.request.whole and isinstance(seen[-1], Delta)):
        event = await anext(events)
        seen.append(event)
        if not isinstance(event, Refusal):
            turn.on_event(event)
    return seen


async def _static_message(words: str, ask: TurnRequest) -> Events:
    """A turn of fixed words, which no model computed."""
    generation = Generation(words, (), 0, "stop", 0.0, 0.0)
    answer = ParsedAnswer(words, (), True)
    yield TurnEnd(generation, answer, measure_response(ask.messages, generation, answer, ()), 0.0)
