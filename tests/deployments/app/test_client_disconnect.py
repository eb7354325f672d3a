"""What is told and charged of an answer whose client hung up: the tokens that came until then."""

from __future__ import annotations

import asyncio
import json
import threading
from pathlib import Path
from typing import Any

from deployments.app.access.rate_limits import RateLimits
from tasks.engine.protocol import TokenChunk
from tests.deployments.app.test_turn import ASK, Desk
from tests.support.assistant_in_process import LIMITS
from tests.support.scripted_engine import ScriptedEngine, says


class Stepped(ScriptedEngine):
    """Takes so many steps and then no more, until it is let go."""

    def __init__(self, steps: int) -> None:
        super().__init__(says("Yes, so.\nA long answer that nobody waits for"))
        self.may_step = threading.Semaphore(steps)

    def step(self) -> list[TokenChunk]:
        assert self.may_step.acquire(timeout=30)
        return super().step()


async def hang_up(desk: Desk, after: str) -> None:
    """Ask for a stream, and leave once `after` is in what came of it."""
    seen = ""
    left = asyncio.Event()
    body = json.dumps({"model": "production", "messages": ASK, "stream": True}).encode()
    arrived = [{"type": "http.request", "body": body}]

    async def receive() -> dict[str, Any]:
        if arrived:
            return arrived.pop()
        await left.wait()
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        nonlocal seen
        seen += message.get("body", b"").decode()
        if after in seen:
            left.set()

    scope = {
        "type": "http",
        "method": "POST",
        "path": "/v1/chat/completions",
        "raw_path": b"/v1/chat/completions",
        "query_string": b"",
        "headers": [],
        "asgi": {"version": "3.0", "spec_version": "2.3"},
    }
    await desk.app(scope, receive, send)  # type: ignore[arg-type]


def test_a_stream_cut_short_counts_the_tokens_that_came(tiny_base: Path, tiny_prompts: Path) -> None:
    async def run() -> None:
        desk = Desk(Stepped(3), tiny_base, tiny_prompts)
        desk.turns.limits = RateLimits(LIMITS, clock=lambda: 0.0)  # nothing flows back meanwhile
        await hang_up(desk, after="so.")  # a sentence, which the third piece ends
        desk.engine.may_step.release(100)
        (row,) = desk.rows
        (account,) = desk.turns.limits._accounts.values()
        assert (row.status, row.completion_tokens) == (499, 3)
        assert row.prompt_tokens == len(desk.engine.requests[0].prompt_ids)
        assert account.tokens.level == LIMITS.tokens_per_minute - row.prompt_tokens - 3

    asyncio.run(run())
