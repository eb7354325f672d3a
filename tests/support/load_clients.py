"""Load clients: steady load on the assistant over HTTP, with every request accounted for."""

from __future__ import annotations

import json
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx

from deployments.serve import rollout

PATIENCE_S = 180.0
MESSAGES = [{"role": "user", "content": "Where is my order HL-20931?"}]


@dataclass
class Load:
    """The results of the requests so far."""

    answered: Counter[str] = field(default_factory=Counter)
    """Number of complete answers, by model."""
    cut: list[str] = field(default_factory=list)
    """Error codes of streams that broke off with an error event."""
    lost: list[str] = field(default_factory=list)
    """Descriptions of all other requests."""
    clients: int = 6
    """Number of concurrent clients."""
    streams: int = 3
    """Number of clients that stream."""

    def __str__(self) -> str:
        return f"{self.answered.total()} answered, {len(self.cut)} cut, {len(self.lost)} lost {self.lost[:3]}"

    def wait(self, more: int = 12) -> None:
        """Wait until `more` further requests have been answered."""
        goal = self.answered.total() + more
        self.until(lambda: self.answered.total() >= goal)

    def until(self, done: Callable[[], bool]) -> None:
        deadline = time.monotonic() + PATIENCE_S
        while not done():
            assert time.monotonic() < deadline, f"not done within {PATIENCE_S} s: {self}"
            time.sleep(0.05)


@contextmanager
def steady_load(max_tokens: int = 40, pause_s: float = 0.2) -> Iterator[Load]:
    """Send requests from six threads, half of them streaming, until the block ends; wait for all.

    Args:
        max_tokens: limit of each answer.
        pause_s: each thread's pause before its next request, in seconds: new replicas need the processor to start.
    """
    load, stop = Load(), threading.Event()

    def keep_asking(streams: bool) -> None:
        # Sampled, since the greedy tiny model repeats incomplete UTF-8 characters, and those are not streamed.
        options = {"max_tokens": max_tokens, "temperature": 1, "stream": streams}
        body = {"model": "production", "messages": MESSAGES, **options}
        with httpx.Client(base_url=rollout.base_url(), timeout=90.0) as client:
            while not stop.wait(pause_s):
                (_stream if streams else _whole)(client, body, load)

    with ThreadPoolExecutor(load.clients) as pool:
        asking = [pool.submit(keep_asking, number < load.streams) for number in range(load.clients)]
        try:
            load.wait()
            yield load
            load.wait()
        finally:
            stop.set()
    print(load)
    for done in asking:
        done.result()


def _whole(client: httpx.Client, body: dict[str, Any], load: Load) -> None:
    try:
        answer = client.post("/chat/completions", json=body)
        content = answer.json()
        assert answer.status_code == 200, f"{answer.status_code} {answer.text[:200]}"
        assert content["choices"][0]["finish_reason"], content
    except (httpx.HTTPError, ValueError, AssertionError) as error:
        load.lost.append(f"whole: {type(error).__name__}: {error}")
        return
    load.answered[content["model"]] += 1


def _stream(client: httpx.Client, body: dict[str, Any], load: Load) -> None:
    lines: list[str] = []
    try:
        with client.stream("POST", "/chat/completions", json=body) as answer:
            assert answer.status_code == 200, f"{answer.status_code} {answer.read()[:200]!r}"
            lines.extend(line for line in answer.iter_lines() if line)
        last = lines[-1].removeprefix("data: ")
        if last != "[DONE]":
            load.cut.append(json.loads(last)["error"]["code"])
            return
    except (httpx.HTTPError, LookupError, ValueError, AssertionError) as error:
        load.lost.append(f"stream after {len(lines)} lines: {type(error).__name__}: {error}")
        return
    load.answered[json.loads(lines[0].removeprefix("data: "))["model"]] += 1
