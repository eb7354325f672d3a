"""The assistant's Ray Serve deployment: the HTTP side, with the routing to packages."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from fastapi import FastAPI
from numpy.typing import NDArray
from ray import serve

from deployments.app.access.api_keys import ApiKeys, read_keys
from deployments.app.access.cross_origin import CrossOriginGuard
from deployments.app.access.pseudonyms import Pseudonyms
from deployments.app.cache.answer_cache import AnswerCache
from deployments.app.embeddings import EmbeddingService
from deployments.app.guardrails.checks import Guardrails
from deployments.app.guardrails.configured import configured_guardrails
from deployments.app.routes import create_app
from deployments.app.routing.load_shedding import LoadShedding
from deployments.app.routing.routing import Routing
from deployments.app.routing.timeouts import Timeouts
from deployments.app.shadow import ShadowTraffic
from deployments.app.steps.input_checks import InputGuard
from deployments.app.steps.instructions import Instructions
from deployments.app.steps.output_checks import OutputGuard
from deployments.app.steps.retrieval import PassageSearch
from deployments.app.steps.tool_loop import ToolLoop
from deployments.app.turn import ChatService, ChatServiceSettings, Steps
from deployments.app.turn_record import Sink
from deployments.core.loopback import stay_on_loopback
from deployments.core.messages import Refusal
from deployments.core.settings import (
    CacheSettings,
    FallbackSettings,
    HttpReplicaSettings,
    HttpSettings,
    LimitSettings,
    ShadowSettings,
    TelemetrySettings,
)
from deployments.serve.backend import ServeBackend
from deployments.serve.ray_metrics import RayMetrics
from tasks.core.errors import GraftError
from tasks.core.paths import CLASSIFIERS, INDEX_TABLES, INDEXES, SHOP, SHOP_SEED, TELEMETRY, VISITORS_KEY
from tasks.core.settings import GuardrailSettings, Section, ShopSettings, ToolSettings
from tasks.domains.loader import load_domain
from tasks.model_package.manifest import Grounding
from tasks.monitoring.telemetry_row import TelemetryRow
from tasks.monitoring.telemetry_store import TelemetryWriter
from tasks.registry.registry import open_registry
from tasks.safety.injection_classifier import open_classifier

_LOG = logging.getLogger(__name__)


class AssistantArguments(Section):
    """The arguments of the assistant's application."""

    root: str
    """The installation's root folder."""
    http: HttpSettings
    """Address, names and permitted origins of the assistant."""
    room: int
    """Capacity of one application: requests that its replicas take together, queued ones included."""
    tools: ToolSettings
    """The tool loop and its domain."""
    shop: ShopSettings
    """The example domain's own settings."""
    safety: GuardrailSettings
    """Checks before and after the model."""
    classifier: str | None
    """Digest of the prompt injection classifier; None: there is none."""
    timeouts: Timeouts
    """Timeouts of a turn."""
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


@serve.ingress()
class Assistant:
    """The HTTP side. `reconfigure` replaces the routing without a restart or a lost request."""

    def __init__(self, arguments: AssistantArguments) -> None:
        stay_on_loopback()
        root = Path(arguments.root)
        keys = ApiKeys(read_keys(arguments.http.host))  # first: a malformed variable is the quickest error
        self._http = arguments.http
        metrics, sink = _observability(arguments)
        self._backend = ServeBackend()
        domain = load_domain(arguments.tools.domain)
        tool_service = domain.open_tool_service(arguments.shop, root / SHOP, root / SHOP_SEED)
        guardrails = _guardrails(arguments)
        self._passage_search = PassageSearch(root / INDEXES, root / INDEX_TABLES, self._embed, guardrails)
        tool_loop = ToolLoop(self._backend, tool_service.call, arguments.tools, guardrails)
        load_shedding = LoadShedding(tool_loop, arguments.room)
        instructions = Instructions(open_registry(root))
        steps = Steps(
            input_guard=InputGuard(guardrails),
            answer_cache=AnswerCache(arguments.cache, metrics, time.monotonic, self._embed),
            passage_search=self._passage_search,
            backend=load_shedding,
            output_guard=OutputGuard(guardrails, tool_service.check_answer, instructions),
            # Copies bypass load shedding and the tool loop: they do not count as load, and run no tools.
            shadow_traffic=ShadowTraffic(self._backend, arguments.shadow, sink, metrics, lambda: load_shedding.open),
        )
        self._chat_service = ChatService(
            settings=ChatServiceSettings(arguments.limits, arguments.timeouts, arguments.fallback),
            steps=steps,
            keys=keys,
            pseudonyms=Pseudonyms.open(root / VISITORS_KEY),
            sink=sink,
            metrics=metrics,
        )
        self._embedding_service = EmbeddingService(self._chat_service, self._backend)

    async def _embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Embeddings by the served retrieval model, for the semantic cache and for retrieval."""
        served = self._chat_service.routing.embedding
        if served is None:
            raise GraftError("no retrieval model is served; run the stage `embedding` and deploy again")
        result = await self._backend.embed(served.app, tuple(texts))
        if isinstance(result, Refusal):
            raise GraftError(result.message)
        return result.vectors

    def __serve_build_asgi_app__(self) -> FastAPI:
        app = create_app(self._chat_service, self._embedding_service)
        app.add_middleware(CrossOriginGuard, self._http, keyed=self._chat_service.keys.required)
        return app

    async def reconfigure(self, config: dict[str, Any]) -> None:
        """Serve calls this with the new `user_config`. Indexes are opened before the routing changes."""
        routing = Routing.model_validate(config)
        await asyncio.to_thread(self._passage_search.keep, _searchable(routing))
        self._chat_service.routing = routing


def _observability(arguments: AssistantArguments) -> tuple[RayMetrics, Sink]:
    """The metrics, and the sink that writes a telemetry row and counts it."""
    metrics = RayMetrics()
    writer = TelemetryWriter(arguments.telemetry.rows_per_part, Path(arguments.root) / TELEMETRY)

    def sink(row: TelemetryRow) -> None:
        metrics.answer(row)
        writer.append(row)

    return metrics, sink


def _searchable(routing: Routing) -> set[Grounding]:
    """The indexes of the served packages that the served retrieval model can search."""
    groundings = {served.grounding for served in routing.served.values() if served.grounding}
    embedding = routing.embedding.digest if routing.embedding else None
    foreign = {grounding for grounding in groundings if grounding.embedding != embedding}
    for grounding in foreign:
        _LOG.error("index %s was made with another retrieval model: no passages for its packages", grounding.index)
    return groundings - foreign


def _guardrails(arguments: AssistantArguments) -> Guardrails:
    """The checks of `params.yaml`; without a classifier those that need none."""
    folder = Path(arguments.root) / CLASSIFIERS / arguments.classifier if arguments.classifier else None
    classifier = open_classifier(folder) if folder else None
    return configured_guardrails(arguments.safety, classifier)
