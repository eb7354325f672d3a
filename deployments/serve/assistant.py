"""The assistant's Ray Serve deployment: HTTP, and which packages it routes to."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from fastapi import FastAPI
from numpy.typing import NDArray
from ray import serve

from deployments.app.access.api_keys import ApiKeys, read_keys
from deployments.app.access.pseudonyms import Pseudonyms
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
from deployments.app.turn import ChatService, Steps
from deployments.core.loopback import stay_on_loopback
from deployments.core.messages import Refusal
from deployments.core.settings import (
    CacheSettings,
    FallbackSettings,
    HttpReplicaSettings,
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
    """What the assistant is built from."""

    root: str
    room: int
    tools: ToolSettings
    shop: ShopSettings
    safety: GuardrailSettings
    classifier: str | None
    timeouts: Timeouts
    assistant: HttpReplicaSettings
    limits: LimitSettings
    fallback: FallbackSettings
    cache: CacheSettings
    shadow: ShadowSettings
    telemetry: TelemetrySettings


@serve.ingress()
class Assistant:
    """The HTTP side. `reconfigure` swaps what is served without a restart or a lost request."""

    def __init__(self, arguments: AssistantArguments) -> None:
        stay_on_loopback()
        writer = TelemetryWriter(arguments.telemetry.rows_per_part, Path(arguments.root) / TELEMETRY)
        keys = ApiKeys(read_keys())
        self._backend = ServeBackend()
        meters = RayMetrics()

        def told(row: TelemetryRow) -> None:
            meters.answer(row)
            writer.append(row)

        root = Path(arguments.root)
        domain = load_domain(arguments.tools.domain)
        tool_service = domain.open_tool_service(arguments.shop, root / SHOP, root / SHOP_SEED)
        safety = _safety(arguments)
        self._retrieval = PassageSearch(root / INDEXES, root / INDEX_TABLES, self._embed, safety)

        leaving = OutputGuard(safety, tool_service.check_answer, Instructions(open_registry(root)))
        doors = LoadShedding(ToolLoop(self._backend, tool_service.call, arguments.tools, safety), arguments.room)
        # Beside the doors and the rounds: it counts for nothing there, and runs no tools.
        shadows = ShadowTraffic(self._backend, arguments.shadow, told, meters, lambda: doors.open)
        self._turns = ChatService(
            doors,
            told,
            keys,
            Pseudonyms.open(root / VISITORS_KEY),
            arguments.limits,
            arguments.timeouts,
            arguments.fallback,
            arguments.cache,
            meters,
            Steps(InputGuard(safety), self._retrieval, leaving),
            self._embed,
            shadows=shadows,
        )
        self._embeddings = EmbeddingService(self._turns, self._backend)

    async def _embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """What the cache compares questions by, and what passages are looked up with."""
        served = self._turns.routing.embedding
        if served is None:
            raise GraftError("no retrieval model is served; run the stage `embedding` and deploy again")
        found = await self._backend.embed(served.app, tuple(texts))
        if isinstance(found, Refusal):
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


def _safety(arguments: AssistantArguments) -> Guardrails:
    """The checks that `params.yaml` asks for; without a classifier those that need none."""
    folder = Path(arguments.root) / CLASSIFIERS / arguments.classifier if arguments.classifier else None
    classifier = open_classifier(folder) if folder else None
    return configured_guardrails(arguments.safety, classifier)
