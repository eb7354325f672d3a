"""Rollout operations on Ray Serve: deploy, shadow, canary, promote and undeploy a package.

These are plain functions for the caller (the release flow, the command line). They talk to Serve's REST
interface on the Ray dashboard, so the caller needs no Ray of its own, and Serve's list of
applications is the only state. A package is started beside those that serve; the assistant routes to it
only once it answers; a promotion is one swap of the assistant's `user_config`, and so is every
step before it: shadow, canary, another percentage, none. The registry is not changed here.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx

from deployments.app.routing.routing import Routing, ServedEmbedding, ServedPackage
from deployments.core.settings import Scale, ServeSettings, load_serve_settings
from deployments.serve.serve_client import (
    application_config,
    configurations,
    has_failed,
    is_running,
    list_applications,
    put_applications,
    serve_url,
    wait_until,
)
from tasks.core.errors import GraftError
from tasks.core.files import locked
from tasks.core.paths import BUILT_EMBEDDING, BUILT_PROMPT_INJECTION, RUN
from tasks.core.settings import AdmissionSettings, load_settings
from tasks.model_package.admission import admit
from tasks.registry.registry import open_registry
from tasks.retrieval.embedder import publish, read_embedding
from tasks.safety import injection_classifier

ASSISTANT = "assistant"
EMBEDDING = "embedding"
ASSISTANT_BUILDER, ENGINE_BUILDER = "deployments.serve.applications:assistant", "deployments.serve.applications:engine"
EMBEDDING_BUILDER = "deployments.serve.applications:embedding"
_ENGINE = "engine-"
LOCK = RUN / "rollout.lock"
"""Lock of rollouts: each reads, changes and writes one list, so two must not overlap."""


def base_url() -> str:
    """The base URL for OpenAI clients, without a slash at the end."""
    return serve_url(load_serve_settings()) + "/v1"


def served() -> Routing:
    """The routing of the assistant: the packages it serves, and their roles; empty when it is not deployed.

    Raises:
        GraftError: Ray does not answer.
    """
    return _routing(list_applications(load_serve_settings()))


def assistant_is_up() -> bool:
    """Whether the assistant is deployed.

    Raises:
        GraftError: Ray does not answer.
    """
    return ASSISTANT in list_applications(load_serve_settings())


def deploy(digest: str) -> None:
    """Serve a published package beside the others, for requests by its digest. Returns when it answers.

    A package that is served already gets the current settings of `deployments/serve.yaml`: new replicas
    answer before old ones stop.

    Raises:
        GraftError: it is not admitted, or does not start; then everything is as it was before.
    """
    settings = load_serve_settings()
    with locked(LOCK):
        _start_embedding(settings)
        _start_assistant(settings)
        _deploy(settings, digest)


def promote(digest: str) -> None:
    """Make a deployed package the one behind the model id `production`. Running requests finish on their package.

    A canary or shadow loses that role when it is promoted; other packages keep theirs.

    Raises:
        GraftError: it is not deployed; nothing was changed.
    """
    settings = load_serve_settings()
    with locked(LOCK):
        _promote(settings, digest)


def shadow(digest: str) -> None:
    """Copy a fraction of production's requests to a deployed package as shadow traffic; it replaces other trials.

    Raises:
        GraftError: it is not deployed, or nothing else is in production; nothing was changed.
    """
    _swap(lambda routing: routing.with_shadow(digest))


def canary(digest: str, percent: float) -> None:
    """Make a deployed package the only canary, for `percent` percent of production's users.

    Users whom it answered at a lower percentage stay with it. If it was the shadow, there is no shadow now.

    Raises:
        GraftError: it is not deployed, nothing else is in production, or `percent` is not between 0
            and 100; nothing was changed.
    """
    _swap(lambda routing: routing.with_canary(digest, percent))


def reset_traffic() -> None:
    """Return all traffic to production: no canary, no shadow. They stay deployed until `undeploy_unused`."""
    routing = served()
    if routing.canary or routing.shadow:
        _swap(Routing.without_trial_traffic)


def undeploy_unused(keep: set[str]) -> None:
    """Undeploy all packages but `keep`, production, canary and shadow, once their running requests are answered.

    The previous package of production stays too where it is a fallback in `serve.yaml`.

    Raises:
        GraftError: a package did not stop in time.
    """
    settings = load_serve_settings()
    with locked(LOCK):
        applications = list_applications(settings)
        routing = _routing(applications)
        falls_back = "previous" in settings.fallback.production
        kept = routing.only(keep | {routing.previous} if falls_back else keep)
        if kept != routing:
            _route(settings, kept)
        names = {ASSISTANT, EMBEDDING, *(package.app for package in kept.served.values())}
        _keep_only(settings, names)


def redeploy(digest: str | None) -> None:
    """Deploy the assistant after a restart, and the package in production, if any.

    Raises:
        GraftError: one of them does not start.
    """
    settings = load_serve_settings()
    with locked(LOCK):
        _start_embedding(settings)
        _start_assistant(settings)
        if digest is not None:
            _deploy(settings, digest)
            _promote(settings, digest)


def _start_embedding(settings: ServeSettings) -> None:
    """Serve the embedding model that was built last, if there is one, and update a running assistant."""
    if not BUILT_EMBEDDING.is_dir():
        return
    digest, info = publish(BUILT_EMBEDDING), read_embedding(BUILT_EMBEDDING)
    applications = list_applications(settings)
    before = _embedding(applications)
    since = before.since if before and before.digest == digest else int(time.time())
    served = ServedEmbedding(app=EMBEDDING, digest=digest, name=info.name, dimensions=info.dimensions, since=since)
    config = _embedding_config(settings, served)
    _change(settings, EMBEDDING, config, settings.embedding.start_timeout_s, "the embedding model")
    if ASSISTANT in applications and served != before:
        _route(settings, _routing(applications))


def _embedding(applications: dict[str, dict[str, Any]]) -> ServedEmbedding | None:
    """The embedding model in Serve's configuration."""
    config = applications.get(EMBEDDING, {}).get("deployed_app_config")
    return ServedEmbedding.model_validate(config["args"]["served"]) if config else None


