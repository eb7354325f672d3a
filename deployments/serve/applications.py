"""The Serve applications: one per served package and one for the retrieval model,
without a route, and the assistant at `/`.

Serve calls `engine`, `embedding` and `assistant` with the arguments that `deployments/serve/rollout.py`
sends; how many replicas there are, and what each takes, it sends beside them.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from pathlib import Path
from typing import Any

import numpy as np
from fastapi import FastAPI
from numpy.typing import NDArray
from ray import serve
from ray.exceptions import RayError, RayTaskError
from ray.serve.exceptions import BackPressureError, RayServeException

from deployments.app.access.api_keys import Keys, read_keys
from deployments.app.access.pseudonyms import Pseudonyms
from deployments.app.embeddings import Embeddings
from deployments.app.guardrails.checks import Safety
from deployments.app.guardrails.configured import configured_safety
from deployments.app.routes import create_app
from deployments.app.routing.load_shedding import Shedding
from deployments.app.routing.routing import Routing, ServedEmbedding
from deployments.app.routing.timeouts import Timeouts
from deployments.app.shadow import Shadows
from deployments.app.steps.input_checks import Intake
from deployments.app.steps.instructions import Instructions
from deployments.app.steps.output_checks import Facts, Leaving
from deployments.app.steps.retrieval import Retrieval
from deployments.app.steps.tool_loop import Rounds
from deployments.app.turn import Layers, Turns
from deployments.core.loopback import stay_on_loopback
from deployments.core.messages import OVERLOADED, Ask, Embedded, Event, Refused
from deployments.core.settings import (
    AssistantSettings,
    CacheSettings,
    EmbedderSettings,
    FallbackSettings,
    LimitSettings,
    ReplicaSettings,
    ShadowSettings,
    TelemetrySettings,
)
from deployments.replicas.embedding import EmbeddingReplica
from deployments.replicas.engine import EngineReplica
from deployments.serve.ray_metrics import RayMeters
from tasks.core.errors import GraftError
from tasks.core.paths import CLASSIFIERS, INDEX_TABLES, INDEXES, SHOP, SHOP_SEED, TELEMETRY, VISITORS_KEY
from tasks.core.settings import AdmissionSettings, GuardrailSettings, Section, ToolSettings
from tasks.domains.nursery.tool_service import open_desk
from tasks.model_package.manifest import Grounding
from tasks.monitoring.telemetry_store import TelemetryRow, TelemetryWriter
from tasks.registry.registries import open_registry
from tasks.safety.injection_classifier import open_classifier
from tasks.tools.policy import Decision

_LOG = logging.getLogger(__name__)
_RETRY_AFTER_S = 5
_ROOM_TO_REFUSE = 16
"""Requests that Serve lets into an engine beyond those it will take, so that it can refuse them."""
_TRIES = 3
"""Replicas that a request is asked at, if one after the other dies of it or beside it."""
_AGAIN_S = 0.5
_SURGE_PERCENT = 100
"""When replicas are replaced, as many new ones as there are old ones start before the old ones go."""


class EngineArguments(Section):
    """What the application of one package is built from."""

    digest: str
    root: str
    engine: ReplicaSettings
    admission: AdmissionSettings


class EmbeddingArguments(Section):
    """What the application of the retrieval model is built from."""

    served: ServedEmbedding
    root: str
    embedding: EmbedderSettings


class AssistantArguments(Section):
    """What the assistant is built from."""

    root: str
    room: int
    tools: ToolSettings
    safety: GuardrailSettings
    classifier: str | None
    timeouts: Timeouts
    assistant: AssistantSettings
    limits: LimitSettings
    fallback: FallbackSettings
    cache: CacheSettings
    shadow: ShadowSettings
    telemetry: TelemetrySettings


def engine(sent: dict[str, Any]) -> serve.Application:
    """The application of one package, from `EngineArguments`."""
    arguments = EngineArguments.model_validate(sent)
    settings = arguments.engine
    deployment: Any = serve.deployment(EngineReplica)
    configured = deployment.options(
        name=EngineReplica.__name__,
        max_surge_percent=_SURGE_PERCENT,
        max_ongoing_requests=settings.at_once + settings.max_queued + _ROOM_TO_REFUSE,
        max_constructor_retry_count=1,
        health_check_period_s=settings.health_every_s,
        health_check_timeout_s=settings.health_every_s,
        graceful_shutdown_wait_loop_s=0.5,
        graceful_shutdown_timeout_s=settings.request_timeout_s + 5,
    )
    admission = arguments.admission.model_dump()
    return configured.bind(arguments.digest, arguments.root, settings.model_dump(), admission)


def embedding(sent: dict[str, Any]) -> serve.Application:
    """The application of the retrieval model, from `EmbeddingArguments`."""
    arguments = EmbeddingArguments.model_validate(sent)
    settings = arguments.embedding
    deployment: Any = serve.deployment(EmbeddingReplica)
    configured = deployment.options(
        name=EmbeddingReplica.__name__,
        max_ongoing_requests=settings.at_once,
        max_queued_requests=settings.max_queued,
    )
    return configured.bind(arguments.served.digest, arguments.root, settings.threads)


class ServeBackend:
    """Reaches packages and the retrieval model through Serve's handles, and asks again when a replica is lost."""

    def __init__(self) -> None:
        self._handles: dict[str, Any] = {}

    async def embed(self, app: str, texts: tuple[str, ...]) -> Embedded | Refused:
        """See `EmbeddingBackend.embed`."""
        response: Any = self._handle(app, stream=False).embed.remote(texts)
        try:
            return await response
        except asyncio.CancelledError:
            response.cancel()
            raise
        except BackPressureError:
            return Refused(503, OVERLOADED, "too many requests are waiting; try again shortly", _RETRY_AFTER_S)
        except RayTaskError:
            _LOG.exception("%s: embedding failed", app)
            return Refused(500, "engine_error", "the model failed while answering; the server's log says why")
        except (RayError, RayServeException):
            _LOG.exception("%s: cannot be reached", app)
            return Refused(503, "engine_unavailable", "the model is restarting; try again shortly", _RETRY_AFTER_S)

    async def ask(self, app: str, ask: Ask) -> AsyncGenerator[Event]:
        """See `Backend.ask`.

        A request whose replica died goes to another one, or waits until there is one, for as long as
        the caller has patience. One whose answer was already partly given ends with a refusal,
        and so does one at which `_TRIES` replicas died, for it may be what kills them.
        """
        given = False
        for _ in range(_TRIES):
            try:
                async with aclosing(self._events(app, ask)) as events:
                    async for event in events:
                        given = True
                        yield event
                return
            except RayTaskError:
                _LOG.exception("%s: a turn failed", app)
                yield Refused(500, "engine_error", "the model failed while answering; the server's log says why")
                return
            except RayServeException:
                _LOG.exception("%s: cannot be reached", app)
                break
            except RayError as error:
                _LOG.warning("%s: a replica was lost: %s", app, error)
                if given and not ask.whole:
                    break
                await asyncio.sleep(_AGAIN_S)
        yield Refused(503, "engine_unavailable", "the model is restarting; try again shortly", _RETRY_AFTER_S)

    async def _events(self, app: str, ask: Ask) -> AsyncGenerator[Event]:
        response = self._handle(app, stream=True).turn.remote(ask)
        try:
            async for event in response:
                yield event
        finally:
            response.cancel()

    def _handle(self, app: str, *, stream: bool) -> Any:
        if app not in self._handles:  # looking it up asks Serve's controller, and waits
            self._handles[app] = serve.get_app_handle(app).options(stream=stream)
        return self._handles[app]


