"""Scenarios of deploys and overload, as users notice them: cold start, failed requests, time to reject."""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path

import httpx
import psutil

from benchmarks.serving.closed_loop_clients import drive, quantile
from benchmarks.serving.service_stack import Stack, renamed_copy
from benchmarks.serving.steady_load import steady_load
from deployments.core.messages import OVERLOADED
from deployments.serve import rollout
from tasks.core.errors import GraftError

_TIMES_CAPACITY = 3
_TIMEOUT_S = 180.0


@dataclass(frozen=True)
class Reply:
    """The server's reply to a request."""

    status: int
    """HTTP status; 0 if the connection failed."""
    code: str
    """Error code; empty for an answer."""
    ms: float
    """Time to the reply's headers, in ms."""


def run(stack: Stack, package: Path, base: Path, texts: Sequence[str], max_tokens: int) -> dict[str, float]:
    """Run all scenarios, one after the other; afterwards the service is as before.

    Args:
        stack: the running service.
        package: folder of its package.
        base: folder of the base model.
        texts: users' messages.
        max_tokens: maximum tokens of an answer.
    """
    second = stack.publish(renamed_copy(package, stack.root / "copy"), base)
    results: dict[str, float] = {"cold_start_s": cold_start(stack, second, texts[0])}
    results |= changes(stack, second, texts, max_tokens)
    rollout.undeploy_unused({stack.digest})
    return results | shed(stack, texts, max_tokens)


def cold_start(stack: Stack, digest: str, text: str) -> float:
    """Seconds from a published package to its first answer, on a running Serve.

    Raises:
        GraftError: it does not answer.
    """
    body = {"model": digest, "messages": [{"role": "user", "content": text}], "max_tokens": 8}
    began = time.perf_counter()
    rollout.deploy(digest)
    answer = httpx.post(stack.url + "/chat/completions", json=body, timeout=_TIMEOUT_S)
    seconds = time.perf_counter() - began
    if not answer.is_success:
        raise GraftError(f"the deployed package does not answer: {answer.status_code} {answer.text[:300]}")
    print(f"cold start: {seconds:.1f} s from deploy to answer", flush=True)
    return seconds


def changes(stack: Stack, second: str, texts: Sequence[str], max_tokens: int) -> dict[str, float]:
    """Promote another package, return to the first, and kill the only replica, under steady load.

    A stream that a promotion cuts has failed. Streams on the killed replica are counted separately.

    Args:
        stack: the running service.
        second: digest of the other package.
        texts: users' messages.
        max_tokens: maximum tokens of an answer.
    """
    with steady_load(stack.url, texts, max_tokens) as load:
        rollout.promote(second)
        load.wait()
        rollout.promote(stack.digest)
        load.wait()
        cut_by_changes = len(load.cut)
        victims = stack.replicas(stack.digest)
        psutil.Process(victims[0]).kill()
        load.until(lambda: bool(set(stack.replicas(stack.digest)) - set(victims)))
        load.wait()
    print(f"changes: {load.answered} answered, cut {load.cut}, failed {load.failed}", flush=True)
    failed = len(load.failed) + cut_by_changes
    return {"failed_requests": failed, "cut_streams": len(load.cut) - cut_by_changes}


def shed(stack: Stack, texts: Sequence[str], max_tokens: int) -> dict[str, float]:
    """The latency of load shedding: the time to reject a request beyond a replica's capacity.

    The capacity is measured in a closed loop with as many clients as the engine decodes concurrently.
    Then requests come at three times that rate, at random times, for about
    twice as long as they need to fill the queue; and last, a burst of three times the service's capacity.

    Raises:
        GraftError: no request was rejected.
    """
    capacity, concurrency = stack.settings.room, stack.settings.engine.max_num_seqs
    many = [texts[i % len(texts)] for i in range(_TIMES_CAPACITY * capacity)]
    chats = [[{"role": "user", "content": text}] for text in many[:capacity]]
    began = time.perf_counter()
    answers = asyncio.run(drive(stack.url, "production", chats, concurrency, max_tokens))
    rate = sum(answer.ended for answer in answers) / (time.perf_counter() - began)
    gaps = random.Random(0)
    times = list(accumulate(gaps.expovariate(_TIMES_CAPACITY * rate) for _ in many))
    print(f"capacity {rate:.1f} answers/s; then {len(many)} requests in {times[-1]:.0f} s, then in a burst", flush=True)
    steady = asyncio.run(_send_all(stack.url, many, max_tokens, times))
    burst = asyncio.run(_send_all(stack.url, many, max_tokens, [0.0] * len(many)))
    return {"shed_p95_ms": _rejected_p95(steady), "shed_burst_p95_ms": _rejected_p95(burst)}


def _rejected_p95(replies: Sequence[Reply]) -> float:
    rejected = [reply.ms for reply in replies if (reply.status, reply.code) == (503, OVERLOADED)]
    counts = dict(Counter(f"{reply.status} {reply.code}".strip() for reply in replies))
    if not rejected:
        raise GraftError(f"none of {len(replies)} requests was rejected with 503 `{OVERLOADED}`: {counts}")
    median, p95 = (quantile(rejected, fraction) for fraction in (0.5, 0.95))
    print(f"{counts}; rejected after {median:.0f} ms (p50), {p95:.0f} ms (p95)", flush=True)
    return p95


async def _send_all(url: str, texts: Sequence[str], max_tokens: int, times: Sequence[float]) -> list[Reply]:
    """Send each text at its time (seconds), on a connection that is open already."""
    tls, ready = httpx.create_ssl_context(), asyncio.Barrier(len(texts))

    async def send(text: str, at: float) -> Reply:
        # A client of its own: a pool of so many connections scans all of them for every request.
        headers = {"cache-control": "no-cache"}
        limits = httpx.Limits(keepalive_expiry=None)
        async with httpx.AsyncClient(timeout=_TIMEOUT_S, limits=limits, headers=headers, verify=tls) as http:
            await http.get(url + "/models")
            await ready.wait()
            await asyncio.sleep(at)
            return await _send(http, url, text, max_tokens)

    return await asyncio.gather(*map(send, texts, times))


async def _send(http: httpx.AsyncClient, url: str, text: str, max_tokens: int) -> Reply:
    message = {"role": "user", "content": text}
    body = {"model": "production", "messages": [message], "max_tokens": max_tokens, "stream": True}
    began = time.perf_counter()
    try:
        async with http.stream("POST", url + "/chat/completions", json=body) as answer:
            ms = (time.perf_counter() - began) * 1000
            await answer.aread()
            code = "" if answer.is_success else answer.json()["error"]["code"]
            return Reply(answer.status_code, code, ms)
    except httpx.HTTPError as error:
        return Reply(0, type(error).__name__, (time.perf_counter() - began) * 1000)
