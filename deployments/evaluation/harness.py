"""The whole assistant in this process, so that it can be measured: its real turns, without Ray and a port.

`Trial` takes turns over HTTP in memory through the same `Turns` that serve, watches from outside
what they did, said and read, and audits it. Each turn has a copy of the domain's state, as it was
seeded, so no turn changes what another finds.
"""

from __future__ import annotations

import asyncio
import json
import uuid
from collections import defaultdict
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from deployments.app.access.api_keys import ApiKeys
from deployments.app.access.pseudonyms import Pseudonyms
from deployments.app.embeddings import EmbeddingService
from deployments.app.guardrails.checks import Guardrails
from deployments.app.routes import create_app
from deployments.app.routing.routing import Routing, ServedPackage
from deployments.app.routing.timeouts import Timeouts
from deployments.app.steps.input_checks import InputGuard
from deployments.app.steps.output_checks import OutputGuard
from deployments.app.steps.retrieval import PassageSearch, PendingPassages
from deployments.app.steps.tool_loop import ToolLoop
from deployments.app.turn import ChatService, Steps
from deployments.app.turn_record import TRACE_HEADER
from deployments.core.messages import Backend, EmbeddingResult, Refusal, TurnRequest
from deployments.core.settings import BreakerSettings, CacheSettings, FallbackSettings, LimitSettings, RetrySettings
from deployments.evaluation.sandbox import Sandbox, TurnTrace, turn_id
from deployments.replicas.embedding import EmbeddingServer
from tasks.core.errors import GraftError
from tasks.core.records import ToolCall
from tasks.core.settings import ToolSettings
from tasks.evaluation.assistant_turns import EvalTurn, ObservedTurn
from tasks.model_package.manifest import Grounding
from tasks.monitoring.telemetry_row import TelemetryRow
from tasks.retrieval.embedder import Vectors
from tasks.tools.domain_interface import ToolAnswer
from tasks.tools.toolbox import Failure

# Nobody waits and nobody is turned away: what is measured is the answer, not the house's patience.
_NO_END_S = 3600.0
_ENDLESS = 10**9
_LIMITS = LimitSettings(requests_per_minute=_ENDLESS, tokens_per_minute=_ENDLESS, streams=_ENDLESS, body_bytes=10**6)
_NO_CACHE = CacheSettings(mb=0, max_age_s=1, semantic=False, threshold=1, entries=1)
_ONE_ROUTE = FallbackSettings(
    production=("production",),
    first_token_s=_NO_END_S,
    words="-",
    retries=RetrySettings(attempts=1, backoff_s=1, share=0, per_minute=1),
    breaker=BreakerSettings(window_s=1, min_calls=_ENDLESS, failure_share=1, open_s=1),
)


@dataclass(frozen=True)
class PackageUnderTest:
    """What is tried: a package by its digest, what it tells its model, and what it is grounded in."""

    digest: str
    name: str
    max_new_tokens: int
    instructions: tuple[str, ...]
    grounding: Grounding | None


@dataclass(frozen=True)
class Knowledge:
    """Where published indexes lie, where their tables may be made, and the retrieval model, if there is one."""

    indexes: Path
    tables: Path
    embedder: EmbeddingServer | None


class _Watched(PassageSearch):
    """Retrieval that notes what each turn read."""

    def __init__(self, notes: dict[str, TurnTrace], *arguments: Any) -> None:
        super().__init__(*arguments)
        self._traces = notes

    def begin(self, grounding: Grounding | None, ask: TurnRequest) -> PendingPassages:
        """See `Retrieval.begin`."""
        reading = super().begin(grounding, ask)
        self._traces[turn_id(ask.key)].passages = reading
        return reading


