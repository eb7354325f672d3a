"""What happens to a request, in one visible order.

    key -> body -> parse -> routes to the model (a canary's users have one more) -> limits ->
    intake (checks) -> cache -> retrieval begins -> the first route that answers, with its rounds of tools ->
    leaving (checks, rules for words) -> its writer (content and tool calls) -> telemetry -> the shadow

`Turns._answer` is that order. What retrieval finds is waited for by a round that looks it up, and by
leaving. The model id in every answer is the digest of the package that gave it.
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
from deployments.core.messages import Delta, Embedder, Event, Events, Refusal, TurnEnd
from deployments.core.metrics import Metrics
from deployments.core.settings import CacheSettings, FallbackSettings, LimitSettings
from tasks.engine.protocol import Generation
from tasks.prompt.tool_calls import ParsedAnswer

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class Steps:
    """What stands around the model in a turn."""

    input_guard: InputGuard
    passage_search: PassageSearch
    output_guard: OutputGuard


class ChatService:
    """Takes requests for as long as the process lives; `routing` may be swapped at any time."""

    def __init__(
        self,
        desk: PackageBackend,
        sink: Sink,
        keys: ApiKeys,
        pseudonyms: Pseudonyms,
        limits: LimitSettings,
        timeouts: Timeouts,
        fallback: FallbackSettings,
        cache: CacheSettings,
        meters: Metrics,
        layers: Steps,
        embed: Embedder | None = None,
        clock: Callable[[], float] = time.monotonic,
        shadows: ShadowTraffic | None = None,
    ) -> None:
        self.keys = keys
        self.limits = RateLimits(limits)
        self.body_bytes = limits.body_bytes
        self.timeouts = timeouts
        self._pseudonyms = pseudonyms
        self._routing = Routing()
        self._sink = sink
        self._order = fallback.production
        self._cache = AnswerCache(cache, meters, clock, embed)
        self._fallback = Fallback(desk, fallback, timeouts, meters, clock)
        self._layers = layers
        self._shadows = shadows

    @property
    def routing(self) -> Routing:
        """What is served."""
        return self._routing

    @routing.setter
    def routing(self, routing: Routing) -> None:
        self._routing = routing
        self._fallback.keep(set(routing.served))
        self._cache.keep(set(routing.served))

    def record(self, operation: str) -> TurnRecord:
        """The record of a request that just came."""
        return TurnRecord(self._sink, operation)

    async def answer(self, asked: Request, api: Api[R]) -> Response:
        """Answer one request; every outcome is a response and a telemetry row."""
        record = self.record(api.operation)
        return await answered(record, self._answer(record, asked, api))

    async def _answer(self, record: TurnRecord, asked: Request, api: Api[R]) -> Response:
        arrived = asyncio.get_running_loop().time()
        record.owner = self.keys.owner(asked.headers.get("authorization"))
        body = await read_body(asked, self.body_bytes)
        request = parse_request(api.request, body)
        record.stream = bool(request.stream)
        ask = replace(request.to_ask(), key=_key(record, asked.headers.get("idempotency-key")))
        who = user_bucket_key(record.owner, ask)
        record.visitor = self._pseudonyms.pseudonym(who)
        routing = self.routing
        routes = routing.routes(request.model, self._order, who)
        record.set_intended_route(routes[0])
        served = routing.served[record.route.digest]
        record.permit = self.limits.admit(record.owner, len(body), served.new_tokens(ask.sampling.max_new_tokens))
        taken = await self._layers.input_guard.check(ask)
        record.add_findings(taken)
        copy: ShadowCopy | None = None
        if taken.refusal:
            events = refuse(taken.refusal)
        else:
            copy = self._shadows.choose(routing, record, taken.request) if self._shadows else None
            cache_control = asked.headers.get("cache-control", "")
            lookup = await self._cache.look_up(record.owner, record.route.digest, taken.request, cache_control)
            record.cache = lookup.result
            if lookup.answer:
                events = lookup.events()
            else:
                record.passages = self._layers.passage_search.begin(served.grounding, taken.request)
                ask = replace(taken.request, whole=not record.stream)
                turn = PendingTurn(ask, record.passages, arrived, record.count_tokens, record.reset)
                events = await self._events(record, routes, turn, lookup, copy)
        writer = api.writer(request, record.head)
        response = await (_stream if request.stream else _whole)(record, writer, events)
        if copy and self._shadows:
            response.background = BackgroundTask(self._shadows.begin, copy)
        return response

    async def _events(
        self,
        record: TurnRecord,
        routes: Sequence[Route],
        turn: PendingTurn,
        lookup: CacheLookup,
        copy: ShadowCopy | None,
    ) -> Events:
        """The turn's, from the first route that answers."""
        opened = await self._fallback.open(routes, turn)
        record.set_route(opened)
        events = copy.watch(opened) if copy else opened.events
        digest = opened.route.digest
        leaving = self._layers.output_guard.guard(events, turn.request, turn.passages, digest, record.checks)
        return self._cache.keeping(lookup, digest, leaving, turn.passages)


async def refuse(words: str) -> Events:
    """A turn that a check ended before a model was asked."""
    generation = Generation(words, (), 0, FINISH_REASON, 0.0, 0.0)
    yield TurnEnd(generation, ParsedAnswer(words, (), True), None, 0.0)


def _key(record: TurnRecord, given: str | None) -> str:
    """The name of the request: the same whenever its client sends it again with the same key."""
    return f"{record.owner}:{given}" if given else record.trace_id


async def answered(record: TurnRecord, work: Awaitable[Response]) -> Response:
    """The response that `work` comes to, or the one that says why it came to none; both leave a row."""
    try:
        return await work
    except ApiError as error:
        return _failed(record, error)
    except asyncio.CancelledError:
        record.client_closed()
        raise
    except Exception:  # a fault of ours: it is logged, and the client still gets a body it can read
        _LOG.exception("turn %s failed", record.trace_id)
        return _failed(record, ApiError(500, "internal_error", f"this is our fault; trace {record.trace_id}"))


async def read_body(request: Request, limit: int) -> bytes:
    """The body, as far as it may be long; what is longer is not read to its end.

    Raises:
        ApiError: 413.
    """
    body = bytearray()
    async for part in request.stream():
        body += part
        if len(body) > limit:
            raise ApiError(413, "request_too_large", f"the request's body has more than {limit} bytes")
    return bytes(body)


async def _whole(record: TurnRecord, writer: Writer, events: Events) -> Response:
    """Wait for the turn and answer in one piece.

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
    """Answer piece by piece, once the first piece is there: until then a failure has its own status.

    Raises:
        ApiError: the turn was refused, or failed before its first token.
    """
    first = await anext(events)
    if isinstance(first, Refusal):
        raise ApiError.refused(first)
    record.count_tokens(first)
    return _EventStream(record, events, _lines(record, writer, first, events))


class _EventStream(StreamingResponse):
    """Server-sent events that note when the client leaves, even before the first was sent."""

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
    """The turn as server-sent events, in the order that its writer has."""
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
