"""A circuit breaker, transition by transition, with a clock that is moved by hand."""

from __future__ import annotations

from deployments.app.routing.circuit_breaker import Call, CircuitBreaker
from deployments.core.settings import BreakerSettings
from tests.support.assistant_in_process import Clock

SETTINGS = BreakerSettings(window_s=10, min_calls=4, failure_ratio=0.5, open_s=30)


class Watched:
    """A breaker, its clock, and the states it told of."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.states: list[str] = []
        self.breaker = CircuitBreaker(SETTINGS, self.clock, self.states.append)

    def call(self) -> Call:
        call = self.breaker.admit()
        assert call is not None
        return call

    def end(self, *outcomes: bool | None) -> None:
        for outcome in outcomes:
            self.call().end(outcome)

    def opened(self) -> Watched:
        self.end(False, False, False, False)
        assert self.states == ["open"]
        return self


def test_it_opens_at_its_share_of_failures() -> None:
    watched = Watched()
    watched.end(True, True, True, False, False)
    assert watched.breaker.admit() is not None
    watched.end(False)
    assert watched.breaker.admit() is None
    assert watched.states == ["open"]


def test_a_few_calls_do_not_open_it() -> None:
    watched = Watched()
    watched.end(False, False, False)
    assert watched.breaker.admit() is not None


def test_failures_leave_the_window() -> None:
    watched = Watched()
    watched.end(False, False, False)
    watched.clock.now += 10
    watched.end(False)
    assert watched.states == []


def test_what_says_nothing_of_the_route_is_not_counted() -> None:
    watched = Watched()
    watched.end(False, False, False, None, None, None)
    assert watched.states == []


def test_it_stays_open_for_its_time_and_then_lets_one_probe_through() -> None:
    watched = Watched().opened()
    watched.clock.now += 29.9
    assert watched.breaker.admit() is None
    watched.clock.now += 0.1
    watched.call()
    assert watched.states == ["open", "half-open"]
    assert watched.breaker.admit() is None


def test_a_probe_that_succeeds_closes_it_with_a_clean_slate() -> None:
    watched = Watched().opened()
    watched.clock.now += 30
    watched.end(True, False, False, False)
    assert watched.states == ["open", "half-open", "closed"]
    assert watched.breaker.admit() is not None


def test_a_probe_that_fails_opens_it_for_as_long_again() -> None:
    watched = Watched().opened()
    watched.clock.now += 30
    watched.end(False)
    assert watched.states == ["open", "half-open", "open"]
    watched.clock.now += 29.9
    assert watched.breaker.admit() is None
    watched.clock.now += 0.1
    assert watched.breaker.admit() is not None


def test_a_probe_that_says_nothing_makes_room_for_another() -> None:
    watched = Watched().opened()
    watched.clock.now += 30
    watched.end(None)
    assert watched.breaker.admit() is not None
    assert watched.breaker.admit() is None


def test_a_call_from_before_a_change_is_not_counted_after_it() -> None:
    watched = Watched()
    slow, slower = watched.call(), watched.call()
    watched.opened()
    slow.end(True)
    assert watched.breaker.admit() is None
    watched.clock.now += 30
    probe = watched.call()
    slower.end(False)
    assert watched.breaker.admit() is None
    probe.end(True)
    assert watched.states == ["open", "half-open", "closed"]


def test_the_first_ending_of_a_call_counts() -> None:
    watched = Watched()
    for _ in range(4):
        call = watched.call()
        call.end(True)
        call.end(False)
    assert watched.states == []
