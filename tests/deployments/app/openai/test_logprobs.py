"""Log-probabilities in OpenAI's shape: those of the chosen tokens, the same whole and streamed."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tasks.engine.protocol import GenerationRequest
from tests.deployments.app.test_turn import CALL, ReplicaAssistant
from tests.support.scripted_engine import ScriptChunk, ScriptedEngine, logprob_of


def spells(text: str, base: Path, prompts: Path) -> ReplicaAssistant:
    """An assistant whose engine emits `text` byte by byte, by tokens of the tiny base, and then the end of turn."""

    def script(_: GenerationRequest) -> Iterator[ScriptChunk]:
        tokenizer = assistant.server._model.prompt.tokenizer
        ids = tokenizer.encode(text).ids
        sent = ""
        for index in range(len(ids)):
            whole = tokenizer.decode(ids[: index + 1])
            new = "" if whole.endswith("\N{REPLACEMENT CHARACTER}") else whole[len(sent) :]
            sent += new
            yield new, (ids[index],), None
        yield "", (assistant.server._model.prompt.end_of_turn,), "stop"

    assistant = ReplicaAssistant(ScriptedEngine(script), base, prompts)
    return assistant


@pytest.mark.parametrize("text", ["Grüße 🌱", f"Wait. {CALL}", " spaces "])
def test_the_tokens_of_a_stream_are_those_of_the_whole_answer(text: str, tiny_base: Path, tiny_prompts: Path) -> None:
    async def run() -> None:
        assistant = spells(text, tiny_base, tiny_prompts)
        whole: list[Any] = (await assistant.whole(logprobs=True, top_logprobs=0)).choices[0].logprobs.content
        assert b"".join(bytes(score.bytes) for score in whole) == text.encode()
        ids = assistant.server._model.prompt.tokenizer.encode(text).ids
        assert [score.logprob for score in whole] == [logprob_of(token) for token in ids]
        assert all(score.top_logprobs == [] for score in whole)
        chunks = await assistant.streamed(logprobs=True)
        assert [score for chunk in chunks for score in chunk.choices[0].logprobs.content] == whole

    asyncio.run(run())


def test_unless_asked_for_there_are_none(tiny_base: Path, tiny_prompts: Path) -> None:
    async def run() -> None:
        assistant = spells("ok", tiny_base, tiny_prompts)
        assert (await assistant.whole()).choices[0].logprobs is None
        assert all(chunk.choices[0].logprobs is None for chunk in await assistant.streamed(logprobs=False))
        assert [request.sampling.logprobs for request in assistant.engine.requests] == [False, False]

    asyncio.run(run())
