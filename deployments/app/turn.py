"""What happens to a request, in one visible order.

    key -> body -> parse -> choose the model -> limits -> its engine -> parsed answer -> its writer
    (content and tool calls) -> telemetry

`Turns._answer` is that order. What later joins a turn (budget, safety, cache, retrieval, policy) gets
its line there. The model id in every answer is the digest of the package that gave it.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable
from contextlib import aclosing
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from deployments.app.api import Api, R, Writer
from deployments.app.errors import ApiError
from deployments.app.keys import Keys
from deployments.app.limits import Limits
from deployments.app.routing import Routing
from deployments.app.schema import parse_request
from deployments.app.telemetry import Sink, TurnRecord
from deployments.events import Backend, Delta, Event, Refused
from deployments.settings import LimitSettings
from tasks.settings import Section

_LOG = logging.getLogger(__name__)

Events = AsyncGenerator[Event]


class Timeouts(Section):
    """How long a turn may take, from its arrival: to its first token, and in all."""

    first_token_s: float
    request_s: float

    @property
    def first_s(self) -> float:
        return min(self.first_token_s, self.request_s)


class Turns:
    """Takes requests for as long as the process lives; `routing` may be swapped at any time."""

    def __init__(self, backend: Backend, sink: Sink, keys: Keys, limits: LimitSettings, timeouts: Timeouts) -> None:
        self.routing = Routing()
        self.keys = keys
        self._backend = backend
        self.limits = Limits(limits)
        self.body_bytes = limits.body_bytes
        self.timeouts = timeouts
        self._sink = sink

    def record(self, operation: str) -> TurnRecord:
        """The record of a request that just came."""
        return TurnRecord(self._sink, operation)

    async def take(self, asked: Request, api: Api[R]) -> Response:
        """Answer one request; every outcome is a response and a telemetry row."""
        record = self.record(api.operation)
        return await answered(record, self._answer(record, asked, api))

    async def _answer(self, record: TurnRecord, asked: Request, api: Api[R]) -> Response:
        record.owner = self.keys.owner(asked.headers.get("authorization"))
        body = await read_body(asked, self.body_bytes)
        request = parse_request(api.request, body)
        record.stream = bool(request.stream)
        routing = self.routing
        record.digest = routing.choose(request.model)
        served = routing.served[record.digest]
        ask = request.to_ask()
        record.permit = self.limits.admit(record.owner, len(body), served.new_tokens(ask.max_new_tokens))
        events = _within(self.timeouts, self._backend.ask(served.app, ask))
        writer = api.writer(request, record.head)
        return await (_stream if request.stream else _whole)(record, writer, events)


async def answered(record: TurnRecord, work: Awaitable[Response]) -> Response:
    """The response that `work` comes to, or the one that says why it came to none; both leave a row."""
    try:
        return await work
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


async def _within(timeouts: Timeouts, events: Events) -> Events:
    """`events` until their last one, or a refusal in its place when the time is over."""
    async with aclosing(events):
        begun = False
        try:
            started = asyncio.get_running_loop().time()
            while True:
                async with asyncio.timeout_at(started + (timeouts.request_s if begun else timeouts.first_s)):
                    event = await anext(events)
                begun = True
                yield event
                if not isinstance(event, Delta):
                    return
        except TimeoutError:
            what, limit_s = ("finish", timeouts.request_s) if begun else ("begin", timeouts.first_s)
            yield Refused(504, "timeout", f"the model did not {what} within {limit_s:g} s")
        except StopAsyncIteration:
            yield Refused(500, "engine_error", "the model stopped without finishing its answer")


async def _whole(record: TurnRecord, writer: Writer, events: Events) -> Response:
    """Wait for the turn and answer in one piece.

    Raises:
        ApiError: the turn was refused, or failed.
    """
    async with aclosing(events):
        event = await anext(events)
        while isinstance(event, Delta):
            record.saw(event)
            event = await anext(events)
    if isinstance(event, Refused):
        raise ApiError.refused(event)
    body = writer.whole(event)
    record.answered(event)
    return JSONResponse(body, headers=record.headers)


async def _stream(record: TurnRecord, writer: Writer, events: Events) -> Response:
    """Answer piece by piece, once the first piece is there: until then a failure has its own status.

    Raises:
        ApiError: the turn was refused, or failed before its first token.
    """
    first = await anext(events)
    if isinstance(first, Refused):
        raise ApiError.refused(first)
    record.saw(first)
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
            self._record.closed()
            await self._events.aclose()


async def _lines(record: TurnRecord, writer: Writer, first: Event, events: Events) -> AsyncIterator[str]:
    """The turn as server-sent events, in the order that its writer has."""
    for body in writer.begin():
        yield _sse(body)
    event = first
    while isinstance(event, Delta):
        record.saw(event)
        for body in writer.add(event):
            yield _sse(body)
        event = await anext(events)
    if isinstance(event, Refused):
        record.failed(event.status, event.code)
        yield _sse(ApiError.refused(event).body)
        return
    for body in writer.end(event):
        yield _sse(body)
    record.answered(event)
    yield "data: [DONE]\n\n"


def _sse(body: dict[str, Any]) -> str:
    return f"data: {json.dumps(body, ensure_ascii=False, separators=(',', ':'))}\n\n"


def _failed(record: TurnRecord, error: ApiError) -> Response:
    record.failed(error.status, error.code)
    return JSONResponse(error.body, error.status, headers={**record.headers, **error.headers})
