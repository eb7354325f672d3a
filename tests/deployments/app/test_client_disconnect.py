"""A client's disconnect: telemetry and rate limits count the tokens that the answer had until then."""

from __future__ import annotations

import asyncio
import json
import threading
from pathlib import Path
from typing import Any

from deployments.app.access.rate_limits import RateLimits
from tasks.engine.protocol import TokenChunk
from tests.deployments.app.test_turn import ASK, ReplicaAssistant
from tests.support.assistant_in_process import LIMITS
from tests.support.scripted_engine import ScriptedEngine, says


class SteppedEngine(ScriptedEngine):
    """Takes `steps` steps and then no more, until it is released."""

    def __init__(self, steps: int) -> None:
        super().__init__(says("Yes, so.\nA long answer that no one waits for"))
        self.may_step = threading.Semaphore(steps)

    def step(self) -> list[TokenChunk]:
        assert self.may_step.acquire(timeout=30)
        return super().step()


async def hang_up(assistant: ReplicaAssistant, after: str) -> None:
    """Requests a stream, and disconnects once `after` is in what came of it."""
    seen = ""
    disconnected = asyncio.Event()
    body = json.dumps({"model": "production", "messages": ASK, "stream": True}).encode()
    arrived = [{"type": "http.request", "body": body}]

    async def receive() -> dict[str, Any]:
        if arrived:
            return arrived.pop()
        await disconnected.wait()
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        nonlocal seen
        seen += message.get("body", b"").decode()
        if after in seen:
            disconnected.set()

    scope = {
        "type": "http",
        "method": "POST",
        "path": "/v1/chat/completions",
        "raw_path": b"/v1/chat/completions",
        "query_string": b"",
        "headers": [(b"content-type", b"application/json")],
        "asgi": {"version": "3.0", "spec_version": "2.3"},
    }
    await assistant.app(scope, receive, send)  # type: ignore[arg-type]


def test_a_stream_cut_short_counts_the_tokens_that_came(tiny_base: Path, tiny_prompts: Path) -> None:
    async def run() -> None:
        assistant = ReplicaAssistant(SteppedEngine(3), tiny_base, tiny_prompts)
        assistant.turns.limits = RateLimits(LIMITS, clock=lambda: 0.0)  # nothing flows back meanwhile
        await hang_up(assistant, after="so.")  # a sentence, which the third chunk ends
        assistant.engine.may_step.release(100)
        (row,) = assistant.rows
        (account,) = assistant.turns.limits._accounts.values()
        assert (row.status, row.completion_tokens) == (499, 3)
        assert row.prompt_tokens == len(assistant.engine.requests[0].prompt_ids)
        assert account.tokens.level == LIMITS.tokens_per_minute - row.prompt_tokens - 3

    asyncio.run(run())
