"""Rate limits and API keys: which requests are admitted, what they cost, and what the refusal says.

Also covers `deployments/app/access/api_keys.py` and `deployments/app/openai/errors.py`.
"""

from __future__ import annotations

import pytest

from deployments.app.access.api_keys import ANONYMOUS, VARIABLE, ApiKeys, read_keys
from deployments.app.access.rate_limits import RateLimits
from deployments.app.openai.errors import ApiError
from deployments.core.settings import LimitSettings
from tasks.core.errors import GraftError

KEY = "sk-0123456789abcdef"
SETTINGS = LimitSettings(requests_per_minute=60, tokens_per_minute=6000, streams=3, body_bytes=1000)


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def refusal(limits: RateLimits, owner: str = "a", characters: int = 0, tokens: int = 1) -> ApiError:
    with pytest.raises(ApiError) as error:
        limits.admit(owner, characters, tokens)
    assert (error.value.status, error.value.code) == (429, "rate_limit_exceeded")
    return error.value


def test_a_key_has_its_owner_and_others_are_401(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, f"shop={KEY} batch=sk-another-long-key")
    keys = ApiKeys(read_keys())
    assert keys.owner(f"Bearer {KEY}") == "shop"
    assert keys.owner("bearer  sk-another-long-key") == "batch"
    for header in (None, "", "Bearer", f"Basic {KEY}", "Bearer sk-wrong-wrong-wrong"):
        with pytest.raises(ApiError) as error:
            keys.owner(header)
        assert error.value.status == 401
        assert error.value.headers["www-authenticate"] == "Bearer"
        assert KEY not in error.value.message


def test_without_keys_everybody_is_let_in(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    assert ApiKeys(read_keys()).owner(None) == ANONYMOUS
    assert ApiKeys(read_keys()).owner("Bearer none") == ANONYMOUS


@pytest.mark.parametrize(
    "value",
    ["shop", "=sk-0123456789abcdef", "shop=short", f"a={KEY} a=sk-another-long-key", f"a={KEY} b={KEY}", f"a:b={KEY}"],
)
def test_keys_that_cannot_be_read_are_one_error_without_the_key(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, value)
    with pytest.raises(GraftError, match="entry") as error:
        read_keys()
    assert KEY not in str(error.value)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.0.0.7", "shop.example.org", ""])
def test_beyond_loopback_keys_are_required(host: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    with pytest.raises(GraftError, match=rf"http.host is {host} in .*set {VARIABLE} "):
        read_keys(host)
    for own in ("127.0.0.1", "::1", "localhost"):
        assert read_keys(own) == {}
    monkeypatch.setenv(VARIABLE, f"shop={KEY}")
    assert read_keys(host) == {"shop": KEY}


def test_requests_come_back_over_the_minute(clock: Clock) -> None:
    limits = RateLimits(SETTINGS, clock)
    for _ in range(60):
        limits.admit("a", 0, 1).settle(1)
    error = refusal(limits)
    assert error.retry_after_s == 1
    assert error.headers["x-ratelimit-remaining-requests"] == "0"
    assert error.headers["x-ratelimit-reset-requests"] == "60.000s"
    limits.admit("b", 0, 1).settle(1)  # another key has its own
    clock.now += 1.0
    limits.admit("a", 0, 1).settle(1)
    assert refusal(limits).headers["retry-after"] == "1"


def test_what_was_not_used_is_given_back(clock: Clock) -> None:
    limits = RateLimits(SETTINGS, clock)
    permit = limits.admit("a", 4000, 4000)  # 1000 for the body, 4000 for the answer
    assert permit.headers["x-ratelimit-remaining-tokens"] == "1000"
    assert refusal(limits, characters=8000).retry_after_s == 11  # 1001 tokens at 100 a second, ...
    permit.settle(1200)
    permit.settle(0)  # ... and once only
    assert limits.admit("a", 0, 800).headers["x-ratelimit-remaining-tokens"] == "4000"


def test_a_request_larger_than_a_minute_is_let_in_once_a_minute(clock: Clock) -> None:
    limits = RateLimits(SETTINGS, clock)
    limits.admit("a", 0, 9000).settle(9000)
    clock.now += 60
    assert refusal(limits, tokens=9000).retry_after_s == 30  # it went 3000 below zero
    clock.now += 30
    limits.admit("a", 0, 9000)


def test_open_requests_are_counted_until_they_end(clock: Clock) -> None:
    limits = RateLimits(SETTINGS, clock)
    permits = [limits.admit("a", 0, 1) for _ in range(3)]
    assert "3 open requests" in refusal(limits).message
    permits[0].settle(1)
    limits.admit("a", 0, 1)