def _start_assistant(settings: ServeSettings) -> None:
    applications = list_applications(settings)
    if ASSISTANT in applications and has_failed(applications[ASSISTANT]):
        _keep_only(settings, set(applications) - {ASSISTANT})
    _route(settings, _routing(applications))


def _assistant_config(settings: ServeSettings, routing: Routing) -> dict[str, Any]:
    params = load_settings()
    arguments = {
        "root": str(Path.cwd()),
        "http": settings.http.model_dump(),
        "room": settings.room,
        "tools": params.tools.model_dump(mode="json"),
        "shop": params.shop.model_dump(mode="json"),
        "safety": params.guardrails.model_dump(mode="json"),
        "classifier": injection_classifier.publish(BUILT_PROMPT_INJECTION) if BUILT_PROMPT_INJECTION.is_dir() else None,
        "timeouts": {
            "first_token_s": settings.engine.first_token_timeout_s,
            "request_s": settings.engine.request_timeout_s,
        },
        "assistant": settings.assistant.model_dump(),
        "limits": settings.limits.model_dump(),
        "fallback": settings.fallback.model_dump(),
        "cache": settings.cache.model_dump(),
        "shadow": settings.shadow.model_dump(),
        "telemetry": settings.telemetry.model_dump(),
    }
    scale = _scaled("Assistant", settings.scale.assistant)
    deployment = {**scale, "user_config": routing.model_dump()}
    return application_config(ASSISTANT, ASSISTANT_BUILDER, arguments, deployment, route="/")


def _engine_config(settings: ServeSettings, admission: AdmissionSettings, digest: str, name: str) -> dict[str, Any]:
    arguments = {
        "digest": digest,
        "root": str(Path.cwd()),
        "engine": settings.engine.model_dump(),
        "admission": admission.model_dump(mode="json"),
    }
    return application_config(
        name, ENGINE_BUILDER, arguments, _scaled("EngineReplica", settings.scale.engine), route=None
    )


def _embedding_config(settings: ServeSettings, served: ServedEmbedding) -> dict[str, Any]:
    sizes = settings.embedding.model_dump()
    arguments = {"served": served.model_dump(), "root": str(Path.cwd()), "embedding": sizes}
    scale = _scaled("EmbeddingReplica", settings.scale.embedding)
    return application_config(EMBEDDING, EMBEDDING_BUILDER, arguments, scale, route=None)