@serve.ingress()
class Assistant:
    """The HTTP side. `reconfigure` swaps what is served without a restart or a lost request."""

    def __init__(self, arguments: AssistantArguments) -> None:
        stay_on_loopback()
        writer = TelemetryWriter(arguments.telemetry.rows_per_part, Path(arguments.root) / TELEMETRY)
        keys = Keys(read_keys())
        self._backend = ServeBackend()
        meters = RayMeters()

        def told(row: TelemetryRow) -> None:
            meters.answered(row)
            writer.append(row)

        root = Path(arguments.root)
        desk = open_desk(arguments.tools, root / SHOP, root / SHOP_SEED)
        safety = _safety(arguments)
        self._retrieval = Retrieval(root / INDEXES, root / INDEX_TABLES, self._embed, safety)

        def judge(text: str, facts: Facts) -> tuple[Decision, ...]:
            return desk.before_answer(text, facts.customer, facts.deeds, facts.passages, facts.said)

        leaving = Leaving(safety, judge, Instructions(open_registry(root)))
        doors = Shedding(Rounds(self._backend, desk.answer, arguments.tools, safety), arguments.room)
        # Beside the doors and the rounds: it counts for nothing there, and runs no tools.
        shadows = Shadows(self._backend, arguments.shadow, told, meters, lambda: doors.open)
        self._turns = Turns(
            doors,
            told,
            keys,
            Pseudonyms.open(root / VISITORS_KEY),
            arguments.limits,
            arguments.timeouts,
            arguments.fallback,
            arguments.cache,
            meters,
            Layers(Intake(safety), self._retrieval, leaving),
            self._embed,
            shadows=shadows,
        )
        self._embeddings = Embeddings(self._turns, self._backend)

    async def _embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """What the cache compares questions by, and what passages are looked up with."""
        served = self._turns.routing.embedding
        if served is None:
            raise GraftError("no retrieval model is served; run the stage `embedding` and deploy again")
        found = await self._backend.embed(served.app, tuple(texts))
        if isinstance(found, Refused):
            raise GraftError(found.message)
        return found.vectors

    def __serve_build_asgi_app__(self) -> FastAPI:
        return create_app(self._turns, self._embeddings)

    async def reconfigure(self, config: dict[str, Any]) -> None:
        """Serve calls this with the new `user_config`. Indexes are opened before anything is swapped."""
        routing = Routing.model_validate(config)
        await asyncio.to_thread(self._retrieval.keep, _readable(routing))
        self._turns.routing = routing


