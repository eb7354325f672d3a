"""The page of `deployments/serve.yaml` and of the other settings files beside it."""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel

from deployments.core.settings import (
    REDTEAM_YAML,
    SERVE_YAML,
    TRAIN_YAML,
    RedteamSettings,
    ServeSettings,
    TrainWorkerSettings,
)
from deployments.stack.stack_settings import STACK_YAML, StackSettings
from docs.generators.markdown import sections
from docs.generators.settings_tables import shipped, tables
from docs.generators.source import path_of
from tasks.registry.registry import REGISTRY_YAML, RegistrySettings

INTRODUCTION = """
# serve.yaml and its neighbors

The files `deployments/*.yaml` hold the settings of where things run, when, and how many; settings that change an
answer are in [params.yaml](params.md). Every key is required, and unknown keys are refused. A change of `serve.yaml`
takes effect with the next deploy. `deployments/prefect.yaml` is in Prefect's own format: the deployments of the three
flows, their schedules and their triggers.
"""

FILES: dict[Path, tuple[type[BaseModel], str]] = {
    SERVE_YAML: (ServeSettings, "The service: HTTP, replicas, limits, fallback, cache and shadow traffic."),
    STACK_YAML: (StackSettings, "The processes that `graft up` keeps running beside Ray."),
    TRAIN_YAML: (TrainWorkerSettings, "The workers of distributed training, where `train.num_workers` is above 1."),
    REGISTRY_YAML: (RegistrySettings, "The place of the registry."),
    REDTEAM_YAML: (RedteamSettings, "The garak scan of `graft redteam`."),
}


def page() -> str:
    """Every settings file in `deployments/`, a heading each."""
    return sections(INTRODUCTION, *(_file(path, *about) for path, about in FILES.items()))


def _file(path: Path, model: type[BaseModel], purpose: str) -> str:
    return sections(f"## {path.name}", f"{purpose} Read by `{path_of(model)}`.", tables(model, shipped(path), level=3))
