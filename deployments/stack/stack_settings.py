"""Settings of the stack: `deployments/stack.yaml` as a frozen, checked tree."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import Field

from tasks.core.errors import GraftError
from tasks.core.settings import Positive, Section, check, read_yaml

STACK_YAML = Path("deployments/stack.yaml")


class PrefectSettings(Section):
    """The Prefect server: its address, and how long it keeps runs."""

    host: str
    """The address that it listens on."""
    port: Annotated[int, Field(ge=1024, le=65535)]
    """The port of UI and API."""
    start_timeout_s: Positive
    """Seconds until it must answer after its start."""
    keep_runs_days: Positive
    """Days after which finished runs leave its database."""

    @property
    def url(self) -> str:
        """Address of the UI; the API is below it."""
        return f"http://{self.host}:{self.port}"

    @property
    def api_url(self) -> str:
        return f"{self.url}/api"


class WorkerSettings(Section):
    """The Prefect worker: its work pool, and how often it looks there."""

    pool: str
    """The work pool that it takes flow runs from."""
    poll_s: Positive
    """Seconds between two looks at the pool."""


class StackSettings(Section):
    """The whole of `deployments/stack.yaml`."""

    prefect: PrefectSettings
    """The Prefect server."""
    worker: WorkerSettings
    """The Prefect worker."""
    stop_timeout_s: Positive
    """Seconds between the request to a process to end and its being killed."""


def load_stack_settings(root: Path = Path()) -> StackSettings:
    """Read and check `deployments/stack.yaml`.

    Raises:
        GraftError: the file is missing, not YAML, or a key is unknown, missing or out of range.
    """
    path = root / STACK_YAML
    content = read_yaml(path)
    if "registry" in content:  # as in version 0.1
        raise GraftError(f"{path}: the section `registry` has moved to deployments/registry.yaml; move its keys there")
    return check(StackSettings, content, str(path))
