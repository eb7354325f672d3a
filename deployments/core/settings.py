"""`deployments/serve.yaml`, `train.yaml` and `redteam.yaml` as frozen, checked trees: where, when and how many.

There are no defaults in this module, so that a value is written in one place only.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from tasks.core.settings import Fraction, Positive, Section, check, read_yaml

SERVE_YAML = Path("deployments/serve.yaml")
TRAIN_YAML = Path("deployments/train.yaml")
REDTEAM_YAML = Path("deployments/redteam.yaml")

Port = Annotated[int, Field(ge=1024, le=65535)]
Cpus = Annotated[float, Field(gt=0.0)]
Seconds = Annotated[float, Field(gt=0.0)]
RouteName = Literal["production", "previous", "words"]


class HttpSettings(Section):
    """Where the assistant answers."""

    host: str
    port: Port


class RaySettings(Section):
    """Where a Ray head answers, and how long it may take to."""

    host: str
    gcs_port: Port
    dashboard_port: Port
    start_timeout_s: Seconds


class LocalRaySettings(RaySettings):
    """A Ray head that Graft starts itself: its other ports, and what it may share out."""

    agent_port: Port
    client_port: Port
    num_cpus: Positive
    object_store_mb: Annotated[int, Field(ge=80)]


class Scale(Section):
    """How many replicas there are, and what each takes of a node.

    There are as many as give each `target_ongoing` open requests, within the bounds, once that has
    held for the delay. `memory_mb` is what Ray sets aside, not a limit.
    """

    min_replicas: Positive
    max_replicas: Positive
    target_ongoing: Positive
    upscale_delay_s: Seconds
    downscale_delay_s: Seconds
    num_cpus: Cpus
    num_gpus: Annotated[float, Field(ge=0.0)]
    memory_mb: Positive

    @model_validator(mode="after")
    def _bounds_in_order(self) -> Scale:
        if self.max_replicas < self.min_replicas:
            raise ValueError(f"max_replicas {self.max_replicas} is less than min_replicas {self.min_replicas}")
        return self


class Profile(Section):
    """What differs between one box and a cluster: which Ray, which nodes answer HTTP, how many of what."""

    proxies: Literal["HeadOnly", "EveryNode"]
    ray: RaySettings
    assistant: Scale
    engine: Scale
    embedding: Scale


class LocalProfile(Profile):
    """A profile on a Ray that Graft starts."""

    ray: LocalRaySettings


class ReplicaSettings(Section):
    """One served package: its threads, its queue and its patience."""

    threads: Positive
    cache_gb: Positive
    max_num_seqs: Positive
    stream_every_s: Annotated[float, Field(ge=0.0)]
    max_queued: Positive
    first_token_timeout_s: Seconds
    request_timeout_s: Seconds
    start_timeout_s: Seconds
    health_check_period_s: Seconds


class EmbedderSettings(Section):
    """The served retrieval model: its threads and its queue."""

    threads: Positive
    concurrency: Positive
    max_queued: Positive
    start_timeout_s: Seconds


class HttpReplicaSettings(Section):
    """The HTTP side."""

    max_ongoing: Positive
    health_check_period_s: Seconds


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
    ratio: Fraction
    per_minute: Positive


class BreakerSettings(Section):
    """When a route is left alone, and for how long; see `deployments/app/routing/circuit_breaker.py`."""

    window_s: Seconds
    min_calls: Positive
    failure_ratio: Annotated[float, Field(gt=0.0, le=1.0)]
    open_s: Seconds


class FallbackSettings(Section):
    """Who answers for `production`, in this order, and how hard each is tried."""

    production: Annotated[tuple[RouteName, ...], Field(min_length=1)]
    first_token_s: Seconds
    static_message: Annotated[str, Field(min_length=1)]
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


class ShadowSettings(Section):
    """How much a shadow is asked, if there is one; see `deployments/app/shadow.py`."""

    fraction: Fraction
    concurrency: Positive
    max_open_requests: Positive
    timeout_s: Seconds


class TelemetrySettings(Section):
    """How telemetry is written."""

    rows_per_part: Positive


class ServeSettings(Section):
    """The whole of `deployments/serve.yaml`."""

    profile: Literal["one_box", "cluster"]
    http: HttpSettings
    engine: ReplicaSettings
    embedding: EmbedderSettings
    assistant: HttpReplicaSettings
    limits: LimitSettings
    fallback: FallbackSettings
    cache: CacheSettings
    shadow: ShadowSettings
    telemetry: TelemetrySettings
    one_box: LocalProfile
    cluster: Profile

    @property
    def scale(self) -> Profile:
        """The chosen profile."""
        return self.one_box if self.profile == "one_box" else self.cluster

    @property
    def ray(self) -> RaySettings:
        """The Ray of the chosen profile."""
        return self.scale.ray

    @property
    def room(self) -> int:
        """Requests that all replicas of one package may hold together, those that wait included."""
        return self.scale.engine.max_replicas * (self.engine.max_num_seqs + self.engine.max_queued)

    @property
    def local_ray(self) -> LocalRaySettings | None:
        """The Ray that Graft starts, or None where it joins one that is there."""
        return self.one_box.ray if self.profile == "one_box" else None


def load_serve_settings(path: Path = SERVE_YAML) -> ServeSettings:
    """Read and check `deployments/serve.yaml`.

    Raises:
        GraftError: the file is missing, not YAML, or a key is unknown, missing or out of range.
    """
    return check(ServeSettings, read_yaml(path), str(path))


class TrainWorkerSettings(Section):
    """The whole of `deployments/train.yaml`: what one training worker takes."""

    cpus: Cpus
    torch_threads: Positive
    gpu: bool


def load_worker_settings(path: Path = TRAIN_YAML) -> TrainWorkerSettings:
    """Read and check `deployments/train.yaml`.

    Raises:
        GraftError: the file is missing, not YAML, or a key is unknown, missing or out of range.
    """
    return check(TrainWorkerSettings, read_yaml(path), str(path))


class RedteamSettings(Section):
    """The whole of `deployments/redteam.yaml`: which of garak's probes, and how much of each."""

    families: Annotated[tuple[Annotated[str, Field(pattern=r"^[a-z_]+$")], ...], Field(min_length=1)]
    exclude: tuple[Annotated[str, Field(pattern=r"^[a-z_]+\.\w+$")], ...]
    prompts_per_probe: Positive
    parallel: Positive
    seed: int
    timeout_s: Seconds


def load_redteam_settings(path: Path = REDTEAM_YAML) -> RedteamSettings:
    """Read and check `deployments/redteam.yaml`.

    Raises:
        GraftError: the file is missing, not YAML, or a key is unknown, missing or out of range.
    """
    return check(RedteamSettings, read_yaml(path), str(path))
