"""In-process assistant for tests: packages that answer by a script, and a clock that is set by hand."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from numpy.typing import NDArray

from deployments.app.access.api_keys import ApiKeys
from deployments.app.access.pseudonyms import Pseudonyms
from deployments.app.cache.answer_cache import AnswerCache
from deployments.app.embeddings import EmbeddingService
from deployments.app.guardrails.checks import Guardrails
from deployments.app.routes import create_app
from deployments.app.routing.routing import Routing, ServedPackage
from deployments.app.routing.timeouts import Timeouts
from deployments.app.shadow import ShadowTraffic
from deployments.app.steps.input_checks import InputGuard
from deployments.app.steps.output_checks import AnswerRules, OutputGuard
from deployments.app.steps.retrieval import FoundPassages, PassageSearch, PendingPassages
from deployments.app.steps.tool_loop import RunTool, ToolLoop
from deployments.app.turn import ChatService, ChatServiceSettings, Steps
from deployments.core.messages import Delta, Embedder, EmbeddingResult, Event, Refusal, TurnEnd, TurnRequest
from deployments.core.settings import (
    BreakerSettings,
    CacheSettings,
    FallbackSettings,
    LimitSettings,
    RetrySettings,
    ShadowSettings,
)
from deployments.replicas.embedding import EmbeddingServer
from tasks.core.errors import GraftError
from tasks.core.settings import ToolSettings
from tasks.engine.protocol import Generation
from tasks.evaluation.response_features import measure_response
from tasks.monitoring.telemetry_row import TelemetryRow
from tasks.prompt.tool_calls import ParsedAnswer

NEW, OLD = "a" * 64, "b" * 64
WORDS = "Please try again later."
ALL = ("production", "previous", "words")
RETRIES = RetrySettings(attempts=2, backoff_s=0.001, ratio=0.1, per_minute=60)
BREAKER = BreakerSettings(window_s=10, min_calls=2, failure_ratio=0.5, open_s=30)
LIMITS = LimitSettings(requests_per_minute=1000, tokens_per_minute=100000, streams=10, body_bytes=100000)
TIMEOUTS = Timeouts(first_token_s=20, request_s=30)
NO_CACHE = CacheSettings(mb=0, max_age_s=1, semantic=False, threshold=1, entries=1)

UNCHECKED = Guardrails((), {})


@dataclass(frozen=True)
class Guards:
    """The steps around the model."""

    input_guard: InputGuard
    passage_search: PassageSearch
    output_guard: OutputGuard


def guards(
    guardrails: Guardrails = UNCHECKED,
    answer_rules: AnswerRules = lambda text, evidence: (),
    instructions: Sequence[str] = (),
) -> Guards:
    """Without arguments nothing is checked; there are no documents to search."""

    async def embed(texts: Sequence[str]) -> NDArray[np.float32]:
        raise GraftError(f"no retrieval model here for {len(texts)} texts")

    passage_search = PassageSearch(Path("indexes"), Path("tables"), embed, guardrails)
    output_guard = OutputGuard(guardrails, answer_rules, lambda _: instructions)
    return Guards(InputGuard(guardrails), passage_search, output_guard)


def unsearched() -> PendingPassages:
    """The retrieval of a turn for which nothing is searched."""

    async def nothing() -> FoundPassages:
        return FoundPassages()

    return PendingPassages(nothing())


Script = Callable[[TurnRequest], AsyncGenerator[Event]]


@dataclass
class Clock:
    now: float = 0.0

    def __call__(self) -> float:
        return self.now


@dataclass
class ScriptedBackend:
    """Each request to an application plays the next of its scripts; the last one repeats."""

    scripts: dict[str, list[Script]]
    apps: list[str] = field(default_factory=list)
    requests: list[TurnRequest] = field(default_factory=list)
    embedder: EmbeddingServer | None = None

    def stream(
        self, app: str, request: TurnRequest, pending_passages: PendingPassages | None = None
    ) -> AsyncGenerator[Event]:
        self.apps.append(app)
        self.requests.append(request)
        scripts = self.scripts[app]
        return (scripts.pop(0) if len(scripts) > 1 else scripts[0])(request)

    async def embed(self, app: str, texts: tuple[str, ...]) -> EmbeddingResult | Refusal:
        if self.embedder is None:
            return Refusal(503, "engine_unavailable", f"{app} embeds none of {len(texts)} texts")
        return await self.embedder.embed(texts)


@dataclass
class RecordedMetrics:
    """`Metrics` that record their events."""

    events: list[tuple[str, ...]] = field(default_factory=list)

    def route_attempt(self, route: str, outcome: str) -> None:
        self.events.append(("route_attempt", route, outcome))

    def retry(self, route: str, granted: bool) -> None:
        self.events.append(("retry", route, str(granted)))

    def breaker_state(self, model: str, state: str) -> None:
        self.events.append(("breaker_state", model, state))

    def cache_lookup(self, result: str) -> None:
        self.events.append(("cache_lookup", result))


def answers(text: str) -> Script:
    """`text` in two deltas."""

    async def script(request: TurnRequest) -> AsyncGenerator[Event]:
        generation = Generation(text, tuple(range(5)), 7, "stop", 1.0, 2.0)
        answer = ParsedAnswer(text, (), True)
        yield Delta(text[:2], 7, 2)
        yield Delta(text[2:], 7, 5)
        yield TurnEnd(generation, answer, measure_response(request.messages, generation, answer, (), ()), 3.0)

    return script


def refuses(status: int, code: str, after: str = "") -> Script:
    """A refusal, in the middle of an answer if it began with `after`."""

    async def script(_: TurnRequest) -> AsyncGenerator[Event]:
        if after:
            yield Delta(after, 7, 1)
        yield Refusal(status, code, f"refused: {code}")

    return script


PSEUDONYMS = Pseudonyms(b"the installation's")


class ScriptedAssistant:
    """The assistant with a package in production and the previous one, each answering by its scripts."""

    def __init__(
        self,
        new: list[Script],
        *,
        order: Any = ALL,
        retries: RetrySettings = RETRIES,
        cache: CacheSettings = NO_CACHE,
        embed: Embedder | None = None,
        keys: dict[str, str] | None = None,
        run_tool: RunTool | None = None,
        tools: ToolSettings | None = None,
        around: Guards | None = None,
        shadow: ShadowSettings | None = None,
        first_token_s: float = 0.3,
        limits: LimitSettings = LIMITS,
        timeouts: Timeouts = TIMEOUTS,
    ) -> None:
        around = around or guards()
        self.backend = ScriptedBackend({"new": new, "old": [answers("From the old one.")]})
        self.rows: list[TelemetryRow] = []
        self.metrics = RecordedMetrics()
        self.clock = Clock()
        self.load, self.random_number = 0, 0.0
        fallback = FallbackSettings(
            production=order, first_token_s=first_token_s, static_message=WORDS, retries=retries, breaker=BREAKER
        )
        guardrails = around.input_guard.guardrails
        self.turns = ChatService(
            settings=ChatServiceSettings(limits, timeouts, fallback),
            steps=Steps(
                input_guard=around.input_guard,
                answer_cache=AnswerCache(cache, self.metrics, self.clock, embed),
                passage_search=around.passage_search,
                backend=ToolLoop(self.backend, run_tool, tools, guardrails) if run_tool and tools else self.backend,
                output_guard=around.output_guard,
                shadow_traffic=self._shadow_traffic(shadow) if shadow else None,
            ),
            keys=ApiKeys(keys or {}),
            pseudonyms=PSEUDONYMS,
            sink=self.rows.append,
            metrics=self.metrics,
            clock=self.clock,
        )
        served = {
            digest: ServedPackage(app=app, name="tulip", max_new_tokens=50, since=1)
            for digest, app in ((NEW, "new"), (OLD, "old"))
        }
        self.turns.routing = Routing(production=NEW, previous=OLD, served=served)
        self.app = create_app(self.turns, EmbeddingService(self.turns, self.backend))

    def _shadow_traffic(self, settings: ShadowSettings) -> ShadowTraffic:
        sink = self.rows.append
        return ShadowTraffic(self.backend, settings, sink, self.metrics, lambda: self.load, lambda: self.random_number)

    def http(self) -> httpx.AsyncClient:
        return httpx.AsyncClient(transport=httpx.ASGITransport(self.app), base_url="http://assistant")

    async def post(
        self, model: str = "production", headers: dict[str, str] | None = None, **options: Any
    ) -> httpx.Response:
        body = {"model": model, "messages": [{"role": "user", "content": "Hello?"}], **options}
        async with self.http() as http:
            return await http.post("/v1/chat/completions", json=body, headers=headers)

    async def whole(self, **options: Any) -> tuple[str, str]:
        answer = (await self.post(**options)).json()
        return answer["model"], answer["choices"][0]["message"]["content"]
