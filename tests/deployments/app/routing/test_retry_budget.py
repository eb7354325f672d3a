"""The retry budget, with a clock that is moved by hand."""

from __future__ import annotations

from deployments.app.routing.retry_budget import RetryBudget
from deployments.core.settings import RetrySettings
from tests.support.assistant_in_process import Clock

SETTINGS = RetrySettings(attempts=2, backoff_s=0.001, ratio=0.25, per_minute=6)


def spent_budget(clock: Clock) -> RetryBudget:
    budget = RetryBudget(SETTINGS, clock)
    assert [budget.spend() for _ in range(7)] == [True] * 6 + [False]
    return budget


def test_requests_earn_their_share_of_retries() -> None:
    budget = spent_budget(Clock())
    earned = 0
    for _ in range(40):
        budget.deposit()
        earned += budget.spend()
    assert earned == 10


def test_a_few_retries_come_back_without_requests() -> None:
    clock = Clock()
    budget = spent_budget(clock)
    clock.now += 20
    assert [budget.spend() for _ in range(3)] == [True, True, False]


def test_it_saves_up_no_more_than_a_minute() -> None:
    clock = Clock()
    budget = RetryBudget(SETTINGS, clock)
    clock.now += 3600
    for _ in range(1000):
        budget.deposit()
    assert [budget.spend() for _ in range(7)] == [True] * 6 + [False]
