"""What happens to a request, in one visible order.

    key -> body -> parse -> routes to the model -> limits -> cache -> the first route that answers ->
    parsed answer -> content and tool calls -> telemetry

`Turns.take` is that order. What later joins a turn (budget, safety, retrieval, policy) gets its
line there. The model id in every answer is the digest of the package that gave it.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from deployments.app.cache import AnswerCache
from deployments.app.errors import ApiError
from deployments.app.fallback import Fallback, Turn
from deployments.app.keys import Keys
from deployments.app.limits import Limits
from deployments.app.meters import Meters
from deployments.app.routing import Routing
from deployments.app.schema import ChatRequest, chunk, completion, parse_request, usage
from deployments.app.semantic import Embedder
from deployments.app.telemetry import Sink, TurnRecord
from deployments.app.timeouts import Events, Timeouts
from deployments.events import Backend, Delta, Event, Finished, Refused
from deployments.settings import CacheSettings, FallbackSettings, LimitSettings
from tasks.records import ToolCall

_LOG = logging.getLogger(__name__)
_CALL = "<tool_call>"


class Turns:
    """Takes requests for as long as the process lives; `routing` may be swapped at any time."""

    def __init__(
        self,
        backend: Backend,
        sink: Sink,
        keys: Keys,
        limits: LimitSettings,
        timeouts: Timeouts,
        fallback: FallbackSettings,
        cache: CacheSettings,
        meters: Meters,
        embed: Embedder | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.keys = keys
        self._routing = Routing()
        self._sink = sink
        self._limits = Limits(limits)
        self._body_bytes = limits.body_bytes
        self._order = fallback.production
        self._cache = AnswerCache(cache, meters, clock, embed)
        self._fallback = Fallback(backend, fallback, timeouts, meters, clock)

    @property
    def routing(self) -> Routing:
        """What is served."""
        return self._routing

    @routing.setter
    def routing(self, routing: Routing) -> None:
        self._routing = routing
        self._fallback.keep(set(routing.served))
        self._cache.keep(set(routing.served))

    async def take(self, asked: Request) -> Response:
        """Answer one chat request; every outcome is a response and a telemetry row."""
        arrived = asyncio.get_running_loop().time()
        record = TurnRecord(self._sink)
        try:
            record.owner = self.keys.owner(asked.headers.get("authorization"))
            body = await read_body(asked, self._body_bytes)
            request = parse_request(body)
            record.stream = bool(request.stream)
            routing = self.routing
            routes = routing.routes(request.model, self._order)
            record.route = routes[0]
            served = routing.served[record.route.digest]
            ask = request.to_ask()
            record.permit = self._limits.admit(record.owner, len(body), served.new_tokens(ask.max_new_tokens))
            cache_control = asked.headers.get("cache-control", "")
            lookup = await self._cache.look_up(record.owner, record.route.digest, ask, cache_control)
            record.cache = lookup.result
            if lookup.answer:
                events = lookup.events()
            else:
                turn = Turn(ask, not record.stream, arrived, lambda _: record.saw_token(), record.starts_over)
                opened = await self._fallback.open(routes, turn)
                record.opened(opened)
                events = self._cache.keeping(lookup, record.route.digest, opened.events)
            if request.stream:
                return await _stream(record, request, events)
            return await _whole(record, request, events)
        except ApiError as error:
            return _failed(record, error)
        except asyncio.CancelledError:
            record.closed()
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


async def _whole(record: TurnRecord, request: ChatRequest, events: Events) -> Response:
    """Wait for the turn and answer in one piece.

    Raises:
        ApiError: the turn was refused, or failed.
    """
    async with aclosing(events):
        event = await anext(events)
        while isinstance(event, Delta):
            record.saw_token()
            event = await anext(events)
    if isinstance(event, Refused):
        raise ApiError.refused(event)
    record.saw_token()
    content, calls = outcome(request, event)
    message: dict[str, Any] = {"role": "assistant", "content": content or None, "refusal": None}
    if calls:
        message["tool_calls"] = [call_part(call) for call in calls]
    else:
        message["content"] = content
    choice = {"message": message, "finish_reason": "tool_calls" if calls else event.generation.finish_reason}
    body = completion(record.trace_id, int(record.at.timestamp()), record.route.model, choice, _usage(event))
    record.answered(event)
    return JSONResponse(body, headers=record.headers)


async def _stream(record: TurnRecord, request: ChatRequest, events: Events) -> Response:
    """Answer piece by piece, once the first piece is there: until then a failure has its own status.

    Raises:
        ApiError: the turn was refused, or failed before its first token.
    """
    first = await anext(events)
    if isinstance(first, Refused):
        raise ApiError.refused(first)
    record.saw_token()
    return _EventStream(record, events, _lines(record, request, first, events))


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
            self._record.closed()
            await self._events.aclose()


async def _lines(record: TurnRecord, request: ChatRequest, first: Event, events: Events) -> AsyncIterator[str]:
    """The turn as server-sent events, in OpenAI's order: role, content, tool calls, end, usage."""

    def line(delta: dict[str, Any], finish_reason: str | None = None) -> str:
        body = chunk(record.trace_id, int(record.at.timestamp()), record.route.model, delta, finish_reason)
        return _sse({**body, "usage": None} if request.include_usage else body)

    yield line({"role": "assistant", "content": ""})
    text = sent = ""
    event = first
    while isinstance(event, Delta):
        text += event.text
        shown = showable(text)
        if len(shown) > len(sent):
            yield line({"content": shown[len(sent) :]})
            sent = shown
        event = await anext(events)
    if isinstance(event, Refused):
        record.failed(event.status, event.code)
        yield _sse(ApiError.refused(event).body)
        return
    content, calls = outcome(request, event)
    if len(content) > len(sent):
        yield line({"content": content[len(sent) :]})
    for index, call in enumerate(calls):
        yield line({"tool_calls": [{"index": index, **call_part(call)}]})
    yield line({}, "tool_calls" if calls else event.generation.finish_reason)
    if request.include_usage:
        body = chunk(record.trace_id, int(record.at.timestamp()), record.route.model, {}, None)
        yield _sse({**body, "choices": [], "usage": _usage(event)})
    record.answered(event)
    yield "data: [DONE]\n\n"


