"""Closed-loop clients for streamed chat, with throughput, first-token time and inter-token latency.

They time every content chunk as it arrives; the number of tokens is that of the server's usage.
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
"""The schema of a tool, in OpenAI's format."""


@dataclass
class Answer:
    """One streamed answer."""

    sent: float
    """When the request was sent, in seconds of the monotonic clock."""
    chunks: list[float] = field(default_factory=list)
    """When each content chunk arrived, in seconds of the same clock."""
    tokens: int = 0
    """Tokens of the answer."""
    prompt_tokens: int = 0
    """Tokens of the prompt."""
    status: int = 200
    """HTTP status; 0 if the connection failed."""
    ended: bool = False
    """Whether the stream was complete."""
    text: str = ""
    """Text of the answer."""
    calls: bool = False
    """Whether it has tool calls as OpenAI sends them."""

    @property
    def is_call(self) -> bool:
        """Whether it is a tool call, in either format that servers use."""
        return self.calls or self.text.lstrip().startswith("<tool_call>")


@dataclass(frozen=True)
class LatencyMetrics:
    """Throughput and latency of one measured run."""

    tok_s: float
    """Throughput over the whole run, in tokens per second."""
    ttft_p50: float
    """First-token time, median, in ms."""
    ttft_p95: float
    """First-token time, 95th percentile, in ms."""
    itl_p50: float
    """Inter-token latency, median over answers, in ms."""
    itl_p95: float
    """Inter-token latency, 95th percentile over answers, in ms."""
    tokens: int
    """Generated tokens."""
    seconds: float
    """Duration of the run, in seconds."""


def latency_metrics(answers: Sequence[Answer]) -> LatencyMetrics:
    """Throughput and latency over complete answers.

    Tool calls count for the throughput alone: some servers stream them token by token, others send them complete.

    Raises:
        ValueError: an answer failed, or all are tool calls.
    """
    broken = [answer for answer in answers if not answer.ended]
    if broken:
        raise ValueError(f"{len(broken)} of {len(answers)} answers failed; the first with status {broken[0].status}")
    seconds = max(a.chunks[-1] for a in answers) - min(a.sent for a in answers)
    texts = [a for a in answers if not a.is_call]
    if not texts:
        raise ValueError(f"all {len(answers)} answers are tool calls, whose latency is not comparable")
    first = [(a.chunks[0] - a.sent) * 1000 for a in texts]
    between = [(a.chunks[-1] - a.chunks[0]) * 1000 / (a.tokens - 1) for a in texts if a.tokens > 1]
    tokens = sum(a.tokens for a in answers)
    return LatencyMetrics(
        tok_s=tokens / seconds,
        ttft_p50=quantile(first, 0.5),
        ttft_p95=quantile(first, 0.95),
        itl_p50=quantile(between, 0.5),
        itl_p95=quantile(between, 0.95),
        tokens=tokens,
        seconds=seconds,
    )


def quantile(values: Sequence[float], fraction: float) -> float:
    """The value below which `fraction` of `values` lie."""
    if len(values) < 2:
        return values[0]
    return statistics.quantiles(values, n=100, method="inclusive")[round(fraction * 100) - 1]


async def drive(
    url: str, model: str, chats: Sequence[Chat], concurrent: int, max_tokens: int, tools: Sequence[Tool] = ()
) -> list[Answer]:
    """Send every chat once, greedily, bypassing any cache of answers.

    Args:
        url: base URL of the OpenAI API.
        model: model id.
        chats: messages of each request.
        concurrent: number of concurrent requests.
        max_tokens: maximum tokens of an answer.
        tools: the client's tools.
    """
    waiting = iter(chats)

    async def client(http: httpx.AsyncClient) -> list[Answer]:
        return [await complete(http, url, model, chat, max_tokens, tools) for chat in waiting]

    # A connection for each request: some servers close theirs silently, and the next request on it would fail.
    limits = httpx.Limits(max_connections=concurrent, max_keepalive_connections=0)
    async with httpx.AsyncClient(timeout=300, limits=limits) as http:
        answered = await asyncio.gather(*(client(http) for _ in range(concurrent)))
    return [answer for answers in answered for answer in answers]


async def complete(
    http: httpx.AsyncClient, url: str, model: str, chat: Chat, max_tokens: int, tools: Sequence[Tool]
) -> Answer:
    """Send one request and time its stream; a failure is an answer that did not end.

    Args:
        http: HTTP client.
        url: base URL of the OpenAI API.
        model: model id.
        chat: messages of the request.
        max_tokens: maximum tokens of the answer.
        tools: the client's tools.
    """
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
                    _add_event(answer, line.removeprefix("data: "))
    except httpx.HTTPError:
        answer.status = 0
    answer.ended = answer.ended and bool(answer.chunks)
    return answer


def _add_event(answer: Answer, data: str) -> None:
    if data == "[DONE]":
        answer.ended = True
        return
    event = json.loads(data)
    deltas = [choice["delta"] for choice in event.get("choices", [])]
    if event.get("usage"):
        answer.tokens = event["usage"]["completion_tokens"]
        answer.prompt_tokens = event["usage"]["prompt_tokens"]
        # `transformers serve` closes the stream without `[DONE]`.
        answer.ended = True
    has_text, has_call = (any(delta.get(part) for delta in deltas) for part in ("content", "tool_calls"))
    answer.text += "".join(delta.get("content") or "" for delta in deltas)
    answer.calls |= has_call
    if has_text or has_call:
        answer.chunks.append(time.perf_counter())
