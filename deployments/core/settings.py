"""The settings in `deployments/serve.yaml`, `train.yaml` and `redteam.yaml` as frozen, checked trees.

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
    """Section `http`: the address of the assistant, on each node that has a proxy."""

    host: str
    """IP address or host name."""
    port: Port
    """Port of the OpenAI-compatible API."""
    allowed_hosts: tuple[str, ...]
    """Host names, beside loopback and `host`, by which requests may address the assistant. Empty: where API keys are
    required, any name."""
    cors_origins: tuple[Annotated[str, Field(pattern=r"^https?://[^/*]+$")], ...]
    """Origins of web pages that may call the assistant (CORS)."""


class RaySettings(Section):
    """Section `cluster.ray`: the head node of an existing Ray cluster."""

    host: str
    """IP address or host name."""
    gcs_port: Port
    """Port of Ray's global control store."""
    dashboard_port: Port
    """Port of the dashboard, with the REST API of Serve and jobs."""
    start_timeout_s: Seconds
    """Seconds until the head must answer."""


class LocalRaySettings(RaySettings):
    """Section `one_box.ray`: a Ray head that Graft starts on this machine."""

    agent_port: Port
    """Port of the dashboard agent."""
    num_cpus: Positive
    """Logical CPUs that the replicas share."""
    object_store_mb: Annotated[int, Field(ge=80)]
    """Megabytes of Ray's shared-memory object store."""


class Scale(Section):
    """Sections `one_box.*` and `cluster.*`: autoscaling and resources of one kind of replica."""

    min_replicas: Positive
    """Lower bound of autoscaling."""
    max_replicas: Positive
    """Upper bound of autoscaling."""
    target_ongoing: Positive
    """Open requests per replica that autoscaling aims at."""
    upscale_delay_s: Seconds
    """Seconds of higher load before a replica is added."""
    downscale_delay_s: Seconds
    """Seconds of lower load before a replica is removed."""
    num_cpus: Cpus
    """Logical CPUs that Ray reserves per replica."""
    num_gpus: Annotated[float, Field(ge=0.0)]
    """GPUs that Ray reserves per replica."""
    memory_mb: Positive
    """Megabytes that Ray reserves per replica; not a limit."""

    @model_validator(mode="after")
    def _bounds_in_order(self) -> Scale:
        if self.max_replicas < self.min_replicas:
            raise ValueError(f"max_replicas {self.max_replicas} is less than min_replicas {self.min_replicas}")
        return self


class Profile(Section):
    """Section `cluster`: an existing Ray cluster, its proxies and its replicas."""

    proxies: Literal["HeadOnly", "EveryNode"]
    """Nodes that answer HTTP."""
    ray: RaySettings
    """The cluster's head node."""
    assistant: Scale
    """Replicas of the HTTP side."""
    engine: Scale
    """Replicas per served package."""
    embedding: Scale
    """Replicas of the retrieval model."""


class LocalProfile(Profile):
    """Section `one_box`: everything on this machine."""

    ray: LocalRaySettings
    """The Ray head that Graft starts."""


class ReplicaSettings(Section):
    """Section `engine`: a replica of a model package."""

    threads: Positive
    """CPU threads."""
    cache_gb: Positive
    """Gigabytes of key-value cache for open requests and cached prefixes (engine openvino)."""
    max_num_seqs: Positive
    """Sequences decoded in one batch."""
    stream_every_s: Annotated[float, Field(ge=0.0)]
    """Minimum seconds between two streamed chunks; 0: one chunk per token."""
    max_queued: Positive
    """Waiting requests; more are answered 503."""
    first_token_timeout_s: Seconds
    """Seconds from arrival to the first token; then 504."""
    request_timeout_s: Seconds
    """Seconds from arrival to the last token; then 504."""
    start_timeout_s: Seconds
    """Seconds to load and answer a first token; then the rollout is undone."""
    health_check_period_s: Seconds
    """Seconds between health checks, each of which asks for a token."""


class EmbedderSettings(Section):
    """Section `embedding`: a replica of the retrieval model."""

    threads: Positive
    """CPU threads per request."""
    concurrency: Positive
    """Requests computed at the same time."""
    max_queued: Positive
    """Waiting requests; more are answered 503."""
    start_timeout_s: Seconds
    """Seconds to load; then the rollout fails."""


class HttpReplicaSettings(Section):
    """Section `assistant`: a replica of the HTTP side."""

    max_ongoing: Positive
    """Open requests, streams included, that one replica takes; more wait at Ray Serve's proxy."""
    health_check_period_s: Seconds
    """Seconds between health checks."""


class LimitSettings(Section):
    """Section `limits`: rate limits of one API key at one replica of the assistant."""

    requests_per_minute: Positive
    """Requests per minute; more are answered 429."""
    tokens_per_minute: Positive
    """Tokens of prompts and answers per minute; more are answered 429."""
    streams: Positive
    """Open requests; more are answered 429."""
    body_bytes: Positive
    """Bytes of one request's body; a longer one is answered 413."""


class RetrySettings(Section):
    """Section `fallback.retries`: retries when a replica could not be reached, and their budget."""

    attempts: Positive
    """Attempts per route, the first included."""
    backoff_s: Seconds
    """Maximum seconds before the second attempt; doubles with each attempt."""
    ratio: Fraction
    """Retry budget: retries per request."""
    per_minute: Positive
    """Retries that are allowed at any request rate."""


