"""The environment of every process that Graft starts: state under `.graft/`, telemetry off, loopback."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Mapping
from pathlib import Path

from deployments.stack.prefect_login import auth_string
from deployments.stack.stack_settings import STACK_YAML, PrefectSettings, load_stack_settings
from tasks.core.errors import GraftError
from tasks.core.paths import STATE

_FOLDERS = {
    "PREFECT_HOME": "prefect",
    "DVC_SITE_CACHE_DIR": "dvc/site",
    "DVC_GLOBAL_CONFIG_DIR": "dvc/global",
    "DVC_SYSTEM_CONFIG_DIR": "dvc/system",
    "HF_HOME": "cache/huggingface",
    "MPLCONFIGDIR": "cache/matplotlib",
    "PIP_CACHE_DIR": "cache/pip",
    "XDG_CACHE_HOME": "cache",
}
_TELEMETRY_OFF = {
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "DO_NOT_TRACK": "1",
    "DVC_NO_ANALYTICS": "1",
    "GX_ANALYTICS_ENABLED": "false",
    "RAY_USAGE_STATS_ENABLED": "0",
    "HF_HUB_DISABLE_TELEMETRY": "1",
}

DVC_WITHOUT_GIT = Path("deployments/dvc_without_git")
"""A folder of DVC's settings with which it needs no git repository, as in a downloaded archive of the source."""
LOOPBACK_HOSTS = ("127.0.0.1", "localhost", "::1")
_NO_PROXY = ("NO_PROXY", "no_proxy")
_PROXIES = ("http_proxy", "https_proxy", "all_proxy")


def stack_environment(root: Path) -> dict[str, str]:
    """The whole environment of a child process; paths are absolute.

    Nothing of the caller's own Prefect settings passes through: a cloud account named there is none
    of ours. The model hub is offline; the stage that fetches a base model from it removes `HF_HUB_OFFLINE`.

    Args:
        root: the repository root.

    Raises:
        GraftError: `deployments/stack.yaml` or the file with Prefect's password is not as expected.
    """
    root = root.resolve()
    settings = load_stack_settings(root)
    inherited = {key: value for key, value in os.environ.items() if not key.startswith("PREFECT_")}
    return {
        **with_direct_loopback(inherited, settings.prefect.host),
        **_TELEMETRY_OFF,
        **{key: str(root / STATE / folder) for key, folder in _FOLDERS.items()},
        **({} if _in_git(root) else {"DVC_GLOBAL_CONFIG_DIR": str(root / DVC_WITHOUT_GIT)}),
        **_prefect_environment(root, settings.prefect),
        "PREFECT_WORKER_QUERY_SECONDS": str(settings.worker.poll_s),
        "HF_HUB_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "PYTHONWARNINGS": "ignore::FutureWarning",  # of transformers, about itself
        "TQDM_DISABLE": "1",  # its bars redraw a line, and a log has no line to redraw
        "GRAFT_ROOT": str(root),
        "GRAFT_PYTHON": shlex.quote(sys.executable),  # in a command line of deployments/prefect.yaml
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)]),
        "PYTHONPATH": os.pathsep.join(filter(None, [str(root), os.environ.get("PYTHONPATH", "")])),
        "PYTHONUNBUFFERED": "1",
    }


def _prefect_environment(root: Path, settings: PrefectSettings) -> dict[str, str]:
    """The settings of Prefect's server and clients.

    Prefect also reads `.env`, `prefect.toml` and `pyproject.toml` in the working directory. The environment has
    priority, so every setting that says where requests, data or the password go is here, with its default too,
    and by the name that Prefect looks up first.
    """
    home = root / STATE / _FOLDERS["PREFECT_HOME"]
    auth = auth_string(root)
    login = {"PREFECT_API_AUTH_STRING": auth, "PREFECT_SERVER_API_AUTH_STRING": auth} if auth else {}
    return {
        **login,
        "PREFECT_API_URL": settings.api_url,
        "PREFECT_CLIENT_CSRF_SUPPORT_ENABLED": "true",
        "PREFECT_CLI_PROMPT": "false",
        "PREFECT_LOGGING_CONFIG_PATH": str(home / "logging.yml"),
        "PREFECT_PROFILES_PATH": str(home / "profiles.toml"),
        "PREFECT_SERVER_API_CORS_ALLOWED_ORIGINS": settings.url,  # the origin of its own UI
        "PREFECT_SERVER_API_CSRF_PROTECTION_ENABLED": "true",
        "PREFECT_SERVER_API_HOST": settings.host,
        "PREFECT_SERVER_API_PORT": str(settings.port),
        "PREFECT_SERVER_DATABASE_CONNECTION_URL": f"sqlite+aiosqlite:///{home / 'prefect.db'}",
        "PREFECT_SERVER_DOCKET_URL": "memory://",
        "PREFECT_SERVER_SERVICES_DB_VACUUM_ENABLED": "events,flow_runs",
        "PREFECT_SERVER_SERVICES_DB_VACUUM_RETENTION_PERIOD": str(settings.keep_runs_days * 86400),
        "PREFECT_SERVER_UI_API_URL": settings.api_url,
        "PREFECT_UI_URL": settings.url,
    }


def with_direct_loopback(environment: Mapping[str, str], *hosts: str) -> dict[str, str]:
    """An environment whose proxies, which downloads go through, are not asked for hosts of the stack.

    A proxy that is not HTTP is left out: httpx, which Graft and Prefect use, refuses to start with one, even where
    it is to be bypassed.

    Args:
        environment: the environment to start from.
        hosts: hosts of the stack, beside loopback.
    """
    kept = {key: value for key, value in environment.items() if not _is_unusable_proxy(key, value)}
    listed = [host for key in _NO_PROXY for host in kept.get(key, "").split(",") if host]
    direct = ",".join(dict.fromkeys([*listed, *LOOPBACK_HOSTS, *hosts]))
    return {**kept, **dict.fromkeys(_NO_PROXY, direct)}


def _is_unusable_proxy(key: str, value: str) -> bool:
    scheme, found, _ = value.partition("://")
    return key.lower() in _PROXIES and bool(found) and scheme not in ("http", "https")


def _in_git(root: Path) -> bool:
    return any((folder / ".git").exists() for folder in (root, *root.parents))


def find_root(start: Path) -> Path:
    """The repository root at or above `start`.

    Raises:
        GraftError: there is none.
    """
    for folder in (start.resolve(), *start.resolve().parents):
        if (folder / "params.yaml").is_file() and (folder / STACK_YAML).is_file():
            return folder
    raise GraftError(f"{start.resolve()}: not inside a Graft repository; change into one and try again")
