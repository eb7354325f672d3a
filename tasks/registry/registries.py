"""Which registry this repository uses: opened where `deployments/stack.yaml` says that it lies."""

from __future__ import annotations

from pathlib import Path

from tasks.core.environment import load_stack_settings
from tasks.core.paths import REGISTRY
from tasks.registry.registry import LocalRegistry, Registry

S3 = "s3://"


def open_registry(root: Path = Path()) -> Registry:
    """The configured registry of the repository at `root`.

    Nothing is asked of S3 yet; its client is imported only where the location is S3.

    Raises:
        GraftError: the settings are not as expected, or boto3 is not installed.
    """
    settings = load_stack_settings(root).registry
    if settings.location.startswith(S3):
        from tasks.registry.s3_store import S3Store

        return Registry(S3Store(settings.location, settings.endpoint, root / REGISTRY))
    return LocalRegistry(root / settings.location)
