"""The endpoint `/v1/embeddings`: OpenAI's shape, the same keys, limits and rows, and no text truncated in silence.

Also covers `deployments/replicas/embedding.py`.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import numpy as np
import openai
import pytest

from deployments.app.routing.routing import Routing, ServedEmbedding
from deployments.replicas.embedding import EmbeddingServer
from tasks.core.settings import EmbeddingSettings
from tasks.embedding import bring_in
from tasks.retrieval.embedder import Embedder
from tests.conftest import embedding_source
from tests.deployments.app.test_turn import DIGEST, SERVED, PausableEngine, ReplicaAssistant

MODEL = ServedEmbedding(app="embedding", digest="e" * 64, name="tiny", dimensions=8, since=2)


def with_embedder(assistant: ReplicaAssistant, tiny_embedding: Path, folder: Path) -> ReplicaAssistant:
    """`assistant` with a retrieval model that reads 20 tokens."""
    settings = EmbeddingSettings(name="tiny", license="MIT", max_length=20, **embedding_source(tiny_embedding))
    bring_in(settings, folder / "embedding")
    assistant.backend.embedder = EmbeddingServer(Embedder(folder / "embedding", threads=1))
    assistant.turns.routing = Routing(production=DIGEST, served={DIGEST: SERVED}, embedding=MODEL)
    return assistant


@pytest.fixture
def assistant(tiny_base: Path, tiny_prompts: Path, tiny_embedding: Path, tmp_path: Path) -> ReplicaAssistant:
    return with_embedder(ReplicaAssistant(PausableEngine("ok"), tiny_base, tiny_prompts), tiny_embedding, tmp_path)


async def embed(assistant: ReplicaAssistant, inputs: Any, **options: Any) -> Any:
    async with assistant.client() as client:
        return await client.embeddings.create(**{"model": "tiny", "input": inputs, **options})


def test_texts_become_vectors_in_their_order_with_usage_and_a_row(assistant: ReplicaAssistant) -> None:
    async def run() -> None:
        texts = [f"text {number}" for number in range(40)]  # more than are computed together
        many = await embed(assistant, texts)  # the client asks for base64
        assert [item.index for item in many.data] == list(range(40))
        assert (many.model, many.usage.prompt_tokens) == (MODEL.digest, sum(map(len, texts)))
        one = await embed(assistant, texts[7], encoding_format="float", dimensions=8)
        assert np.allclose(many.data[7].embedding, one.data[0].embedding, atol=1e-6)
        assert np.isclose(np.linalg.norm(one.data[0].embedding), 1)
        assert not np.allclose(many.data[7].embedding, many.data[8].embedding)
        row = assistant.rows[-1]
        assert (row.operation, row.digest, row.prompt_tokens, row.completion_tokens) == (
            "embeddings",
            MODEL.digest,
            6,
            None,
        )

    asyncio.run(run())


@pytest.mark.parametrize(
    ("inputs", "options", "code", "param"),
    [
        (["fits", "x" * 21], {}, "context_length_exceeded", "input"),
        ("", {}, "invalid_value", "input"),
        ([], {}, "invalid_value", "input"),
        ([1, 2], {}, "invalid_value", "input"),
        ("a", {"dimensions": 4}, "invalid_value", "dimensions"),
        ("a", {"encoding_format": "hex"}, "invalid_value", "encoding_format"),
    ],
)
def test_what_cannot_be_embedded_is_400(
    inputs: Any, options: dict[str, Any], code: str, param: str, assistant: ReplicaAssistant
) -> None:
    async def run() -> None:
        with pytest.raises(openai.BadRequestError) as error:
            await embed(assistant, inputs, **options)
        assert (error.value.code, error.value.param) == (code, param)
        assert (assistant.rows[-1].status, assistant.rows[-1].error) == (400, code)

    asyncio.run(run())


def test_it_is_listed_and_only_it_embeds(assistant: ReplicaAssistant) -> None:
    async def run() -> None:
        async with assistant.client() as client:
            assert [model.id async for model in client.models.list()] == [DIGEST, MODEL.digest]
            assert (await client.models.retrieve("tiny")).created == MODEL.since
        with pytest.raises(openai.NotFoundError):
            await embed(assistant, "a", model="production")
        with pytest.raises(openai.NotFoundError):
            await assistant.whole(model="tiny")
        assistant.turns.routing = Routing(production=DIGEST, served={DIGEST: SERVED})
        with pytest.raises(openai.NotFoundError) as error:
            await embed(assistant, "a")
        assert error.value.code == "model_not_found"

    asyncio.run(run())


def test_keys_and_limits_hold(assistant: ReplicaAssistant) -> None:
    async def run() -> None:
        before = assistant.turns.limits
        await embed(assistant, "a")
        (account,) = before._accounts.values()
        assert (account.open, round(account.requests.level)) == (0, 999)
        assistant.turns.body_bytes = 50
        with pytest.raises(openai.APIStatusError) as error:
            await embed(assistant, "x" * 50)
        assert error.value.status_code == 413

    asyncio.run(run())
