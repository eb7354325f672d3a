"""How often and how much a key may ask: requests and tokens per minute, and open requests.

Token buckets that hold one minute's worth and fill continuously. A request is let in if its prompt
and what it may generate fit into what is left, or if nothing was used for a minute; when it ends,
what it did not use is given back. The buckets are this process's own: with several HTTP replicas
each grants the whole.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

from deployments.app.openai.errors import ApiError
from deployments.core.settings import LimitSettings

_CHARACTERS_A_TOKEN = 4
"""Only an engine can count tokens; until it has, this is the guess for a body's length."""


@dataclass
class TokenBucket:
    """`per_minute` units that flow back over a minute; more than one minute's worth is never saved up."""

    per_minute: int
    level: float
    seen: float

    def fill(self, now: float) -> None:
        self.level = min(self.per_minute, self.level + (now - self.seen) * self.per_minute / 60)
        self.seen = now

    def seconds_until(self, amount: float) -> float:
        """How long until `amount` is there; 0 if it is now."""
        return max(0.0, (min(amount, self.per_minute) - self.level) * 60 / self.per_minute)


@dataclass
class _Account:
    requests: TokenBucket
    tokens: TokenBucket
    open: int = 0


class Permit:
    """One request that was let in; `settle` it exactly once, however it ended."""

    def __init__(self, account: _Account, reserved: int, headers: dict[str, str]) -> None:
        self.headers = headers
        self._account = account
        self._reserved = reserved
        self._settled = False

    def settle(self, used: int) -> None:
        """Give back what was reserved beyond the `used` tokens; if more were used, they are charged too."""
        if self._settled:
            return
        self._settled = True
        self._account.open -= 1
        tokens = self._account.tokens
        tokens.level = min(tokens.per_minute, tokens.level + self._reserved - used)


class RateLimits:
    """The accounts of all keys that asked since this process started."""

    def __init__(self, settings: LimitSettings, clock: Callable[[], float] = time.monotonic) -> None:
        self._settings = settings
        self._clock = clock
        self._accounts: dict[str, _Account] = {}

    def admit(self, owner: str, characters: int, max_new_tokens: int) -> Permit:
        """Let a request in whose body has so many characters.

        Raises:
            ApiError: 429, with the seconds after which it makes sense to ask again.
        """
        account, now = self._account(owner), self._clock()
        for bucket in (account.requests, account.tokens):
            bucket.fill(now)
        wanted = characters // _CHARACTERS_A_TOKEN + max_new_tokens
        self._check(account, wanted)
        account.requests.level -= 1
        account.tokens.level -= wanted
        account.open += 1
        return Permit(account, wanted, _headers(account))

    def _check(self, account: _Account, wanted: int) -> None:
        settings = self._settings
        if account.open >= settings.streams:
            raise _refused(account, "open requests", settings.streams, "at once", 1.0)
        for name, bucket, amount in (("requests", account.requests, 1), ("tokens", account.tokens, wanted)):
            if wait_s := bucket.seconds_until(amount):
                raise _refused(account, name, bucket.per_minute, "per minute", wait_s)

    def _account(self, owner: str) -> _Account:
        if owner not in self._accounts:
            settings, now = self._settings, self._clock()
            requests, tokens = settings.requests_per_minute, settings.tokens_per_minute
            self._accounts[owner] = _Account(TokenBucket(requests, requests, now), TokenBucket(tokens, tokens, now))
        return self._accounts[owner]


def _refused(account: _Account, what: str, limit: int, over: str, wait_s: float) -> ApiError:
    message = f"Rate limit reached: {limit} {what} {over} for this key; try again in {wait_s:.1f} s"
    after = max(1, math.ceil(wait_s))
    return ApiError(429, "rate_limit_exceeded", message, retry_after_s=after, headers=_headers(account))


def _headers(account: _Account) -> dict[str, str]:
    """OpenAI's: the limit, what is left, and when all of it will be there again."""
    told = {}
    for name, bucket in (("requests", account.requests), ("tokens", account.tokens)):
        told[f"x-ratelimit-limit-{name}"] = str(bucket.per_minute)
        told[f"x-ratelimit-remaining-{name}"] = str(max(0, int(bucket.level)))
        told[f"x-ratelimit-reset-{name}"] = f"{bucket.seconds_until(bucket.per_minute):.3f}s"
    return told