def showable(text: str) -> str:
    """The part of an unfinished turn that is content whatever follows.

    Nothing from a tool call on, nothing that may be the start of one, no space at the ends: so
    that the pieces of a stream add up to the content of the whole answer.
    """
    head, tag, _ = text.partition(_CALL)
    if not tag:
        sizes = range(len(_CALL) - 1, 0, -1)
        held = next((size for size in sizes if head.endswith(_CALL[:size])), 0)
        head = head[: len(head) - held]
    return head.strip()


def outcome(request: ChatRequest, finished: Finished) -> tuple[str, tuple[ToolCall, ...]]:
    """Content and tool calls of a turn, as far as the request allows calls."""
    if request.tool_choice == "none":
        return finished.generation.text.strip(), ()
    calls = finished.answer.tool_calls
    return finished.answer.content, calls[:1] if request.parallel_tool_calls is False else calls


def call_part(call: ToolCall) -> dict[str, Any]:
    """A tool call in OpenAI's shape, with a fresh id."""
    function = {"name": call.name, "arguments": json.dumps(call.arguments, ensure_ascii=False)}
    return {"id": f"call_{uuid.uuid4().hex[:24]}", "type": "function", "function": function}


def _usage(finished: Finished) -> dict[str, Any]:
    counted = usage(finished.generation.prompt_tokens, finished.generation.completion_tokens)
    return {**counted, "prompt_tokens_details": {"cached_tokens": finished.cached_tokens}}


def _sse(body: dict[str, Any]) -> str:
    return f"data: {json.dumps(body, ensure_ascii=False, separators=(',', ':'))}\n\n"


def _failed(record: TurnRecord, error: ApiError) -> Response:
    record.failed(error.status, error.code)
    return JSONResponse(error.body, error.status, headers={**record.headers, **error.headers})
