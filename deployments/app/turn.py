"""Chat service: the request pipeline of a turn, from authentication to telemetry.

    API key -> body -> parsing -> routes to the model (a canary's users have one more) -> rate limits ->
    input guard -> answer cache -> retrieval begins -> the first route that answers, with its tool loop ->
    output guard (checks, answer rules) -> response (content and tool calls) -> telemetry -> shadow traffic

`ChatService._answer` is that order. Retrieval runs beside the model; the lookup tool and the output
guard wait for it. The model id in every answer is the digest of the package that gave it.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import Any

from starlette.background import BackgroundTask
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from deployments.app.access.api_keys import ApiKeys
from deployments.app.access.pseudonyms import Pseudonyms
from deployments.app.access.rate_limits import RateLimits
from deployments.app.cache.answer_cache import AnswerCache, CacheLookup
from deployments.app.guardrails.refusal import FINISH_REASON
from deployments.app.openai.errors import ApiError
from deployments.app.openai.protocol import Api, R, Writer
from deployments.app.openai.requests import parse_request
from deployments.app.routing.fallback import Fallback, PendingTurn
from deployments.app.routing.routing import Route, Routing
from deployments.app.routing.timeouts import Timeouts
from deployments.app.routing.traffic_split import user_bucket_key
from deployments.app.shadow import ShadowCopy, ShadowTraffic
from deployments.app.steps.input_checks import InputGuard
from deployments.app.steps.output_checks import OutputGuard
from deployments.app.steps.retrieval import PassageSearch
from deployments.app.steps.tool_loop import PackageBackend
from deployments.app.turn_record import Sink, TurnRecord
from deployments.core.messages import Delta, Event, Events, Refusal, TurnEnd, TurnRequest
from deployments.core.metrics import Metrics
from deployments.core.settings import FallbackSettings, LimitSettings
from tasks.engine.protocol import Generation
from tasks.prompt.tool_calls import ParsedAnswer

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class Steps:
    """The steps of a turn, in the order in which a request passes them."""

    input_guard: InputGuard
    """Guardrails on the customer's text and on the results of the client's own tools."""
    answer_cache: AnswerCache
    """Answers to repeated requests; a hit skips the model."""
    passage_search: PassageSearch
    """Retrieval, which runs beside the model."""
    backend: PackageBackend
    """The served packages, behind the tool loop, and in service behind load shedding."""
    output_guard: OutputGuard
    """Guardrails and answer rules on every answer of a model."""
    shadow_traffic: ShadowTraffic | None = None
    """Copies of answered requests for the shadow; None: there is none."""


@dataclass(frozen=True)
class ChatServiceSettings:
    """The bounds of a chat service, from `serve.yaml`."""

    limits: LimitSettings
    """Rate limits of each API key, and the longest body."""
    timeouts: Timeouts
    """Time to the first token, and for the whole request."""
    fallback: FallbackSettings
    """The order of routes, with retries, circuit breakers and the static message."""


class ChatService:
    """Answers requests for text for as long as the process lives; `routing` may be replaced at any time.

    Args:
        settings: its bounds.
        steps: the steps of a turn.
        keys: the API keys.
        pseudonyms: names users in telemetry.
        sink: receives the telemetry rows.
        metrics: counts events.
        clock: monotonic seconds, for circuit breakers and the retry budget.
    """

    def __init__(
        self,
        *,
        settings: ChatServiceSettings,
        steps: Steps,
        keys: ApiKeys,
        pseudonyms: Pseudonyms,
        sink: Sink,
        metrics: Metrics,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.keys = keys
        self.limits = RateLimits(settings.limits)
        self.body_bytes = settings.limits.body_bytes
        self.timeouts = settings.timeouts
        self._pseudonyms = pseudonyms
        self._routing = Routing()
        self._sink = sink
        self._route_order = settings.fallback.production
        self._fallback = Fallback(steps.backend, settings.fallback, settings.timeouts, metrics, clock)
        self._steps = steps

    @property
    def routing(self) -> Routing:
        """The packages that are served, and their roles."""
        return self._routing

    @routing.setter
    def routing(self, routing: Routing) -> None:
        self._routing = routing
        self._fallback.keep(set(routing.served))
        self._steps.answer_cache.keep(set(routing.served))

    def record(self, operation: str) -> TurnRecord:
        """The telemetry record of a new request."""
        return TurnRecord(self._sink, operation)

    async def answer(self, http_request: Request, api: Api[R]) -> Response:
        """Answer one request; every outcome is a response and a telemetry row."""
        record = self.record(api.operation)
        return await answered(record, self._answer(record, http_request, api))

    async def _answer(self, record: TurnRecord, http_request: Request, api: Api[R]) -> Response:
        arrived = asyncio.get_running_loop().time()
        record.owner = self.keys.owner(http_request.headers.get("authorization"))
        body = await read_body(http_request, self.body_bytes)
        api_request = parse_request(api.request, body)
        record.stream = bool(api_request.stream)
        key = _idempotency_key(record, http_request.headers.get("idempotency-key"))
        request = replace(api_request.to_turn_request(), key=key)
        user_key = user_bucket_key(record.owner, request)
        record.visitor = self._pseudonyms.pseudonym(user_key)
        routing = self.routing
        routes = routing.routes(api_request.model, self._route_order, user_key)
        record.set_intended_route(routes[0])
        served = routing.served[record.route.digest]
        max_new_tokens = served.new_tokens(request.sampling.max_new_tokens)
        record.permit = self.limits.admit(record.owner, len(body), max_new_tokens)
        checked_input = await self._steps.input_guard.check(request)
        record.add_findings(checked_input)
        request = checked_input.request
        shadow_copy: ShadowCopy | None = None
        if checked_input.refusal:
            events = refuse(checked_input.refusal)
        else:
            shadow_copy = self._shadow_copy(routing, record, request)
            cache_control = http_request.headers.get("cache-control", "")
            lookup = await self._steps.answer_cache.look_up(record.owner, record.route.digest, request, cache_control)
            record.cache = lookup.result
            if lookup.answer:
                events = lookup.events()
            else:
                record.passages = self._steps.passage_search.begin(served.grounding, request)
                request = replace(request, whole=not record.stream)
                turn = PendingTurn(request, record.passages, arrived, record.count_tokens, record.reset)
                events = await self._events(record, routes, turn, lookup, shadow_copy)
        writer = api.writer(api_request, record.head)
        response = await (_stream if api_request.stream else _whole)(record, writer, events)
        if shadow_copy and self._steps.shadow_traffic:
            response.background = BackgroundTask(self._steps.shadow_traffic.begin, shadow_copy)
        return response

    def _shadow_copy(self, routing: Routing, record: TurnRecord, request: TurnRequest) -> ShadowCopy | None:
        return self._steps.shadow_traffic.choose(routing, record, request) if self._steps.shadow_traffic else None

    async def _events(
        self,
        record: TurnRecord,
        routes: Sequence[Route],
        turn: PendingTurn,
        lookup: CacheLookup,
        shadow_copy: ShadowCopy | None,
    ) -> Events:
        """The turn's events, from the first route that answers."""
        routed = await self._fallback.open(routes, turn)
        record.set_route(routed)
        digest = routed.route.digest
        events = shadow_copy.watch(routed) if shadow_copy else routed.events
        events = self._steps.output_guard.guard(events, turn.request, turn.passages, digest, record.checks)
        return self._steps.answer_cache.keeping(lookup, digest, events, turn.passages)