class AssistantHarness:
    """Takes turns.

    Args:
        backend: the engine, which has one application.
        package: whose engine that is.
        knowledge: what it may read.
        sandbox: the domain's tools, for each turn on a state of its own.
        safety: the checks.
        settings: the tool loop's.
    """

    def __init__(
        self,
        backend: Backend,
        package: PackageUnderTest,
        knowledge: Knowledge,
        sandbox: Sandbox,
        safety: Guardrails,
        settings: ToolSettings,
    ) -> None:
        self._package, self._sandbox = package, sandbox
        self._embedder = knowledge.embedder
        self._rows: dict[str, TelemetryRow] = {}
        self._traces: dict[str, TurnTrace] = defaultdict(TurnTrace)
        retrieval = _Watched(self._traces, knowledge.indexes, knowledge.tables, self._embed, safety)
        retrieval.keep([package.grounding] if package.grounding else [])
        turns = ChatService(
            ToolLoop(backend, self._use, settings, safety),
            lambda row: self._rows.__setitem__(row.trace_id, row),
            ApiKeys({}),
            Pseudonyms(b"rows that nobody keeps"),
            _LIMITS,
            Timeouts(first_token_s=_NO_END_S, request_s=_NO_END_S),
            _ONE_ROUTE,
            _NO_CACHE,
            NoMetrics(),
            Steps(
                InputGuard(safety), retrieval, OutputGuard(safety, sandbox.check_answer, lambda _: package.instructions)
            ),
        )
        served = ServedPackage(
            app="engine", name=package.name, max_new_tokens=package.max_new_tokens, since=0, grounding=package.grounding
        )
        turns.routing = Routing(production=package.digest, served={package.digest: served})
        self._app = create_app(turns, EmbeddingService(turns, _Nowhere()))

    @asynccontextmanager
    async def _http(self) -> AsyncIterator[httpx.AsyncClient]:
        transport = httpx.ASGITransport(self._app)
        async with httpx.AsyncClient(transport=transport, base_url="http://desk/v1", timeout=None) as http:
            yield http

    async def take(self, asked: EvalTurn, *, stream: bool) -> ObservedTurn:
        """Take one turn and audit it. A turn that fails has another status and no text."""
        key = uuid.uuid4().hex
        messages = [{"role": message.role, "content": message.content} for message in asked.messages]
        body = {"model": "production", "messages": messages, "stream": stream}
        body |= {"user": asked.customer} if asked.customer else {}
        async with self._http() as http:
            response = await http.post("/chat/completions", json=body, headers={"idempotency-key": key})
        row = self._rows.pop(response.headers[TRACE_HEADER])
        notes = self._traces.pop(key, TurnTrace())
        text, finish_reason, cited = _answer(response) if response.status_code == 200 else ("", "", [])
        chunks = {chunk.id: chunk.section for chunk in notes.found.shown}
        return ObservedTurn(
            id=asked.id,
            status=row.status,
            text=text,
            finish_reason=finish_reason,
            blocked_by=row.blocked_by,
            calls=tuple(call for call, _ in notes.calls),
            outcomes=tuple(_outcome(answered) for _, answered in notes.calls),
            given=tuple(chunks.values()),
            cited=tuple(chunks[chunk] for chunk in cited),
            violations=await asyncio.to_thread(self._audit, key, asked, notes, text),
            latency_ms=row.latency_ms,
            queue_ms=row.queue_ms or 0.0,
            engine_ms=row.engine_ms or 0.0,
        )

    async def take_all(
        self, asked: Sequence[tuple[EvalTurn, bool]], at_once: int
    ) -> AsyncIterator[tuple[int, ObservedTurn]]:
        """Take turns, each with whether it is streamed, `at_once` of them together; each with its place, as it ends."""
        free = asyncio.Semaphore(at_once)

        async def one(place: int, turn: EvalTurn, stream: bool) -> tuple[int, ObservedTurn]:
            async with free:
                return place, await self.take(turn, stream=stream)

        for ended in asyncio.as_completed([one(place, *turn) for place, turn in enumerate(asked)]):
            yield await ended

    def _use(self, call: ToolCall, customer: str | None, key: str) -> ToolAnswer:
        answered = self._sandbox.call(call, customer, key)
        self._traces[turn_id(key)].calls.append((call, answered))
        return answered

    def _audit(self, key: str, asked: EvalTurn, notes: TurnTrace, text: str) -> tuple[str, ...]:
        user_messages = tuple(message.content for message in asked.messages if message.role == "user")
        calls = tuple(call for call, _ in notes.calls)
        return self._sandbox.audit(key, text, calls, notes.evidence(asked.customer, user_messages))

    async def _embed(self, texts: Sequence[str]) -> Vectors:
        found = await self._embedder.embed(tuple(texts)) if self._embedder else None
        if not isinstance(found, EmbeddingResult):
            raise GraftError(found.message if found else "no retrieval model")
        return found.vectors


def _outcome(answered: ToolAnswer) -> str:
    return answered.result.error if isinstance(answered.result, Failure) else "ok"


def _answer(response: httpx.Response) -> tuple[str, str, list[str]]:
    """All that a client was sent: the text, why it ended, and the chunks that were cited."""
    streamed = response.headers["content-type"].startswith("text/event-stream")
    lines = (line.removeprefix("data: ") for line in response.text.splitlines() if line) if streamed else ()
    bodies = [json.loads(line) for line in lines if line != "[DONE]"] if streamed else [response.json()]
    choices: list[dict[str, Any]] = [body["choices"][0] for body in bodies if "choices" in body]
    parts = [choice.get("delta") or choice.get("message") or {} for choice in choices]
    cited = [one["url_citation"]["url"] for part in parts for one in part.get("annotations", ())]
    return "".join(part.get("content") or "" for part in parts), choices[-1]["finish_reason"] or "", cited


class NoMetrics:
    """`Metrics` that count nothing."""

    def route_attempt(self, route: str, outcome: str) -> None:
        """See `Metrics.route_attempt`."""

    def retry(self, route: str, granted: bool) -> None:
        """See `Metrics.retry`."""

    def breaker_state(self, model: str, state: str) -> None:
        """See `Metrics.breaker_state`."""

    def cache_lookup(self, result: str) -> None:
        """See `Metrics.cache_lookup`."""


class _Nowhere:
    """No retrieval model is served: turns have theirs in this process."""

    async def embed(self, app: str, texts: tuple[str, ...]) -> EmbeddingResult | Refusal:
        """See `EmbeddingBackend.embed`."""
        return Refusal(404, "model_not_found", f"{app} embeds none of {len(texts)} texts")
