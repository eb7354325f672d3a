"""The queue before an engine: asyncio callers on one side, one decoding thread on the other.

Waiting requests are taken together, up to `batch_size`, and decoded as one batch; who comes later
waits for the next. This is the place for continuous batching: callers see only `admit` and
`follow`. It knows nothing of ray or HTTP.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from collections.abc import AsyncIterator, Generator
from contextlib import closing
from dataclasses import dataclass, field, replace
from typing import cast

from tasks.engine.protocol import Chunk, Engine, GenerationRequest


class QueueFullError(Exception):
    """As many requests wait as may."""


@dataclass(eq=False)
class Ticket:
    """One admitted request and its way back to the caller's event loop."""

    request: GenerationRequest
    loop: asyncio.AbstractEventLoop
    items: asyncio.Queue[Chunk | Exception] = field(default_factory=asyncio.Queue)
    admitted: float = field(default_factory=time.monotonic)
    queue_ms: float = 0.0
    left: bool = False


class Batches:
    """Serves requests from a bounded queue, a batch at a time, in a thread of its own."""

    def __init__(self, engine: Engine, *, batch_size: int, max_queued: int) -> None:
        self._engine = engine
        self._batch_size = batch_size
        self._max_queued = max_queued
        self._waiting: deque[Ticket] = deque()
        self._changed = threading.Condition()
        self._last_chunk = float("-inf")
        threading.Thread(target=self._run, name="engine", daemon=True).start()

    @property
    def silent_s(self) -> float:
        """Seconds since the engine last gave a token; infinite before its first."""
        return time.monotonic() - self._last_chunk

    def admit(self, request: GenerationRequest) -> Ticket:
        """Queue a request. Call from the event loop that will `follow` it, and do follow it.

        Raises:
            QueueFullError: too many wait already.
        """
        ticket = Ticket(request, asyncio.get_running_loop())
        with self._changed:
            if len(self._waiting) >= self._max_queued:
                raise QueueFullError
            self._waiting.append(ticket)
            self._changed.notify()
        return ticket

    async def follow(self, ticket: Ticket) -> AsyncIterator[Chunk]:
        """The request's chunks. Leaving early frees its place, and ends a batch that all have left.

        Raises:
            Exception: what the engine raised.
        """
        try:
            while True:
                item = await ticket.items.get()
                if isinstance(item, Exception):
                    raise item
                yield item
                if item.finish_reason:
                    return
        finally:
            self._leave(ticket)

    def _leave(self, ticket: Ticket) -> None:
        with self._changed:
            ticket.left = True
            if ticket in self._waiting:
                self._waiting.remove(ticket)

    def _send(self, ticket: Ticket, item: Chunk | Exception) -> None:
        with self._changed:
            if not ticket.left:
                ticket.loop.call_soon_threadsafe(ticket.items.put_nowait, item)

    def _run(self) -> None:
        while True:
            batch = self._take()
            try:
                self._decode(batch)
            except Exception as error:  # whatever an engine raises belongs to those who asked it
                for ticket in batch:
                    self._send(ticket, error)

    def _take(self) -> list[Ticket]:
        with self._changed:
            while not self._waiting:
                self._changed.wait()
            batch = [self._waiting.popleft() for _ in range(min(self._batch_size, len(self._waiting)))]
        now = time.monotonic()
        for ticket in batch:
            ticket.queue_ms = (now - ticket.admitted) * 1000
        return batch

    def _decode(self, batch: list[Ticket]) -> None:
        # Engines stream from generators: closing one is how decoding is ended early.
        chunks = cast("Generator[Chunk]", self._engine.stream([ticket.request for ticket in batch]))
        with closing(chunks):
            for chunk in chunks:
                self._last_chunk = time.monotonic()
                self._send(batch[chunk.index], replace(chunk, index=0))
                if all(ticket.left for ticket in batch):
                    return