async def refuse(words: str) -> Events:
    """A turn that the input guard refused before a model ran."""
    generation = Generation(words, (), 0, FINISH_REASON, 0.0, 0.0)
    yield TurnEnd(generation, ParsedAnswer(words, (), True), None, 0.0)


def _idempotency_key(record: TurnRecord, header: str | None) -> str:
    """The request's key: the same whenever its client sends it again with the same header."""
    return f"{record.owner}:{header}" if header else record.trace_id


async def answered(record: TurnRecord, work: Awaitable[Response]) -> Response:
    """The response that `work` returns, or the error response if it raises; both write a telemetry row."""
    try:
        return await work
    except ApiError as error:
        return _failed(record, error)
    except asyncio.CancelledError:
        record.client_closed()
        raise
    except Exception:  # an internal error is logged, and the client still gets a readable body
        _LOG.exception("turn %s failed", record.trace_id)
        return _failed(record, ApiError(500, "internal_error", f"this is our fault; trace {record.trace_id}"))


async def read_body(http_request: Request, limit: int) -> bytes:
    """The request's body, which is read up to `limit` bytes only.

    A web page may send a body of another type to any address without asking first, so only JSON is read.

    Raises:
        ApiError: 413 or 415.
    """
    kind = http_request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        raise ApiError(415, "unsupported_media_type", f"send application/json as Content-Type, not {kind[:50]!r}")
    body = bytearray()
    async for part in http_request.stream():
        body += part
        if len(body) > limit:
            raise ApiError(413, "request_too_large", f"the request's body has more than {limit} bytes")
    return bytes(body)


async def _whole(record: TurnRecord, writer: Writer, events: Events) -> Response:
    """Wait for the end of the turn and answer with one body.

    Raises:
        ApiError: the turn was refused, or failed.
    """
    async with aclosing(events):
        event = await anext(events)
        while isinstance(event, Delta):
            record.count_tokens(event)
            event = await anext(events)
    if isinstance(event, Refusal):
        raise ApiError.refused(event)
    body = writer.whole(event)
    record.finish(event)
    return JSONResponse(body, headers=record.headers)


async def _stream(record: TurnRecord, writer: Writer, events: Events) -> Response:
    """Answer with a stream once the first event is there: until then a failure has its own HTTP status.

    Raises:
        ApiError: the turn was refused, or failed before its first token.
    """
    first = await anext(events)
    if isinstance(first, Refusal):
        raise ApiError.refused(first)
    record.count_tokens(first)
    return _EventStream(record, events, _lines(record, writer, first, events))


class _EventStream(StreamingResponse):
    """Server-sent events that record when the client disconnects, even before the first was sent."""

    def __init__(self, record: TurnRecord, events: Events, lines: AsyncIterator[str]) -> None:
        headers = {**record.headers, "cache-control": "no-cache", "x-accel-buffering": "no"}
        super().__init__(lines, headers=headers, media_type="text/event-stream")
        self._record = record
        self._events = events

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._record.client_closed()
            await self._events.aclose()


async def _lines(record: TurnRecord, writer: Writer, first: Event, events: Events) -> AsyncIterator[str]:
    """The turn as server-sent events, in the writer's order."""
    for body in writer.begin():
        yield _sse(body)
    event = first
    while isinstance(event, Delta):
        record.count_tokens(event)
        for body in writer.add(event):
            yield _sse(body)
        event = await anext(events)
    if isinstance(event, Refusal):
        record.fail(event.status, event.code)
        yield _sse(ApiError.refused(event).body)
        return
    for body in writer.end(event):
        yield _sse(body)
    record.finish(event)
    yield "data: [DONE]\n\n"


def _sse(body: dict[str, Any]) -> str:
    return f"data: {json.dumps(body, ensure_ascii=False, separators=(',', ':'))}\n\n"


def _failed(record: TurnRecord, error: ApiError) -> Response:
    record.fail(error.status, error.code)
    return JSONResponse(error.body, error.status, headers={**record.headers, **error.headers})
