"""Rate limits of an API key: requests and tokens per minute, and open requests.

Token buckets that hold one minute's worth and fill continuously. A request is admitted if its prompt
and the tokens that it may generate fit into the bucket, or if nothing was used for a minute; when it
ends, unused tokens are returned. The buckets belong to one process: with several HTTP replicas each
grants the full limit.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

from deployments.app.openai.errors import ApiError
from deployments.core.settings import LimitSettings

_CHARACTERS_A_TOKEN = 4
"""Only an engine can count tokens; until then the body's length is divided by this."""


@dataclass
class TokenBucket:
    """A token bucket that fills continuously and never holds more than one minute's worth."""

    per_minute: int
    """Units per minute, and the bucket's size."""
    level: float
    """Units that are available."""
    filled_at: float
    """When it was last filled, in seconds."""

    def fill(self, now: float) -> None:
        """Add the units since the last call."""
        self.level = min(self.per_minute, self.level + (now - self.filled_at) * self.per_minute / 60)
        self.filled_at = now

    def seconds_until(self, amount: float) -> float:
        """Seconds until `amount` is available; 0 if it is now."""
        return max(0.0, (min(amount, self.per_minute) - self.level) * 60 / self.per_minute)


@dataclass
class _Account:
    requests: TokenBucket
    tokens: TokenBucket
    open: int = 0


class Permit:
    """An admitted request; the first `settle` ends it."""

    def __init__(self, account: _Account, reserved: int, headers: dict[str, str]) -> None:
        self.headers = headers
        self._account = account
        self._reserved = reserved
        self._settled = False

    def settle(self, used: int) -> None:
        """Return the reserved tokens beyond the `used` ones; if more were used, they are charged too."""
        if self._settled:
            return
        self._settled = True
        self._account.open -= 1
        tokens = self._account.tokens
        tokens.level = min(tokens.per_minute, tokens.level + self._reserved - used)


class RateLimits:
    """The limits of all API keys that this process has seen.

    Args:
        settings: the limits of one key.
        clock: monotonic seconds.
    """

    def __init__(self, settings: LimitSettings, clock: Callable[[], float] = time.monotonic) -> None:
        self._settings = settings
        self._clock = clock
        self._accounts: dict[str, _Account] = {}

    def admit(self, owner: str, characters: int, max_new_tokens: int) -> Permit:
        """Admit a request whose body has so many characters.

        Raises:
            ApiError: 429, with the seconds after which a retry is useful.
        """
        account, now = self._account(owner), self._clock()
        for bucket in (account.requests, account.tokens):
            bucket.fill(now)
        reserved = characters // _CHARACTERS_A_TOKEN + max_new_tokens
        self._check(account, reserved)
        account.requests.level -= 1
        account.tokens.level -= reserved
        account.open += 1
        return Permit(account, reserved, _headers(account))

    def _check(self, account: _Account, reserved: int) -> None:
        settings = self._settings
        if account.open >= settings.streams:
            raise _limit_error(account, "open requests", settings.streams, "at once", 1.0)
        for name, bucket, amount in (("requests", account.requests, 1), ("tokens", account.tokens, reserved)):
            if wait_s := bucket.seconds_until(amount):
                raise _limit_error(account, name, bucket.per_minute, "per minute", wait_s)

    def _account(self, owner: str) -> _Account:
        if owner not in self._accounts:
            settings, now = self._settings, self._clock()
            requests, tokens = settings.requests_per_minute, settings.tokens_per_minute
            self._accounts[owner] = _Account(TokenBucket(requests, requests, now), TokenBucket(tokens, tokens, now))
        return self._accounts[owner]


def _limit_error(account: _Account, unit: str, limit: int, period: str, wait_s: float) -> ApiError:
    message = f"Rate limit reached: {limit} {unit} {period} for this key; try again in {wait_s:.1f} s"
    after = max(1, math.ceil(wait_s))
    return ApiError(429, "rate_limit_exceeded", message, retry_after_s=after, headers=_headers(account))


def _headers(account: _Account) -> dict[str, str]:
    """OpenAI's rate limit headers: the limit, what remains, and when the limit is fully available again."""
    headers = {}
    for name, bucket in (("requests", account.requests), ("tokens", account.tokens)):
        headers[f"x-ratelimit-limit-{name}"] = str(bucket.per_minute)
        headers[f"x-ratelimit-remaining-{name}"] = str(max(0, int(bucket.level)))
        headers[f"x-ratelimit-reset-{name}"] = f"{bucket.seconds_until(bucket.per_minute):.3f}s"
    return headers
