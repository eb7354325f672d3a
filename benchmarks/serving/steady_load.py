"""Steady load on a service while it changes, with every request accounted for."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import cycle
from typing import Any

import httpx

from tasks.core.errors import GraftError

CLIENTS = 4
"""Number of clients, of which every other one streams."""
_MORE = 12
_TIMEOUT_S = 180.0


@dataclass
class LoadResults:
    """The results of the requests so far."""

    answered: int = 0
    """Number of complete answers."""
    cut: list[str] = field(default_factory=list)
    """Error codes of streams that broke off with an error event."""
    failed: list[str] = field(default_factory=list)
    """Descriptions of all other requests."""
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def count(self) -> None:
        """Count one more complete answer."""
        with self._lock:
            self.answered += 1

    def wait(self) -> None:
        """Wait until `_MORE` further requests have been answered.

        Raises:
            GraftError: they were not answered in time.
        """
        goal = self.answered + _MORE
        self.until(lambda: self.answered >= goal)

    def until(self, done: Callable[[], bool]) -> None:
        """Wait until `done`.

        Raises:
            GraftError: it was not done in time.
        """
        deadline = time.monotonic() + _TIMEOUT_S
        while not done():
            if time.monotonic() > deadline:
                raise GraftError(
                    f"no progress within {_TIMEOUT_S:.0f} s: {self.answered} answered, last failures {self.failed[-3:]}"
                )
            time.sleep(0.1)


@contextmanager
def steady_load(url: str, texts: Sequence[str], max_tokens: int) -> Iterator[LoadResults]:
    """Send requests to `production` without pause until the block ends; wait for all of them."""
    results, stop = LoadResults(), threading.Event()

    def keep_asking(number: int) -> None:
        streams = bool(number % 2)
        waiting = cycle(texts[number::CLIENTS])
        # Bypass the answer cache, or no request would reach the engine.
        with httpx.Client(base_url=url, timeout=_TIMEOUT_S, headers={"cache-control": "no-cache"}) as http:
            while not stop.is_set():
                message = {"role": "user", "content": next(waiting)}
                body = {"model": "production", "messages": [message], "max_tokens": max_tokens, "stream": streams}
                (_stream if streams else _whole)(http, {**body, "temperature": 0}, results)

    with ThreadPoolExecutor(CLIENTS) as pool:
        asking = [pool.submit(keep_asking, number) for number in range(CLIENTS)]
        try:
            results.wait()
            yield results
            results.wait()
        finally:
            stop.set()
    for done in asking:
        done.result()


def _whole(http: httpx.Client, body: dict[str, Any], results: LoadResults) -> None:
    try:
        answer = http.post("/chat/completions", json=body)
        if answer.is_success and answer.json()["choices"][0]["finish_reason"]:
            results.count()
        else:
            results.failed.append(f"{answer.status_code} {answer.text[:200]}")
    except (httpx.HTTPError, LookupError, ValueError) as error:
        results.failed.append(f"{type(error).__name__}: {error}")


def _stream(http: httpx.Client, body: dict[str, Any], results: LoadResults) -> None:
    events: list[str] = []
    try:
        with http.stream("POST", "/chat/completions", json=body) as answer:
            if not answer.is_success:
                results.failed.append(f"{answer.status_code} {answer.read()[:200]!r}")
                return
            events.extend(line.removeprefix("data: ") for line in answer.iter_lines() if line)
        if events[-1] == "[DONE]":
            results.count()
        else:
            results.cut.append(json.loads(events[-1])["error"]["code"])
    except (httpx.HTTPError, LookupError, ValueError) as error:
        results.failed.append(f"a stream after {len(events)} events: {type(error).__name__}: {error}")
