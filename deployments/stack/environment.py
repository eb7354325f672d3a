"""The environment of every process that Graft starts: state under `.graft/`, telemetry off, loopback."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Mapping
from pathlib import Path

from deployments.stack.stack_settings import STACK_YAML, load_stack_settings
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
    of ours. The model hub is offline; who fetches a base model from it takes `HF_HUB_OFFLINE` away.

    Args:
        root: the repository root.

    Raises:
        GraftError: `deployments/stack.yaml` is not as expected.
    """
    root = root.resolve()
    settings = load_stack_settings(root)
    inherited = {key: value for key, value in os.environ.items() if not key.startswith("PREFECT_")}
    return {
        **with_direct_loopback(inherited, settings.prefect.host),
        **_TELEMETRY_OFF,
        **{key: str(root / STATE / folder) for key, folder in _FOLDERS.items()},
        **({} if _in_git(root) else {"DVC_GLOBAL_CONFIG_DIR": str(root / DVC_WITHOUT_GIT)}),
        "PREFECT_API_URL": settings.prefect.api_url,
        "PREFECT_SERVER_API_HOST": settings.prefect.host,
        "PREFECT_SERVER_API_PORT": str(settings.prefect.port),
        "PREFECT_SERVER_SERVICES_DB_VACUUM_ENABLED": "events,flow_runs",
        "PREFECT_SERVER_SERVICES_DB_VACUUM_RETENTION_PERIOD": str(settings.prefect.keep_runs_days * 86400),
        "PREFECT_WORKER_QUERY_SECONDS": str(settings.worker.poll_s),
        "PREFECT_CLI_PROMPT": "false",
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
