"""What users notice of changes and of overload: cold start, failed requests, time to refuse."""

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
from benchmarks.serving.service_stack import Stack, twin
from benchmarks.serving.steady_load import steady_load
from deployments.core.messages import OVERLOADED
from deployments.serve import rollout
from tasks.core.errors import GraftError

_TIMES_CAPACITY = 3
_TIMEOUT_S = 180.0


@dataclass(frozen=True)
class Reply:
    """How an asked server replied, and after how long; `code` is empty if it answered."""

    status: int
    code: str
    ms: float


def run(stack: Stack, package: Path, base: Path, texts: Sequence[str], max_tokens: int) -> dict[str, float]:
    """All scenarios, one after the other; the service is as before afterwards."""
    second = stack.publish(twin(package, stack.root / "twin"), base)
    told: dict[str, float] = {"cold_start_s": cold_start(stack, second, texts[0])}
    told |= changes(stack, second, texts, max_tokens)
    rollout.undeploy_unused({stack.digest})
    return told | shed(stack, texts, max_tokens)


def cold_start(stack: Stack, digest: str, text: str) -> float:
    """Seconds from a published package to its first answer, on a Serve that runs.

    Raises:
        GraftError: it does not answer.
    """
    body = {"model": digest, "messages": [{"role": "user", "content": text}], "max_tokens": 8}
    began = time.perf_counter()
    rollout.deploy(digest)
    answer = httpx.post(stack.url + "/chat/completions", json=body, timeout=_TIMEOUT_S)
    seconds = time.perf_counter() - began
    if not answer.is_success:
        raise GraftError(f"a package that was deployed does not answer: {answer.status_code} {answer.text[:300]}")
    print(f"cold start: {seconds:.1f} s from rollout to answer", flush=True)
    return seconds


def changes(stack: Stack, second: str, texts: Sequence[str], max_tokens: int) -> dict[str, float]:
    """Another package, the way back, and the only replica killed, under steady load.

    A stream that a change cuts has failed. Those that ran on the killed replica are counted apart.
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
    """How fast requests are refused beyond what a replica takes.

    Its capacity is how fast it answers as many clients as it decodes for at once, who ask again once
    they are answered. Then requests come at three times that rate, at random moments, for about
    twice as long as it takes them to fill the queue; and, last, three times as many as it holds at once.

    Raises:
        GraftError: none was refused.
    """
    held, at_once = stack.settings.room, stack.settings.engine.max_num_seqs
    many = [texts[i % len(texts)] for i in range(_TIMES_CAPACITY * held)]
    chats = [[{"role": "user", "content": text}] for text in many[:held]]
    began = time.perf_counter()
    answers = asyncio.run(drive(stack.url, "production", chats, at_once, max_tokens))
    rate = sum(answer.ended for answer in answers) / (time.perf_counter() - began)
    gaps = random.Random(0)
    moments = list(accumulate(gaps.expovariate(_TIMES_CAPACITY * rate) for _ in many))
    print(f"capacity {rate:.1f} answers/s; then {len(many)} requests in {moments[-1]:.0f} s, then at once", flush=True)
    steady = asyncio.run(_ask_all(stack.url, many, max_tokens, moments))
    burst = asyncio.run(_ask_all(stack.url, many, max_tokens, [0.0] * len(many)))
    return {"shed_p95_ms": _refused_p95(steady), "shed_burst_p95_ms": _refused_p95(burst)}


def _refused_p95(replies: Sequence[Reply]) -> float:
    refused = [reply.ms for reply in replies if (reply.status, reply.code) == (503, OVERLOADED)]
    seen = dict(Counter(f"{reply.status} {reply.code}".strip() for reply in replies))
    if not refused:
        raise GraftError(f"none of {len(replies)} requests was refused with 503 `{OVERLOADED}`: {seen}")
    half, most = (quantile(refused, share) for share in (0.5, 0.95))
    print(f"{seen}; refused after {half:.0f} ms (p50), {most:.0f} ms (p95)", flush=True)
    return most


async def _ask_all(url: str, texts: Sequence[str], max_tokens: int, moments: Sequence[float]) -> list[Reply]:
    """Each text at its moment (seconds), on a connection that is open already."""
    tls, ready = httpx.create_ssl_context(), asyncio.Barrier(len(texts))

    async def ask(text: str, moment: float) -> Reply:
        # A client of its own: a pool of so many connections looks at each of them for every request.
        headers = {"cache-control": "no-cache"}
        limits = httpx.Limits(keepalive_expiry=None)
        async with httpx.AsyncClient(timeout=_TIMEOUT_S, limits=limits, headers=headers, verify=tls) as http:
            await http.get(url + "/models")
            await ready.wait()
            await asyncio.sleep(moment)
            return await _ask(http, url, text, max_tokens)

    return await asyncio.gather(*map(ask, texts, moments))


async def _ask(http: httpx.AsyncClient, url: str, text: str, max_tokens: int) -> Reply:
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
