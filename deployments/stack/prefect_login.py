"""Prefect login: user name and password of the stack's Prefect server.

Server, worker, flow runs, the UI and `PrefectApi` share one user name and password per clone; `graft up` makes
the password. Prefect's server has no other accounts: it knows that a request comes from a person with the
password, not from which one.
"""

from __future__ import annotations

from pathlib import Path

from deployments.core.secret_files import make_secret, read_secret

USER = "graft"
SECRET = "prefect"
"""Name of the secret file with the password."""


def make_login(root: Path) -> None:
    """Make the password of the repository at `root`, unless it has one.

    Raises:
        GraftError: the file with the password cannot be used.
    """
    make_secret(root, SECRET)


def auth_string(root: Path) -> str | None:
    """`USER:PASSWORD` as in Prefect's settings; None where no stack was ever started.

    Raises:
        GraftError: the file with the password cannot be used.
    """
    password = read_secret(root, SECRET)
    return f"{USER}:{password}" if password else None
