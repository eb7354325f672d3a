"""Log-probabilities in OpenAI's shape: the chosen tokens', whole and streamed alike."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tasks.engine.protocol import GenerationRequest
from tests.deployments.app.test_turn import CALL, Desk
from tests.support.scripted_engine import ScriptChunk, ScriptedEngine, logprob_of


def spells(text: str, base: Path, prompts: Path) -> Desk:
    """A desk whose engine gives `text` byte by byte, by tokens of the tiny base, and then the end of turn."""

    def script(_: GenerationRequest) -> Iterator[ScriptChunk]:
        tokenizer = desk.server._model.prompt.tokenizer
        ids = tokenizer.encode(text).ids
        sent = ""
        for place in range(len(ids)):
            whole = tokenizer.decode(ids[: place + 1])
            new = "" if whole.endswith("\N{REPLACEMENT CHARACTER}") else whole[len(sent) :]
            sent += new
            yield new, (ids[place],), None
        yield "", (desk.server._model.prompt.end_of_turn,), "stop"

    desk = Desk(ScriptedEngine(script), base, prompts)
    return desk


@pytest.mark.parametrize("text", ["Grüße 🌱", f"Wait. {CALL}", " spaces "])
def test_the_tokens_of_a_stream_are_those_of_the_whole_answer(text: str, tiny_base: Path, tiny_prompts: Path) -> None:
    async def run() -> None:
        desk = spells(text, tiny_base, tiny_prompts)
        whole: list[Any] = (await desk.whole(logprobs=True, top_logprobs=0)).choices[0].logprobs.content
        assert b"".join(bytes(score.bytes) for score in whole) == text.encode()
        ids = desk.server._model.prompt.tokenizer.encode(text).ids
        assert [score.logprob for score in whole] == [logprob_of(token) for token in ids]
        assert all(score.top_logprobs == [] for score in whole)
        chunks = await desk.streamed(logprobs=True)
        assert [score for chunk in chunks for score in chunk.choices[0].logprobs.content] == whole

    asyncio.run(run())


def test_unless_asked_for_there_are_none(tiny_base: Path, tiny_prompts: Path) -> None:
    async def run() -> None:
        desk = spells("ok", tiny_base, tiny_prompts)
        assert (await desk.whole()).choices[0].logprobs is None
        assert all(chunk.choices[0].logprobs is None for chunk in await desk.streamed(logprobs=False))
        assert [request.sampling.logprobs for request in desk.engine.requests] == [False, False]

    asyncio.run(run())
