"""Evaluation harness: the whole assistant in one process, without Ray and a port, for end-to-end evaluation.

`AssistantHarness` sends turns over in-memory HTTP through the same `ChatService` that serves, records
each turn's tool calls, passages and text from outside, and audits them. Each turn has its own copy of
the domain's seeded state, so turns do not affect each other.
"""

from __future__ import annotations

import asyncio
import json
import time
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
from deployments.app.cache.answer_cache import AnswerCache
from deployments.app.embeddings import EmbeddingService
from deployments.app.guardrails.checks import Guardrails
from deployments.app.routes import create_app
from deployments.app.routing.routing import Routing, ServedPackage
from deployments.app.routing.timeouts import Timeouts
from deployments.app.steps.input_checks import InputGuard
from deployments.app.steps.output_checks import OutputGuard
from deployments.app.steps.retrieval import PassageSearch, PendingPassages
from deployments.app.steps.tool_loop import ToolLoop
from deployments.app.turn import ChatService, ChatServiceSettings, Steps
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

# No timeout and no refusal for load: only the answers are measured.
_NO_TIMEOUT_S = 3600.0
_UNLIMITED = 10**9
_LIMITS = LimitSettings(
    requests_per_minute=_UNLIMITED, tokens_per_minute=_UNLIMITED, streams=_UNLIMITED, body_bytes=10**6
)
_NO_CACHE = CacheSettings(mb=0, max_age_s=1, semantic=False, threshold=1, entries=1)
_ONE_ROUTE = FallbackSettings(
    production=("production",),
    first_token_s=_NO_TIMEOUT_S,
    static_message="-",
    retries=RetrySettings(attempts=1, backoff_s=1, ratio=0, per_minute=1),
    breaker=BreakerSettings(window_s=1, min_calls=_UNLIMITED, failure_ratio=1, open_s=1),
)
_SETTINGS = ChatServiceSettings(_LIMITS, Timeouts(first_token_s=_NO_TIMEOUT_S, request_s=_NO_TIMEOUT_S), _ONE_ROUTE)


@dataclass(frozen=True)
class PackageUnderTest:
    """The package that is evaluated."""

    digest: str
    """Its digest."""
    name: str
    """Its name in its manifest."""
    max_new_tokens: int
    """The most tokens of an answer."""
    instructions: tuple[str, ...]
    """Its system prompt and its tools' descriptions."""
    grounding: Grounding | None
    """Its index and retrieval model; None: it has none."""


@dataclass(frozen=True)
class Knowledge:
    """The knowledge base of the evaluation."""

    indexes: Path
    """Folder of the published indexes."""
    tables: Path
    """Folder for their tables."""
    embedder: EmbeddingServer | None
    """The retrieval model; None: there is none."""


class _TracedPassageSearch(PassageSearch):
    """Retrieval that records each turn's passages."""

    def __init__(self, traces: dict[str, TurnTrace], *arguments: Any) -> None:
        super().__init__(*arguments)
        self._traces = traces

    def begin(self, grounding: Grounding | None, request: TurnRequest) -> PendingPassages:
        """See `PassageSearch.begin`."""
        pending_passages = super().begin(grounding, request)
        self._traces[turn_id(request.key)].passages = pending_passages
        return pending_passages