def _readable(routing: Routing) -> set[Grounding]:
    """The indexes of the served packages that the served retrieval model can search."""
    groundings = {served.grounding for served in routing.served.values() if served.grounding}
    embedding = routing.embedding.digest if routing.embedding else None
    strange = {grounding for grounding in groundings if grounding.embedding != embedding}
    for grounding in strange:
        _LOG.error("index %s was made with another retrieval model: no passages for its packages", grounding.index)
    return groundings - strange


def _safety(arguments: AssistantArguments) -> Safety:
    """The checks that `params.yaml` asks for; without a classifier those that need none."""
    folder = Path(arguments.root) / CLASSIFIERS / arguments.classifier if arguments.classifier else None
    classifier = open_classifier(folder) if folder else None
    return configured_safety(arguments.safety, classifier)


def assistant(sent: dict[str, Any]) -> serve.Application:
    """The application at `/`, from `AssistantArguments`. What it serves comes as its `user_config`."""
    arguments = AssistantArguments.model_validate(sent)
    deployment: Any = serve.deployment(Assistant)
    configured = deployment.options(
        name=Assistant.__name__,
        max_surge_percent=_SURGE_PERCENT,
        max_ongoing_requests=arguments.assistant.max_ongoing,
        health_check_period_s=arguments.assistant.health_every_s,
        health_check_timeout_s=arguments.assistant.health_every_s,
        user_config=Routing().model_dump(),
        graceful_shutdown_timeout_s=arguments.timeouts.request_s + 5,
    )
    return configured.bind(arguments)
