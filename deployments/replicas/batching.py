"""Continuous batching: a bounded queue between asyncio callers and the engine's decoding thread.

Between two decoding steps queued requests take the free slots, and cancelled requests release theirs.
The queue is independent of Ray and HTTP.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import count

from tasks.engine.protocol import Engine, GenerationRequest, TokenChunk

_NEWEST_WEIGHT = 0.2
"""Weight of the newest request in the moving average of the time that a slot is held."""


class OverloadedError(Exception):
    """The queue is full, or another request would wait too long.

    Args:
        wait_s: the estimated wait in seconds.
    """

    def __init__(self, wait_s: float) -> None:
        super().__init__(f"a free place is {wait_s:.1f} s away")
        self.wait_s = wait_s


@dataclass(eq=False)
class Ticket:
    """One admitted request, with the queue back to its caller."""

    request: GenerationRequest
    """The request."""
    loop: asyncio.AbstractEventLoop
    """The caller's event loop."""
    items: asyncio.Queue[TokenChunk | Exception] = field(default_factory=asyncio.Queue)
    """Chunks for the caller, or the engine's exception."""
    admitted: float = field(default_factory=time.monotonic)
    """When it was admitted, in monotonic seconds."""
    queue_ms: float = 0.0
    """Time in the queue, in milliseconds."""
    cancelled: bool = False
    """Whether its caller is gone."""


class BatchingQueue:
    """Serves requests from a bounded queue in a thread of its own.

    Args:
        engine: decodes.
        max_num_seqs: requests in the engine at a time.
        max_queued: requests that may wait.
        max_wait_s: the longest estimated wait, in seconds, above which a request is refused.
    """

    def __init__(self, engine: Engine, *, max_num_seqs: int, max_queued: int, max_wait_s: float) -> None:
        self._engine = engine
        self._max_wait_s = max_wait_s
        self._max_num_seqs = max_num_seqs
        self._max_queued = max_queued
        self._waiting: deque[Ticket] = deque()
        self._working: dict[int, Ticket] = {}
        self._keys = count()
        self._slot_s = 0.0
        self._changed = threading.Condition()
        self._last_chunk = float("-inf")
        threading.Thread(target=self._run, name="engine", daemon=True).start()

    @property
    def silent_s(self) -> float:
        """Seconds since the engine's last token; infinite before its first."""
        return time.monotonic() - self._last_chunk

    @property
    def expected_wait_s(self) -> float:
        """Estimated wait of one more request for a slot, from the time that the last requests held theirs."""
        ahead = len(self._waiting) + len(self._working) - self._max_num_seqs + 1
        return max(0, ahead) * self._slot_s / self._max_num_seqs

    def admit(self, request: GenerationRequest) -> Ticket:
        """Queue a request. The caller must `follow` it, in the same event loop.

        Raises:
            OverloadedError: the queue is full, or the request would not get a slot in time; it is
                refused at once.
        """
        ticket = Ticket(request, asyncio.get_running_loop())
        with self._changed:
            wait_s = self.expected_wait_s
            if len(self._waiting) >= self._max_queued or wait_s > self._max_wait_s:
                raise OverloadedError(wait_s)
            self._waiting.append(ticket)
            self._changed.notify()
        return ticket

    async def follow(self, ticket: Ticket) -> AsyncIterator[TokenChunk]:
        """The request's chunks. Closing the generator early frees its slot within one decoding step.

        Raises:
            Exception: as the engine raised.
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
            self._cancel_ticket(ticket)

    def _cancel_ticket(self, ticket: Ticket) -> None:
        with self._changed:
            ticket.cancelled = True
            if ticket in self._waiting:
                self._waiting.remove(ticket)

    def _send(self, ticket: Ticket, item: TokenChunk | Exception) -> None:
        with self._changed:
            if not ticket.cancelled:
                ticket.loop.call_soon_threadsafe(ticket.items.put_nowait, item)

    def _run(self) -> None:
        while True:
            for key, ticket in self._next_tickets().items():
                self._submit(key, ticket)
            try:
                for chunk in self._engine.step():
                    self._deliver(chunk)
            except Exception as error:  # an engine may raise anything; its callers get it
                self._fail(error)

    def _submit(self, key: int, ticket: Ticket) -> None:
        try:
            self._engine.submit(key, ticket.request)
            self._working[key] = ticket
        except Exception as error:  # such as an unsupported constraint; it concerns this request alone
            self._cancel(key)
            self._send(ticket, error)

    def _next_tickets(self) -> dict[int, Ticket]:
        """The next requests for the engine, by new keys; drops cancelled ones, and waits while there is no work."""
        with self._changed:
            self._drop_cancelled()
            while not self._waiting and not self._working:
                self._changed.wait()
            slots = self._max_num_seqs - len(self._working)
            tickets = {next(self._keys): self._waiting.popleft() for _ in range(min(slots, len(self._waiting)))}
        now = time.monotonic()
        for ticket in tickets.values():
            ticket.queue_ms = (now - ticket.admitted) * 1000
        return tickets

    def _drop_cancelled(self) -> None:
        for key in [key for key, ticket in self._working.items() if ticket.cancelled]:
            del self._working[key]
            self._cancel(key)

    def _cancel(self, key: int) -> None:
        with suppress(Exception):  # an engine that failed may fail again; the next step raises then
            self._engine.cancel(key)

    def _deliver(self, chunk: TokenChunk) -> None:
        self._last_chunk = time.monotonic()
        self._send(self._working[chunk.key], chunk)
        if chunk.finish_reason:
            ticket = self._working.pop(chunk.key)
            held_s = self._last_chunk - ticket.admitted - ticket.queue_ms / 1000
            self._slot_s += (held_s - self._slot_s) * (_NEWEST_WEIGHT if self._slot_s else 1)

    def _fail(self, error: Exception) -> None:
        for key, ticket in self._working.items():
            self._cancel(key)
            self._send(ticket, error)
        self._working.clear()