class BreakerSettings(Section):
    """Section `fallback.breaker`: the circuit breaker of a route that has another behind it."""

    window_s: Seconds
    """Seconds of calls that are counted."""
    min_calls: Positive
    """Calls in the window before it may open."""
    failure_ratio: Annotated[float, Field(gt=0.0, le=1.0)]
    """Failed calls per call in the window from which it opens."""
    open_s: Seconds
    """Seconds until one request tries the route again (half-open)."""


class FallbackSettings(Section):
    """Section `fallback`: the routes for requests to `production`."""

    production: Annotated[tuple[RouteName, ...], Field(min_length=1)]
    """Routes in order; `previous`: the package before; `words`: the static message."""
    first_token_s: Seconds
    """Deadline in seconds for the first token of a route that has another behind it."""
    static_message: Annotated[str, Field(min_length=1)]
    """Answer of the route `words`, with status 200."""
    retries: RetrySettings
    """Of each route."""
    breaker: BreakerSettings
    """Of each route that has another behind it."""

    @field_validator("production")
    @classmethod
    def _check_order(cls, routes: tuple[RouteName, ...]) -> tuple[RouteName, ...]:
        if routes[0] != "production" or len(set(routes)) < len(routes) or "words" in routes[:-1]:
            raise ValueError("begin with production, name each route once, and end with words if they are there")
        return routes


class CacheSettings(Section):
    """Section `cache`: the response cache for greedy or seeded requests, in the assistant's memory."""

    mb: Annotated[int, Field(ge=0)]
    """Megabytes; 0: off."""
    max_age_s: Seconds
    """Seconds that an answer is kept."""
    semantic: bool
    """Whether paraphrased questions share an answer."""
    threshold: Annotated[float, Field(gt=0.0, le=1.0)]
    """Minimum cosine similarity of paraphrased questions."""
    entries: Positive
    """Questions that are compared."""

    @model_validator(mode="after")
    def _check_room(self) -> CacheSettings:
        if self.semantic and not self.mb:
            raise ValueError("semantic answers are kept with the others: give the cache some mb")
        return self


class ShadowSettings(Section):
    """Section `shadow`: copies of production traffic to a shadow package; see `deployments/app/shadow.py`."""

    fraction: Fraction
    """Fraction of production's greedy chats that are copied."""
    concurrency: Positive
    """Open copies; at this number no copy is made."""
    max_open_requests: Positive
    """Open requests at the engines; at this number no copy is made."""
    timeout_s: Seconds
    """Seconds per copy."""


class TelemetrySettings(Section):
    """Section `telemetry`."""

    rows_per_part: Positive
    """Rows of a Parquet part."""


class ServeSettings(Section):
    """The whole of `deployments/serve.yaml`."""

    profile: Literal["one_box", "cluster"]
    """The section that applies: `one_box` or `cluster`."""
    http: HttpSettings
    """Address of the assistant."""
    engine: ReplicaSettings
    """Replica of a model package."""
    embedding: EmbedderSettings
    """Replica of the retrieval model."""
    assistant: HttpReplicaSettings
    """Replica of the HTTP side."""
    limits: LimitSettings
    """Rate limits per API key."""
    fallback: FallbackSettings
    """Routes for requests to `production`."""
    cache: CacheSettings
    """Response cache."""
    shadow: ShadowSettings
    """Shadow traffic."""
    telemetry: TelemetrySettings
    """Storage of telemetry."""
    one_box: LocalProfile
    """Profile of a single machine."""
    cluster: Profile
    """Profile of an existing Ray cluster."""

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
    """The whole of `deployments/train.yaml`: resources of one worker of distributed training."""

    cpus: Cpus
    """Logical CPUs that Ray reserves per worker."""
    torch_threads: Positive
    """CPU threads that each worker uses."""
    gpu: bool
    """One GPU per worker (backend nccl); else gloo on CPUs."""


def load_worker_settings(path: Path = TRAIN_YAML) -> TrainWorkerSettings:
    """Read and check `deployments/train.yaml`.

    Raises:
        GraftError: the file is missing, not YAML, or a key is unknown, missing or out of range.
    """
    return check(TrainWorkerSettings, read_yaml(path), str(path))


class RedteamSettings(Section):
    """The whole of `deployments/redteam.yaml`: the garak scan of `graft redteam`."""

    families: Annotated[tuple[Annotated[str, Field(pattern=r"^[a-z_]+$")], ...], Field(min_length=1)]
    """Modules of garak's probes."""
    exclude: tuple[Annotated[str, Field(pattern=r"^[a-z_]+\.\w+$")], ...]
    """Single probes, as `module.Class`."""
    prompts_per_probe: Positive
    """Prompts drawn per probe, where it allows a draw."""
    parallel: Positive
    """Concurrent requests."""
    seed: int
    """Random seed of the draw."""
    timeout_s: Seconds
    """Seconds for the whole scan."""


def load_redteam_settings(path: Path = REDTEAM_YAML) -> RedteamSettings:
    """Read and check `deployments/redteam.yaml`.

    Raises:
        GraftError: the file is missing, not YAML, or a key is unknown, missing or out of range.
    """
    return check(RedteamSettings, read_yaml(path), str(path))