def _scaled(deployment: str, scale: Scale) -> dict[str, Any]:
    """Serve's settings of a deployment's size.

    They are separate from the arguments, because changed arguments restart replicas and a changed size does not.
    """
    return {
        "name": deployment,
        "autoscaling_config": {
            "min_replicas": scale.min_replicas,
            "max_replicas": scale.max_replicas,
            "target_ongoing_requests": scale.target_ongoing,
            "upscale_delay_s": scale.upscale_delay_s,
            "downscale_delay_s": scale.downscale_delay_s,
        },
        "ray_actor_options": {
            "num_cpus": scale.num_cpus,
            "num_gpus": scale.num_gpus,
            "memory": scale.memory_mb * 1024 * 1024,
        },
    }


def _deploy(settings: ServeSettings, digest: str) -> None:
    registry, admission = open_registry(), load_settings().admission
    manifest = admit(digest, registry.package(digest), registry.base(digest), admission)
    name = _ENGINE + digest[:12]
    applications = list_applications(settings)
    routing = _routing(applications)
    if name in applications and has_failed(applications[name]) and digest not in routing.served:
        _keep_only(settings, set(applications) - {name})
    limit_s = settings.engine.start_timeout_s
    _change(settings, name, _engine_config(settings, admission, digest, name), limit_s, f"package {digest}")
    if digest not in routing.served:
        package = ServedPackage(
            app=name,
            name=manifest.name,
            max_new_tokens=manifest.engine.max_new_tokens,
            since=int(time.time()),
            grounding=manifest.grounding,
        )
        _route(settings, routing.model_copy(update={"served": {**routing.served, digest: package}}))


def _change(settings: ServeSettings, name: str, config: dict[str, Any], limit_s: float, description: str) -> None:
    """Start an application, or change its configuration; if that fails, everything is as before."""
    before = configurations(list_applications(settings))
    put_applications(settings, {**before, name: config})
    try:
        wait_until(lambda: is_running(settings, name), limit_s, description)
    except GraftError:
        put_applications(settings, before)
        _keep_only(settings, set(before))
        raise


def _promote(settings: ServeSettings, digest: str) -> None:
    routing = _routing(list_applications(settings))
    if digest not in routing.served:
        raise GraftError(f"{digest} is not deployed, so it cannot be promoted; nothing was changed")
    _route(settings, routing.promoted(digest))


def _swap(change: Callable[[Routing], Routing]) -> None:
    settings = load_serve_settings()
    with locked(LOCK):
        _route(settings, change(_routing(list_applications(settings))))


def _route(settings: ServeSettings, routing: Routing) -> None:
    """Send the assistant a new routing, and wait until its health endpoint shows it."""
    applications = list_applications(settings)
    routing = routing.model_copy(update={"embedding": _embedding(applications)})
    put_applications(settings, {**configurations(applications), ASSISTANT: _assistant_config(settings, routing)})

    def has_routing() -> bool:
        if not is_running(settings, ASSISTANT):
            return False
        try:
            health = httpx.get(serve_url(settings) + "/healthz", timeout=5.0).json()
        except (httpx.HTTPError, ValueError):
            return False
        expected = routing.health()
        return isinstance(health, dict) and {key: health.get(key) for key in expected} == expected

    wait_until(has_routing, settings.ray.start_timeout_s, "the assistant")


def _keep_only(settings: ServeSettings, names: set[str]) -> None:
    """Delete the other applications and wait until their replicas are gone."""
    applications = list_applications(settings)
    if set(applications) <= names:
        return
    put_applications(settings, {name: config for name, config in configurations(applications).items() if name in names})
    limit_s = settings.engine.request_timeout_s + 30
    wait_until(lambda: set(list_applications(settings)) <= names, limit_s, "the end of an undeployed package")


def _routing(applications: dict[str, dict[str, Any]]) -> Routing:
    config = applications.get(ASSISTANT, {}).get("deployed_app_config") or {}
    user_configs = [d.get("user_config") for d in config.get("deployments", [])]
    return Routing.model_validate(next(filter(None, user_configs), {}))
