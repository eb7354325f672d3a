"""Who asks, for telemetry: a name that tells nobody who, and is the same as long as the installation keeps its key.

It is a keyed hash of what weights go by. Without a key a hash would tell: customers' numbers are few
enough to try them all. All replicas read one key, so a customer has one name in all their rows. If
it is lost, all customers get new ones, and nothing else happens.
"""

from __future__ import annotations

import hashlib
import os
import secrets
import tempfile
from pathlib import Path

from tasks.core.errors import GraftError

_KEY_BYTES = 32
_NAME_BYTES = 8


class Pseudonyms:
    """Names visitors by a secret `key` [bytes]."""

    def __init__(self, key: bytes) -> None:
        self._key = key

    @classmethod
    def open(cls, path: Path) -> Pseudonyms:
        """By the key in a file, which is made if there is none; whoever opens it later has the same.

        Raises:
            GraftError: the file holds something else.
        """
        if not path.exists():
            _make(path)
        key = path.read_bytes()
        if len(key) != _KEY_BYTES:
            told = f"{path}: {len(key)} bytes, and no key of {_KEY_BYTES}; remove it, and it is made anew"
            raise GraftError(f"{told} (a phase that is under way counts its customers again then)")
        return cls(key)

    def pseudonym(self, visitor: str) -> str:
        """The 16 hexadecimal digits for a visitor as `weights.visitor` gives it."""
        return hashlib.blake2b(visitor.encode(), key=self._key, digest_size=_NAME_BYTES).hexdigest()


def _make(path: Path) -> None:
    """Write a key beside `path`, then put it there, whole, unless somebody else has."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)  # readable by its owner alone
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(secrets.token_bytes(_KEY_BYTES))
            file.flush()
            os.fsync(file.fileno())
        os.link(name, path)
    except FileExistsError:
        return
    finally:
        Path(name).unlink()
