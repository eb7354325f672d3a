"""The environment of every process that Graft starts: state under `.graft/`, telemetry off, loopback.

It also holds `deployments/stack.yaml`, because the address of the Prefect server is part of it.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

from pydantic import Field

from tasks.core.errors import GraftError
from tasks.core.paths import STATE
from tasks.core.settings import Positive, Section, check, read_yaml

STACK_YAML = Path("deployments/stack.yaml")

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


class PrefectSettings(Section):
    """Section `prefect`: the Prefect server with its API and UI."""

    host: str
    """IP address or host name."""
    port: Annotated[int, Field(ge=1024, le=65535)]
    """Port of API and UI."""
    start_timeout_s: Positive
    """Seconds until it must answer."""
    keep_runs_days: Positive
    """Days that finished runs are kept in its database."""

    @property
    def url(self) -> str:
        """Address of the UI; the API is below it."""
        return f"http://{self.host}:{self.port}"

    @property
    def api_url(self) -> str:
        return f"{self.url}/api"


class WorkerSettings(Section):
    """Section `worker`: the Prefect worker, which starts the flow runs."""

    pool: str
    """Name of its work pool."""
    poll_s: Positive
    """Seconds between two polls for scheduled runs."""


class RegistrySettings(Section):
    """Section `registry`: the storage of released packages."""

    location: Annotated[str, Field(min_length=1)]
    """A folder, relative to the repository root, or `s3://BUCKET/PREFIX`."""
    endpoint: str | None
    """URL of an S3 server other than AWS."""


class StackSettings(Section):
    """The whole of `deployments/stack.yaml`."""

    prefect: PrefectSettings
    """Prefect server."""
    worker: WorkerSettings
    """Prefect worker."""
    registry: RegistrySettings
    """Storage of released packages."""
    stop_timeout_s: Positive
    """Seconds between SIGTERM and SIGKILL."""


def load_stack_settings(root: Path = Path()) -> StackSettings:
    """Read and check `deployments/stack.yaml`.

    Raises:
        GraftError: the file is missing, not YAML, or a key is unknown, missing or out of range.
    """
    path = root / STACK_YAML
    return check(StackSettings, read_yaml(path), str(path))


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
        **inherited,
        **_TELEMETRY_OFF,
        **{key: str(root / STATE / folder) for key, folder in _FOLDERS.items()},
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
        "GRAFT_PYTHON": sys.executable,
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)]),
        "PYTHONPATH": os.pathsep.join(filter(None, [str(root), os.environ.get("PYTHONPATH", "")])),
        "PYTHONUNBUFFERED": "1",
    }


def find_root(start: Path) -> Path:
    """The repository root at or above `start`.

    Raises:
        GraftError: there is none.
    """
    for folder in (start.resolve(), *start.resolve().parents):
        if (folder / "params.yaml").is_file() and (folder / STACK_YAML).is_file():
            return folder
    raise GraftError(f"{start.resolve()}: not inside a Graft repository; change into one and try again")
