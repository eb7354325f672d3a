"""`deployments/serve.yaml` and `train.yaml` as frozen, checked trees: where, when and how many of what runs.

There are no defaults in this module, so that a value is written in one place only.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from tasks.settings import Positive, Section, Share, check, read_yaml

SERVE_YAML = Path("deployments/serve.yaml")
TRAIN_YAML = Path("deployments/train.yaml")

Port = Annotated[int, Field(ge=1024, le=65535)]
Cpus = Annotated[float, Field(gt=0.0)]
Seconds = Annotated[float, Field(gt=0.0)]
RouteName = Literal["production", "previous", "words"]


class HttpSettings(Section):
    """Where the assistant answers."""

    host: str
    port: Port


class RaySettings(Section):
    """The local Ray head: its ports, and what it may share out."""

    host: str
    gcs_port: Port
    dashboard_port: Port
    agent_port: Port
    client_port: Port
    num_cpus: Positive
    object_store_mb: Annotated[int, Field(ge=80)]
    start_timeout_s: Seconds


class ReplicaSettings(Section):
    """One served package: its size, its queue and its patience."""

    replicas: Positive
    num_cpus: Cpus
    torch_threads: Positive
    cache_gb: Positive
    at_once: Positive
    max_queued: Positive
    first_token_timeout_s: Seconds
    request_timeout_s: Seconds
    start_timeout_s: Seconds
    health_every_s: Seconds


class EmbedderSettings(Section):
    """The served retrieval model: its size and its queue."""

    replicas: Positive
    num_cpus: Cpus
    threads: Positive
    at_once: Positive
    max_queued: Positive
    start_timeout_s: Seconds


class AssistantSettings(Section):
    """The HTTP side."""

    num_cpus: Cpus
    max_ongoing: Positive


class LimitSettings(Section):
    """What one API key may ask, of one HTTP replica."""

    requests_per_minute: Positive
    tokens_per_minute: Positive
    streams: Positive
    body_bytes: Positive


class RetrySettings(Section):
    """How often a route is tried, and what share of the requests (and how many a minute) may be retries."""

    attempts: Positive
    backoff_s: Seconds
    share: Share
    per_minute: Positive


class BreakerSettings(Section):
    """When a route is left alone, and for how long; see `deployments/app/breaker.py`."""

    window_s: Seconds
    min_calls: Positive
    failure_share: Annotated[float, Field(gt=0.0, le=1.0)]
    open_s: Seconds


class FallbackSettings(Section):
    """Who answers for `production`, in this order, and how hard each is tried."""

    production: Annotated[tuple[RouteName, ...], Field(min_length=1)]
    first_token_s: Seconds
    words: Annotated[str, Field(min_length=1)]
    retries: RetrySettings
    breaker: BreakerSettings

    @field_validator("production")
    @classmethod
    def _check_order(cls, routes: tuple[RouteName, ...]) -> tuple[RouteName, ...]:
        if routes[0] != "production" or len(set(routes)) < len(routes) or "words" in routes[:-1]:
            raise ValueError("begin with production, name each route once, and end with words if they are there")
        return routes


class CacheSettings(Section):
    """How much is kept of answers, and how alike two questions must be for one answer; 0 MB is off."""

    mb: Annotated[int, Field(ge=0)]
    max_age_s: Seconds
    semantic: bool
    threshold: Annotated[float, Field(gt=0.0, le=1.0)]
    entries: Positive

    @model_validator(mode="after")
    def _check_room(self) -> CacheSettings:
        if self.semantic and not self.mb:
            raise ValueError("semantic answers are kept with the others: give the cache some mb")
        return self


class TelemetrySettings(Section):
    """How telemetry is written."""

    rows_per_part: Positive


class ServeSettings(Section):
    """The whole of `deployments/serve.yaml`."""

    http: HttpSettings
    ray: RaySettings
    engine: ReplicaSettings
    embedding: EmbedderSettings
    assistant: AssistantSettings
    limits: LimitSettings
    fallback: FallbackSettings
    cache: CacheSettings
    telemetry: TelemetrySettings


def load_serve_settings(path: Path = SERVE_YAML) -> ServeSettings:
    """Read and check `deployments/serve.yaml`.

    Raises:
        GraftError: the file is missing, not YAML, or a key is unknown, missing or out of range.
    """
    return check(ServeSettings, read_yaml(path), str(path))


class WorkerSettings(Section):
    """The whole of `deployments/train.yaml`: what one training worker takes."""

    cpus: Cpus
    torch_threads: Positive
    gpu: bool


def load_worker_settings(path: Path = TRAIN_YAML) -> WorkerSettings:
    """Read and check `deployments/train.yaml`.

    Raises:
        GraftError: the file is missing, not YAML, or a key is unknown, missing or out of range.
    """
    return check(WorkerSettings, read_yaml(path), str(path))
