"""API keys: authentication of requests by the key's owner.

Keys are secrets, so they come from the environment: `GRAFT_API_KEYS="shop=sk-... batch=sk-..."`.
Without any, no key is required and every request is `anonymous`; then the server may listen on loopback only.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping

from deployments.app.openai.errors import ApiError
from deployments.core.loopback import is_loopback
from tasks.core.errors import GraftError

VARIABLE = "GRAFT_API_KEYS"
ANONYMOUS = "anonymous"
_KEY_LENGTH = 16


def read_keys(host: str = "127.0.0.1") -> dict[str, str]:
    """The keys in `GRAFT_API_KEYS`, by their owners' names.

    Args:
        host: the address that the server listens on.

    Raises:
        GraftError: an entry is not NAME=KEY, a name has a colon, a key is shorter than 16 characters, a name or
            key occurs twice, or there is no key and `host` is not loopback. The message contains no key.
    """
    owners: dict[str, str] = {}
    for number, entry in enumerate(os.environ.get(VARIABLE, "").split(), 1):
        name, separator, key = entry.partition("=")
        if not (name and separator and len(key) >= _KEY_LENGTH):
            raise GraftError(
                f"{VARIABLE}: entry {number} is not NAME=KEY with a key of {_KEY_LENGTH} characters or more"
            )
        if ":" in name:  # it ends the owner in an idempotency key, so `a:b` would share keys with `a`
            raise GraftError(f"{VARIABLE}: entry {number} has a name with a colon; rename it")
        if name in owners or key in owners.values():
            raise GraftError(f"{VARIABLE}: entry {number} has a name or a key that was there before")
        owners[name] = key
    if not owners and not is_loopback(host):
        raise GraftError(
            f"http.host is {host} in deployments/serve.yaml, so other machines can reach the assistant: set {VARIABLE} "
            "(NAME=KEY, separated by spaces) in the environment, or http.host to 127.0.0.1"
        )
    return owners


class ApiKeys:
    """The owners' names by the sha256 of their keys, so that a comparison leaks no timing.

    Args:
        owners: keys by their owners' names; empty: no key is required.
    """

    def __init__(self, owners: Mapping[str, str]) -> None:
        self._owners = {_hash(key): name for name, key in owners.items()}

    @property
    def required(self) -> bool:
        """Whether requests need a key."""
        return bool(self._owners)

    def owner(self, authorization: str | None) -> str:
        """The owner of the key in a request's `Authorization` header.

        Raises:
            ApiError: 401, the key is missing or unknown.
        """
        if not self._owners:
            return ANONYMOUS
        scheme, _, key = (authorization or "").partition(" ")
        if scheme.lower() != "bearer" or not key.strip():
            message = "You didn't provide an API key; send it as `Authorization: Bearer KEY`"
            raise ApiError(401, "missing_api_key", message, headers={"www-authenticate": "Bearer"})
        owner = self._owners.get(_hash(key.strip()))
        if owner is None:
            raise ApiError(401, "invalid_api_key", "Incorrect API key provided", headers={"www-authenticate": "Bearer"})
        return owner


def _hash(key: str) -> bytes:
    return hashlib.sha256(key.encode()).digest()
