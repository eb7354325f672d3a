"""Serve applications: one per served package and one for the retrieval model, without a route, and the
assistant at `/`.

Serve calls `engine`, `embedding` and `assistant` with the arguments that `deployments/serve/rollout.py`
sends, together with the number of replicas and their resources.
"""

from __future__ import annotations

from typing import Any

from ray import serve

from deployments.app.routing.routing import Routing, ServedEmbedding
from deployments.core.settings import EmbedderSettings, ReplicaSettings
from deployments.replicas.embedding import EmbeddingReplica
from deployments.replicas.engine import EngineReplica
from deployments.serve.assistant import Assistant, AssistantArguments
from tasks.core.settings import AdmissionSettings, Section

_REFUSAL_CAPACITY = 16
"""Requests that Serve passes to an engine beyond its capacity, so that it can refuse them."""
_SURGE_PERCENT = 100
"""On a replacement of replicas as many new ones as there are old ones start before the old ones stop."""


class EngineArguments(Section):
    """The arguments of a package's application."""

    digest: str
    """Digest of the package."""
    root: str
    """Absolute path of the repository."""
    engine: ReplicaSettings
    """Replica of a model package."""
    admission: AdmissionSettings
    """Accepted packages."""


class EmbeddingArguments(Section):
    """The arguments of the retrieval model's application."""

    served: ServedEmbedding
    """The retrieval model."""
    root: str
    """Absolute path of the repository."""
    embedding: EmbedderSettings
    """Replica of the retrieval model."""


def engine(arguments_json: dict[str, Any]) -> serve.Application:
    """The application of one package, from `EngineArguments`."""
    arguments = EngineArguments.model_validate(arguments_json)
    settings = arguments.engine
    deployment: Any = serve.deployment(EngineReplica)
    configured = deployment.options(
        name=EngineReplica.__name__,
        max_surge_percent=_SURGE_PERCENT,
        max_ongoing_requests=settings.max_num_seqs + settings.max_queued + _REFUSAL_CAPACITY,
        max_constructor_retry_count=1,
        health_check_period_s=settings.health_check_period_s,
        health_check_timeout_s=settings.health_check_period_s,
        graceful_shutdown_wait_loop_s=0.5,
        graceful_shutdown_timeout_s=settings.request_timeout_s + 5,
    )
    admission = arguments.admission.model_dump()
    return configured.bind(arguments.digest, arguments.root, settings.model_dump(), admission)


def embedding(arguments_json: dict[str, Any]) -> serve.Application:
    """The application of the retrieval model, from `EmbeddingArguments`."""
    arguments = EmbeddingArguments.model_validate(arguments_json)
    settings = arguments.embedding
    deployment: Any = serve.deployment(EmbeddingReplica)
    configured = deployment.options(
        name=EmbeddingReplica.__name__,
        max_ongoing_requests=settings.concurrency,
        max_queued_requests=settings.max_queued,
    )
    return configured.bind(arguments.served.digest, arguments.root, settings.threads)


def assistant(arguments_json: dict[str, Any]) -> serve.Application:
    """The application at `/`, from `AssistantArguments`. Its routing comes as its `user_config`."""
    arguments = AssistantArguments.model_validate(arguments_json)
    deployment: Any = serve.deployment(Assistant)
    configured = deployment.options(
        name=Assistant.__name__,
        max_surge_percent=_SURGE_PERCENT,
        max_ongoing_requests=arguments.assistant.max_ongoing,
        health_check_period_s=arguments.assistant.health_check_period_s,
        health_check_timeout_s=arguments.assistant.health_check_period_s,
        user_config=Routing().model_dump(),
        graceful_shutdown_timeout_s=arguments.timeouts.request_s + 5,
    )
    return configured.bind(arguments)
