"""Secret files: passwords and tokens of one clone's processes, made at first use, which only their owner can read."""

from __future__ import annotations

import secrets
from pathlib import Path

from tasks.core.errors import GraftError
from tasks.core.files import create_private
from tasks.core.paths import SECRETS

_BYTES = 32


def read_secret(root: Path, name: str) -> str | None:
    """The secret `name` of the repository at `root`; None if it was never made.

    Raises:
        GraftError: its file is empty, or other users may read it.
    """
    path = root / SECRETS / name
    try:
        mode, secret = path.stat().st_mode, path.read_text(encoding="utf-8").strip()
    except FileNotFoundError:
        return None
    if mode & 0o077 or not secret:
        problem = "other users may read it" if mode & 0o077 else "it is empty"
        raise GraftError(f"{path}: {problem}; delete it and run `graft down`; the next `graft up` makes a new one")
    return secret


def make_secret(root: Path, name: str) -> str:
    """The secret `name` of the repository at `root`; where there is none, 256 random bits are written with mode 0600.

    Raises:
        GraftError: see `read_secret`.
    """
    create_private(root / SECRETS / name, f"{secrets.token_urlsafe(_BYTES)}\n".encode())
    secret = read_secret(root, name)
    assert secret is not None
    return secret
