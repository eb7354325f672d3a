"""Pseudonyms: a keyed hash of the user as id in telemetry, stable as long as the installation keeps its key.

It hashes the key of the traffic split (`traffic_split.user_bucket_key`). Without a secret key a hash
would identify users: customer numbers are few enough to try them all. All replicas read one key, so a
customer has one pseudonym in all rows. If the key is lost, all customers get new pseudonyms, with no
other consequence.
"""

from __future__ import annotations

import hashlib
import secrets
from pathlib import Path

from tasks.core.errors import GraftError
from tasks.core.files import create_private

_KEY_BYTES = 32
_PSEUDONYM_BYTES = 8


class Pseudonyms:
    """Pseudonyms of users, by a secret `key` [bytes]."""

    def __init__(self, key: bytes) -> None:
        self._key = key

    @classmethod
    def open(cls, path: Path) -> Pseudonyms:
        """The pseudonyms by the key in a file, which is created if it is missing.

        Raises:
            GraftError: the file contains no key.
        """
        if not path.exists():
            create_private(path, secrets.token_bytes(_KEY_BYTES))
        key = path.read_bytes()
        if len(key) != _KEY_BYTES:
            problem = f"{path}: {len(key)} bytes, and no key of {_KEY_BYTES}; remove it, and it is made anew"
            raise GraftError(f"{problem} (a phase that is under way counts its customers again then)")
        return cls(key)

    def pseudonym(self, user_key: str) -> str:
        """16 hexadecimal digits for a user, as `traffic_split.user_bucket_key` identifies them."""
        return hashlib.blake2b(user_key.encode(), key=self._key, digest_size=_PSEUDONYM_BYTES).hexdigest()
