"""Ray token authentication: without the cluster's token no request to Ray's dashboard, GCS or workers is accepted.

The Ray that `graft up` starts gets a token of its own, in a secret file. An existing cluster has one if its
owner set it up with one; Ray's variables name it (`RAY_AUTH_TOKEN`, `RAY_AUTH_TOKEN_PATH`), or the file
`~/.ray/auth_token` has it. Ray would enable authentication by itself in each process that finds such a file, and
only there, so both cases are decided here, for the head and for all clients.
"""

from __future__ import annotations

import os
from pathlib import Path

from deployments.core.secret_files import make_secret, read_secret
from deployments.core.settings import LocalRaySettings, RaySettings
from tasks.core.paths import SECRETS

SECRET = "ray"
"""Name of the secret file with the token of the local Ray."""
_MODE, _TOKEN, _TOKEN_PATH = "RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"
_DEFAULT_PATH = Path(".ray/auth_token")


def local_ray_environment(root: Path) -> dict[str, str]:
    """The environment variables of the local Ray's head and of processes that join it; makes the token.

    `RAY_AUTH_TOKEN` is empty, since it would have priority over the file.

    Args:
        root: the repository root.

    Raises:
        GraftError: the file with the token cannot be used.
    """
    make_secret(root, SECRET)
    return {_MODE: "token", _TOKEN: "", _TOKEN_PATH: str((root / SECRETS / SECRET).resolve())}


def auth_headers(settings: RaySettings, root: Path = Path()) -> dict[str, str]:
    """The HTTP headers of a request to Ray's dashboard; empty where there is no token.

    Args:
        settings: the head node.
        root: the repository root.

    Raises:
        GraftError: the file with the token cannot be used.
    """
    token = read_secret(root, SECRET) if isinstance(settings, LocalRaySettings) else _cluster_token()
    return {"Authorization": f"Bearer {token}"} if token else {}


def _cluster_token() -> str | None:
    """The token of an existing cluster, looked up as Ray does."""
    if os.environ.get(_MODE, "").lower() == "disabled":
        return None
    if token := os.environ.get(_TOKEN):
        return token.strip()
    path = Path(os.environ.get(_TOKEN_PATH) or Path.home() / _DEFAULT_PATH)
    return path.read_text(encoding="utf-8").strip() if path.is_file() else None
