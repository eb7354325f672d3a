"""A closed loop of streaming chat clients, and what they saw: throughput, first token, between tokens.

It times every content chunk as it comes; how many tokens an answer has is what the server's usage says.
"""

from __future__ import annotations

import asyncio
import json
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import httpx

Chat = list[dict[str, str]]
Tool = dict[str, Any]
"""Its schema, as OpenAI has it."""


@dataclass
class Answer:
    """One answer: when it was asked for and each chunk came (seconds, monotonic), its tokens and its prompt's."""

    asked: float
    chunks: list[float] = field(default_factory=list)
    tokens: int = 0
    prompt_tokens: int = 0
    status: int = 200
    ended: bool = False
    text: str = ""
    calls: bool = False

    @property
    def is_call(self) -> bool:
        """A tool call, whichever way the server sends it."""
        return self.calls or self.text.lstrip().startswith("<tool_call>")


@dataclass(frozen=True)
class Figures:
    """Of one measured stretch. Milliseconds, but for throughput (tokens per second over the whole stretch)."""

    tok_s: float
    ttft_p50: float
    ttft_p95: float
    itl_p50: float
    itl_p95: float
    tokens: int
    seconds: float


def figures(answers: Sequence[Answer]) -> Figures:
    """Figures over whole answers. Tool calls count in the throughput alone: some servers send them as they are
    written, others once they are whole.

    Raises:
        ValueError: one of them failed, or none was text.
    """
    broken = [answer for answer in answers if not answer.ended]
    if broken:
        raise ValueError(f"{len(broken)} of {len(answers)} answers failed; the first with status {broken[0].status}")
    seconds = max(a.chunks[-1] for a in answers) - min(a.asked for a in answers)
    texts = [a for a in answers if not a.is_call]
    if not texts:
        raise ValueError(f"all {len(answers)} answers are tool calls, whose first chunks compare nothing")
    first = [(a.chunks[0] - a.asked) * 1000 for a in texts]
    between = [(a.chunks[-1] - a.chunks[0]) * 1000 / (a.tokens - 1) for a in texts if a.tokens > 1]
    tokens = sum(a.tokens for a in answers)
    return Figures(
        tok_s=tokens / seconds,
        ttft_p50=quantile(first, 0.5),
        ttft_p95=quantile(first, 0.95),
        itl_p50=quantile(between, 0.5),
        itl_p95=quantile(between, 0.95),
        tokens=tokens,
        seconds=seconds,
    )


def quantile(values: Sequence[float], share: float) -> float:
    """The value under which `share` of `values` lie."""
    if len(values) < 2:
        return values[0]
    return statistics.quantiles(values, n=100, method="inclusive")[round(share * 100) - 1]


async def drive(
    url: str, model: str, chats: Sequence[Chat], concurrent: int, max_tokens: int, tools: Sequence[Tool] = ()
) -> list[Answer]:
    """Ask every chat once, `concurrent` at a time, greedily and past any cache of answers; `tools` are the client's."""
    waiting = iter(chats)

    async def client(http: httpx.AsyncClient) -> list[Answer]:
        return [await ask(http, url, model, chat, max_tokens, tools) for chat in waiting]

    # A connection for each request: some servers close theirs without a word, and the next request on it would fail.
    limits = httpx.Limits(max_connections=concurrent, max_keepalive_connections=0)
    async with httpx.AsyncClient(timeout=300, limits=limits) as http:
        answered = await asyncio.gather(*(client(http) for _ in range(concurrent)))
    return [answer for answers in answered for answer in answers]


async def ask(
    http: httpx.AsyncClient, url: str, model: str, chat: Chat, max_tokens: int, tools: Sequence[Tool]
) -> Answer:
    """One streamed answer; a failure is an answer that did not end."""
    body: dict[str, Any] = {
        "model": model,
        "messages": chat,
        "max_tokens": max_tokens,
        "temperature": 0,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    if tools:
        body["tools"] = list(tools)
    answer = Answer(time.perf_counter())
    try:
        headers = {"cache-control": "no-cache"}
        async with http.stream("POST", url + "/chat/completions", json=body, headers=headers) as response:
            answer.status = response.status_code
            async for line in response.aiter_lines():
                if response.is_success and line.startswith("data: "):
                    _take(answer, line.removeprefix("data: "))
    except httpx.HTTPError:
        answer.status = 0
    answer.ended = answer.ended and bool(answer.chunks)
    return answer


def _take(answer: Answer, data: str) -> None:
    if data == "[DONE]":
        answer.ended = True
        return
    event = json.loads(data)
    deltas = [choice["delta"] for choice in event.get("choices", [])]
    if event.get("usage"):
        answer.tokens = event["usage"]["completion_tokens"]
        answer.prompt_tokens = event["usage"]["prompt_tokens"]
        # `transformers serve` closes without the word.
        answer.ended = True
    said, called = (any(delta.get(part) for delta in deltas) for part in ("content", "tool_calls"))
    answer.text += "".join(delta.get("content") or "" for delta in deltas)
    answer.calls |= called
    if said or called:
        answer.chunks.append(time.perf_counter())
