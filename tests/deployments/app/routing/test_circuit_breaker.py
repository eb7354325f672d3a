"""The circuit breaker, transition by transition, with a clock that is moved by hand."""

from __future__ import annotations

from deployments.app.routing.circuit_breaker import Call, CircuitBreaker
from deployments.core.settings import BreakerSettings
from tests.support.assistant_in_process import Clock

SETTINGS = BreakerSettings(window_s=10, min_calls=4, failure_ratio=0.5, open_s=30)


class BreakerSetup:
    """A breaker, its clock, and the state changes that it reported."""

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

    def opened(self) -> BreakerSetup:
        self.end(False, False, False, False)
        assert self.states == ["open"]
        return self


def test_it_opens_at_its_share_of_failures() -> None:
    setup = BreakerSetup()
    setup.end(True, True, True, False, False)
    assert setup.breaker.admit() is not None
    setup.end(False)
    assert setup.breaker.admit() is None
    assert setup.states == ["open"]


def test_a_few_calls_do_not_open_it() -> None:
    setup = BreakerSetup()
    setup.end(False, False, False)
    assert setup.breaker.admit() is not None


def test_failures_leave_the_window() -> None:
    setup = BreakerSetup()
    setup.end(False, False, False)
    setup.clock.now += 10
    setup.end(False)
    assert setup.states == []


def test_what_says_nothing_of_the_route_is_not_counted() -> None:
    setup = BreakerSetup()
    setup.end(False, False, False, None, None, None)
    assert setup.states == []


def test_it_stays_open_for_its_time_and_then_lets_one_probe_through() -> None:
    setup = BreakerSetup().opened()
    setup.clock.now += 29.9
    assert setup.breaker.admit() is None
    setup.clock.now += 0.1
    setup.call()
    assert setup.states == ["open", "half-open"]
    assert setup.breaker.admit() is None


def test_a_probe_that_succeeds_closes_it_with_a_clean_slate() -> None:
    setup = BreakerSetup().opened()
    setup.clock.now += 30
    setup.end(True, False, False, False)
    assert setup.states == ["open", "half-open", "closed"]
    assert setup.breaker.admit() is not None


def test_a_probe_that_fails_opens_it_for_as_long_again() -> None:
    setup = BreakerSetup().opened()
    setup.clock.now += 30
    setup.end(False)
    assert setup.states == ["open", "half-open", "open"]
    setup.clock.now += 29.9
    assert setup.breaker.admit() is None
    setup.clock.now += 0.1
    assert setup.breaker.admit() is not None


def test_a_probe_that_says_nothing_makes_room_for_another() -> None:
    setup = BreakerSetup().opened()
    setup.clock.now += 30
    setup.end(None)
    assert setup.breaker.admit() is not None
    assert setup.breaker.admit() is None


def test_a_call_from_before_a_change_is_not_counted_after_it() -> None:
    setup = BreakerSetup()
    slow, slower = setup.call(), setup.call()
    setup.opened()
    slow.end(True)
    assert setup.breaker.admit() is None
    setup.clock.now += 30
    probe = setup.call()
    slower.end(False)
    assert setup.breaker.admit() is None
    probe.end(True)
    assert setup.states == ["open", "half-open", "closed"]


def test_the_first_ending_of_a_call_counts() -> None:
    setup = BreakerSetup()
    for _ in range(4):
        call = setup.call()
        call.end(True)
        call.end(False)
    assert setup.states == []
