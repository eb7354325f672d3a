"""The queue before an engine: asyncio callers on one side, one decoding thread on the other.

Between two decoding steps those who wait take the places that are free, and those who left give
theirs back. It knows nothing of ray or HTTP.
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

_NEWEST = 0.2
"""Weight of the newest request in the moving mean of the time that a place is held."""


class OverloadedError(Exception):
    """As many requests wait as may, or so many that another would wait too long; `wait_s` is the guess how long."""

    def __init__(self, wait_s: float) -> None:
        super().__init__(f"a free place is {wait_s:.1f} s away")
        self.wait_s = wait_s


@dataclass(eq=False)
class Ticket:
    """One admitted request and its way back to the caller's event loop."""

    request: GenerationRequest
    loop: asyncio.AbstractEventLoop
    items: asyncio.Queue[TokenChunk | Exception] = field(default_factory=asyncio.Queue)
    admitted: float = field(default_factory=time.monotonic)
    queue_ms: float = 0.0
    left: bool = False


class BatchingQueue:
    """Serves requests from a bounded queue, `at_once` of them in the engine, in a thread of its own."""

    def __init__(self, engine: Engine, *, at_once: int, max_queued: int, max_wait_s: float) -> None:
        self._engine = engine
        self._max_wait_s = max_wait_s
        self._at_once = at_once
        self._max_queued = max_queued
        self._waiting: deque[Ticket] = deque()
        self._working: dict[int, Ticket] = {}
        self._keys = count()
        self._place_s = 0.0
        self._changed = threading.Condition()
        self._last_chunk = float("-inf")
        threading.Thread(target=self._run, name="engine", daemon=True).start()

    @property
    def silent_s(self) -> float:
        """Seconds since the engine last gave a token; infinite before its first."""
        return time.monotonic() - self._last_chunk

    @property
    def expected_wait_s(self) -> float:
        """How long one more request would wait for a place, by how long the last ones held theirs."""
        ahead = len(self._waiting) + len(self._working) - self._at_once + 1
        return max(0, ahead) * self._place_s / self._at_once

    def admit(self, request: GenerationRequest) -> Ticket:
        """Queue a request. Call from the event loop that will `follow` it, and do follow it.

        Raises:
            OverloadedError: too many wait already, or it would not get a place in time: who cannot
                be served is told so at once.
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
        """The request's chunks. Leaving early frees its place within one decoding step.

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

    def _send(self, ticket: Ticket, item: TokenChunk | Exception) -> None:
        with self._changed:
            if not ticket.left:
                ticket.loop.call_soon_threadsafe(ticket.items.put_nowait, item)

    def _run(self) -> None:
        while True:
            for key, ticket in self._take().items():
                self._submit(key, ticket)
            try:
                for chunk in self._engine.step():
                    self._pass_on(chunk)
            except Exception as error:  # whatever an engine raises belongs to those who asked it
                self._fail(error)

    def _submit(self, key: int, ticket: Ticket) -> None:
        try:
            self._engine.submit(key, ticket.request)
            self._working[key] = ticket
        except Exception as error:  # a constraint that it cannot hold, say; nobody else's business
            self._cancel(key)
            self._send(ticket, error)

    def _take(self) -> dict[int, Ticket]:
        """Those whose turn it is, by new keys; lets go of those who left, and waits while there is nothing to do."""
        with self._changed:
            self._let_go()
            while not self._waiting and not self._working:
                self._changed.wait()
            room = self._at_once - len(self._working)
            taken = {next(self._keys): self._waiting.popleft() for _ in range(min(room, len(self._waiting)))}
        now = time.monotonic()
        for ticket in taken.values():
            ticket.queue_ms = (now - ticket.admitted) * 1000
        return taken

    def _let_go(self) -> None:
        for key in [key for key, ticket in self._working.items() if ticket.left]:
            del self._working[key]
            self._cancel(key)

    def _cancel(self, key: int) -> None:
        with suppress(Exception):  # an engine that failed may fail again; the next step will tell
            self._engine.cancel(key)

    def _pass_on(self, chunk: TokenChunk) -> None:
        self._last_chunk = time.monotonic()
        self._send(self._working[chunk.key], chunk)
        if chunk.finish_reason:
            ticket = self._working.pop(chunk.key)
            held_s = self._last_chunk - ticket.admitted - ticket.queue_ms / 1000
            self._place_s += (held_s - self._place_s) * (_NEWEST if self._place_s else 1)

    def _fail(self, error: Exception) -> None:
        for key, ticket in self._working.items():
            self._cancel(key)
            self._send(ticket, error)
        self._working.clear()