class AssistantHarness:
    """Runs turns of one package and audits them.

    Args:
        backend: the engine, which has one application.
        package: the engine's package.
        knowledge: the knowledge base.
        sandbox: the domain's tools, for each turn on a state of its own.
        guardrails: the checks.
        settings: the settings of the tool loop.
    """

    def __init__(
        self,
        backend: Backend,
        package: PackageUnderTest,
        knowledge: Knowledge,
        sandbox: Sandbox,
        guardrails: Guardrails,
        settings: ToolSettings,
    ) -> None:
        self._sandbox = sandbox
        self._embedder = knowledge.embedder
        self._rows: dict[str, TelemetryRow] = {}
        self._traces: dict[str, TurnTrace] = defaultdict(TurnTrace)
        passage_search = _TracedPassageSearch(
            self._traces, knowledge.indexes, knowledge.tables, self._embed, guardrails
        )
        passage_search.keep([package.grounding] if package.grounding else [])
        metrics = NoMetrics()
        chat_service = ChatService(
            settings=_SETTINGS,
            steps=Steps(
                input_guard=InputGuard(guardrails),
                answer_cache=AnswerCache(_NO_CACHE, metrics, time.monotonic, None),
                passage_search=passage_search,
                backend=ToolLoop(backend, self._run_tool, settings, guardrails),
                output_guard=OutputGuard(guardrails, sandbox.check_answer, lambda _: package.instructions),
            ),
            keys=ApiKeys({}),
            pseudonyms=Pseudonyms(b"rows that are not stored"),
            sink=lambda row: self._rows.__setitem__(row.trace_id, row),
            metrics=metrics,
        )
        served = ServedPackage(
            app="engine", name=package.name, max_new_tokens=package.max_new_tokens, since=0, grounding=package.grounding
        )
        chat_service.routing = Routing(production=package.digest, served={package.digest: served})
        self._app = create_app(chat_service, EmbeddingService(chat_service, _NoEmbeddingBackend()))

    @asynccontextmanager
    async def _http(self) -> AsyncIterator[httpx.AsyncClient]:
        transport = httpx.ASGITransport(self._app)
        async with httpx.AsyncClient(transport=transport, base_url="http://assistant/v1", timeout=None) as http:
            yield http

    async def run_turn(self, eval_turn: EvalTurn, *, stream: bool) -> ObservedTurn:
        """Run and audit one turn. A turn that fails has another status and no text."""
        key = uuid.uuid4().hex
        messages = [{"role": message.role, "content": message.content} for message in eval_turn.messages]
        body = {"model": "production", "messages": messages, "stream": stream}
        body |= {"user": eval_turn.customer} if eval_turn.customer else {}
        async with self._http() as http:
            response = await http.post("/chat/completions", json=body, headers={"idempotency-key": key})
        row = self._rows.pop(response.headers[TRACE_HEADER])
        trace = self._traces.pop(key, TurnTrace())
        text, finish_reason, cited = _answer(response) if response.status_code == 200 else ("", "", [])
        sections = {passage.id: passage.section for passage in trace.found.shown}
        return ObservedTurn(
            id=eval_turn.id,
            status=row.status,
            text=text,
            finish_reason=finish_reason,
            blocked_by=row.blocked_by,
            calls=tuple(call for call, _ in trace.calls),
            outcomes=tuple(_outcome(answer) for _, answer in trace.calls),
            given=tuple(sections.values()),
            cited=tuple(sections[passage] for passage in cited),
            violations=await asyncio.to_thread(self._audit, key, eval_turn, trace, text),
            latency_ms=row.latency_ms,
            queue_ms=row.queue_ms or 0.0,
            engine_ms=row.engine_ms or 0.0,
        )

    async def run_turns(
        self, eval_turns: Sequence[tuple[EvalTurn, bool]], concurrency: int
    ) -> AsyncIterator[tuple[int, ObservedTurn]]:
        """Run turns concurrently, each with its index, as it ends.

        Args:
            eval_turns: the turns, each with whether it is streamed.
            concurrency: turns that run at a time.
        """
        slots = asyncio.Semaphore(concurrency)

        async def run(index: int, eval_turn: EvalTurn, stream: bool) -> tuple[int, ObservedTurn]:
            async with slots:
                return index, await self.run_turn(eval_turn, stream=stream)

        for ended in asyncio.as_completed([run(index, *turn) for index, turn in enumerate(eval_turns)]):
            yield await ended

    def _run_tool(self, call: ToolCall, customer: str | None, key: str) -> ToolAnswer:
        answer = self._sandbox.call(call, customer, key)
        self._traces[turn_id(key)].calls.append((call, answer))
        return answer

    def _audit(self, key: str, eval_turn: EvalTurn, trace: TurnTrace, text: str) -> tuple[str, ...]:
        user_messages = tuple(message.content for message in eval_turn.messages if message.role == "user")
        calls = tuple(call for call, _ in trace.calls)
        return self._sandbox.audit(key, text, calls, trace.evidence(eval_turn.customer, user_messages))

    async def _embed(self, texts: Sequence[str]) -> Vectors:
        result = await self._embedder.embed(tuple(texts)) if self._embedder else None
        if not isinstance(result, EmbeddingResult):
            raise GraftError(result.message if result else "no retrieval model")
        return result.vectors


def _outcome(answer: ToolAnswer) -> str:
    return answer.result.error if isinstance(answer.result, Failure) else "ok"


def _answer(response: httpx.Response) -> tuple[str, str, list[str]]:
    """The answer as the client received it: the text, its finish reason, and the ids of the cited passages."""
    streamed = response.headers["content-type"].startswith("text/event-stream")
    lines = (line.removeprefix("data: ") for line in response.text.splitlines() if line) if streamed else ()
    bodies = [json.loads(line) for line in lines if line != "[DONE]"] if streamed else [response.json()]
    choices: list[dict[str, Any]] = [body["choices"][0] for body in bodies if "choices" in body]
    parts = [choice.get("delta") or choice.get("message") or {} for choice in choices]
    cited = [annotation["url_citation"]["url"] for part in parts for annotation in part.get("annotations", ())]
    return "".join(part.get("content") or "" for part in parts), choices[-1]["finish_reason"] or "", cited


class NoMetrics:
    """`Metrics` that are not recorded."""

    def route_attempt(self, route: str, outcome: str) -> None:
        """See `Metrics.route_attempt`."""

    def retry(self, route: str, granted: bool) -> None:
        """See `Metrics.retry`."""

    def breaker_state(self, model: str, state: str) -> None:
        """See `Metrics.breaker_state`."""

    def cache_lookup(self, result: str) -> None:
        """See `Metrics.cache_lookup`."""


class _NoEmbeddingBackend:
    """An `EmbeddingBackend` without a model: the harness calls its retrieval model directly."""

    async def embed(self, app: str, texts: tuple[str, ...]) -> EmbeddingResult | Refusal:
        """See `EmbeddingBackend.embed`."""
        return Refusal(404, "model_not_found", f"{app} embeds none of {len(texts)} texts")
