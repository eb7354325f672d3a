"""What users notice of changes and of overload: cold start, failed requests, time to refuse."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import httpx
import psutil

from benchmarks.load import quantile
from benchmarks.stack import Stack, twin
from benchmarks.steady import steady_load
from deployments import rollout
from tasks.errors import GraftError

_TIMES_CAPACITY = 3
_SPREAD_S = 2.0
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
    rollout.retire({stack.digest})
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
    """How fast requests are refused beyond what a replica takes: all sent at once, and over two seconds.

    Raises:
        GraftError: none was refused.
    """
    engine = stack.settings.engine
    many = [texts[i % len(texts)] for i in range(_TIMES_CAPACITY * (engine.at_once + engine.max_queued))]
    told = {}
    for name, spread_s in (("shed_p95_ms", 0.0), ("shed_spread_p95_ms", _SPREAD_S)):
        replies = asyncio.run(_ask_all(stack.url, many, max_tokens, spread_s))
        refused = [reply.ms for reply in replies if (reply.status, reply.code) == (503, "overloaded")]
        seen = Counter(f"{reply.status} {reply.code}".strip() for reply in replies)
        print(f"{len(many)} requests within {spread_s:g} s: {dict(seen)}", flush=True)
        if not refused:
            raise GraftError(f"none of {len(many)} requests at once was refused with 503 `overloaded`: {dict(seen)}")
        told[name] = quantile(refused, 0.95)
    return told


async def _ask_all(url: str, texts: Sequence[str], max_tokens: int, spread_s: float) -> list[Reply]:
    """One request for each text, on connections that are open already."""
    limits = httpx.Limits(max_connections=len(texts), max_keepalive_connections=len(texts))
    headers = {"cache-control": "no-cache"}
    async with httpx.AsyncClient(timeout=_TIMEOUT_S, limits=limits, headers=headers) as http:
        await asyncio.gather(*(http.get(url + "/models") for _ in texts))

        async def ask(place: int, text: str) -> Reply:
            await asyncio.sleep(spread_s * place / len(texts))
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

        return await asyncio.gather(*(ask(place, text) for place, text in enumerate(texts)))
