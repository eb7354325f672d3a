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
"""Every other one streams."""
_MORE = 12
_PATIENCE_S = 180.0


@dataclass
class Outcomes:
    """What became of the requests so far.

    How many were answered to their end; `cut`: streams that broke off and said so; `failed`: all
    others, with what was seen of them.
    """

    answered: int = 0
    cut: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def count(self) -> None:
        """One more was answered."""
        with self._lock:
            self.answered += 1

    def wait(self) -> None:
        """Until some more have been answered from now on.

        Raises:
            GraftError: they were not in time.
        """
        goal = self.answered + _MORE
        self.until(lambda: self.answered >= goal)

    def until(self, done: Callable[[], bool]) -> None:
        """Until `done`.

        Raises:
            GraftError: it was not in time.
        """
        deadline = time.monotonic() + _PATIENCE_S
        while not done():
            if time.monotonic() > deadline:
                raise GraftError(f"the service did not go on: {self.answered} answered, {self.failed[-3:]}")
            time.sleep(0.1)


@contextmanager
def steady_load(url: str, texts: Sequence[str], max_tokens: int) -> Iterator[Outcomes]:
    """Ask for `production` without pause until the block ends; all requests are waited for."""
    outcomes, stop = Outcomes(), threading.Event()

    def keep_asking(number: int) -> None:
        streams = bool(number % 2)
        waiting = cycle(texts[number::CLIENTS])
        # Past the cache of answers, or nothing would reach the engine.
        with httpx.Client(base_url=url, timeout=_PATIENCE_S, headers={"cache-control": "no-cache"}) as http:
            while not stop.is_set():
                message = {"role": "user", "content": next(waiting)}
                body = {"model": "production", "messages": [message], "max_tokens": max_tokens, "stream": streams}
                (_stream if streams else _whole)(http, {**body, "temperature": 0}, outcomes)

    with ThreadPoolExecutor(CLIENTS) as pool:
        asking = [pool.submit(keep_asking, number) for number in range(CLIENTS)]
        try:
            outcomes.wait()
            yield outcomes
            outcomes.wait()
        finally:
            stop.set()
    for done in asking:
        done.result()


def _whole(http: httpx.Client, body: dict[str, Any], outcomes: Outcomes) -> None:
    try:
        answer = http.post("/chat/completions", json=body)
        if answer.is_success and answer.json()["choices"][0]["finish_reason"]:
            outcomes.count()
        else:
            outcomes.failed.append(f"{answer.status_code} {answer.text[:200]}")
    except (httpx.HTTPError, LookupError, ValueError) as error:
        outcomes.failed.append(f"{type(error).__name__}: {error}")


def _stream(http: httpx.Client, body: dict[str, Any], outcomes: Outcomes) -> None:
    events: list[str] = []
    try:
        with http.stream("POST", "/chat/completions", json=body) as answer:
            if not answer.is_success:
                outcomes.failed.append(f"{answer.status_code} {answer.read()[:200]!r}")
                return
            events.extend(line.removeprefix("data: ") for line in answer.iter_lines() if line)
        if events[-1] == "[DONE]":
            outcomes.count()
        else:
            outcomes.cut.append(json.loads(events[-1])["error"]["code"])
    except (httpx.HTTPError, LookupError, ValueError) as error:
        outcomes.failed.append(f"a stream after {len(events)} events: {type(error).__name__}: {error}")
